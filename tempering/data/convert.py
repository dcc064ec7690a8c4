"""From a recognised row to a `Record`: one converter for each way of giving feedback.

Prompt and answer are cut so that the response begins with the first turn that is trained: in a conversation the first assistant turn, in a pair the
first assistant turn in which the two differ. What a row has beyond its shape's fields is kept in `Record.tags`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tempering.data.messages import is_transcript, label_of, maybe_json, messages_of, number_of, text_of, tools_of
from tempering.data.place import Place, quote
from tempering.types import Message, Record, Response

Row = Mapping[str, Any]
Fields = Mapping[str, str]
Turns = tuple[Message, ...]

JOIN = "\n\n"
"""Between an instruction and its input."""
UNTRAINED = "untrained"
"""Tag: indices (over prompt and response) of assistant turns that the data itself gives weight 0."""
STEPS, STEP_LABELS = "steps", "step_labels"
"""Tags of an answer whose steps are labelled: their texts, and the chance that each is right."""
SCORES = ("score", "overall_score", "reward", "rating")
TEXTS = ("response", "text", "content", "completion", "output", "answer", "value")


def conversation(row: Row, fields: Fields, where: Place) -> Record:
    """A list of turns: the prompt ends before the first assistant turn."""
    turns, untrained = messages_of(row[fields["messages"]], fields["messages"], where)
    turns, shift = _with_system(turns, row, fields, where)
    cut = next((i for i, m in enumerate(turns) if m.role == "assistant"), None)
    if cut is None:
        raise where.error(
            "the conversation has no assistant turn, so there is nothing to train; add the answer, or read prompts only with shape=prompt",
            "no_assistant",
        )
    extra = {UNTRAINED: tuple(i + shift for i in untrained if turns[i + shift].role == "assistant")}
    return _record(row, fields, where, turns[:cut], (Response(turns[cut:]),), tags=extra if extra[UNTRAINED] else {})


def completion(row: Row, fields: Fields, where: Place) -> Record:
    """A prompt and its one answer."""
    prompt = _prompt(row, fields, where)
    return _record(row, fields, where, prompt, (Response(_answer(row[fields["completion"]], fields["completion"], where)),))


def pair(row: Row, fields: Fields, where: Place) -> Record:
    """A preferred and a rejected answer, with the prompt given or found as their common beginning."""
    prompt = _prompt(row, fields, where) if "prompt" in fields else None
    sides = [_side(row[fields[name]], fields[name], prompt, where) for name in ("chosen", "rejected")]
    if prompt is None:
        sides = [_with_system(side, row, fields, where)[0] for side in sides]
    a, b = sides
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    cut = min(same, len(a) - 1, len(b) - 1)
    while cut >= 0 and not (a[cut].role == b[cut].role == "assistant"):
        cut -= 1
    if cut < 0:
        raise where.error(
            f'"{fields["chosen"]}" and "{fields["rejected"]}" never answer the same prompt with an assistant turn; '
            "give both the same prompt and let each end with the assistant's answer",
            "no_assistant",
        )
    scores = [_pair_score(row, name, where) for name in ("chosen", "rejected")]
    responses = tuple(Response(side[cut:], score) for side, score in zip(sides, scores, strict=True))
    return _record(row, fields, where, a[:cut], responses, better=((0, 1),))


def unpaired(row: Row, fields: Fields, where: Place) -> Record:
    """An answer with a label, desirable or not."""
    label = label_of(row[fields["label"]], fields["label"], where)
    if "messages" not in fields:
        prompt, answer = _prompt(row, fields, where), _answer(row[fields["completion"]], fields["completion"], where)
        return _record(row, fields, where, prompt, (Response(answer, label=label),))
    turns, _ = messages_of(row[fields["messages"]], fields["messages"], where)
    turns, _ = _with_system(turns, row, fields, where)
    if turns[-1].role != "assistant":
        raise where.error(
            "the labelled conversation does not end with an assistant turn; the label speaks of the last answer, so add it", "no_assistant"
        )
    return _record(row, fields, where, turns[:-1], (Response(turns[-1:], label=label),))


def rated(row: Row, fields: Fields, where: Place) -> Record:
    """A prompt and its rated answers; better ones are preferred to worse ones."""
    prompt = _prompt(row, fields, where)
    if "completion" in fields:
        name = fields["completion"]
        answer = _answer(row[name], name, where)
        return _record(row, fields, where, prompt, (Response(answer, number_of(row[fields["score"]], fields["score"], where)),))
    name = fields["responses"]
    items = maybe_json(row[name])
    scores = maybe_json(row[fields["scores"]]) if "scores" in fields else None
    if not items:
        raise where.error(f'field "{name}" is an empty list; a rated record needs at least one answer', "no_turns")
    if scores is not None and len(scores) != len(items):
        raise where.error(f'"{name}" has {len(items)} answers but "{fields["scores"]}" {len(scores)} scores; give one score for each answer', "score")
    responses = []
    for i, item in enumerate(items):
        score = number_of(scores[i], f"{fields['scores']}[{i}]", where) if scores is not None else None
        responses.append(_rated_one(item, f"{name}[{i}]", score, where))
    return _record(row, fields, where, prompt, tuple(responses))


def stepwise(row: Row, fields: Fields, where: Place) -> Record:
    """The steps of an answer, a line each, with a label for each: true, false, or the chance from 0 to 1 that the step is right."""
    name, labelled = fields["steps"], fields["labels"]
    steps = [text_of(step, f"{name}[{i}]", where) for i, step in enumerate(maybe_json(row[name]))]
    given = maybe_json(row[labelled])
    if not steps or len(given) != len(steps) or not all(map(str.strip, steps)):
        raise where.error(
            f'"{name}" has {len(steps)} steps and "{labelled}" {len(given)} labels; give at least one step, none empty, a label each', "label"
        )
    labels = [float(label) if isinstance(label, bool) else number_of(label, f"{labelled}[{i}]", where) for i, label in enumerate(given)]
    if odd := [i for i, label in enumerate(labels) if not 0 <= label <= 1]:
        raise where.error(f'"{labelled}[{odd[0]}]" is {quote(given[odd[0]])}; a step\'s label is true, false or a chance from 0 to 1', "label")
    response = Response((Message("assistant", "\n".join(steps)),))
    return _record(row, fields, where, _prompt(row, fields, where), (response,), tags={STEPS: tuple(steps), STEP_LABELS: tuple(labels)})


def plain(row: Row, fields: Fields, where: Place) -> Record:
    """A text without turns."""
    text = text_of(row[fields["text"]], fields["text"], where)
    return _record(row, fields, where, (), (Response((Message("text", text),)),))


def prompt_only(row: Row, fields: Fields, where: Place) -> Record:
    """A prompt without any answer."""
    return _record(row, fields, where, _prompt(row, fields, where), ())


def _record(
    row: Row, fields: Fields, where: Place, prompt: Turns, responses: tuple[Response, ...], *, better: Any = (), tags: Mapping[str, Any] | None = None
) -> Record:
    used = set(fields.values())
    key = next((row[k] for k in ("id", "prompt_id", "uuid", "_id") if isinstance(row.get(k), (str, int)) and k not in used), None)
    rest = {k: v for k, v in row.items() if k not in used and v is not None}
    tools = tools_of(row[fields["tools"]], where) if "tools" in fields else ()
    return Record(prompt, responses, better, where.source if key is None or key == "" else str(key), where.source, rest | dict(tags or {}), tools)


def _with_system(turns: Turns, row: Row, fields: Fields, where: Place) -> tuple[Turns, int]:
    """Put a system field in front; returns the turns and how far they moved."""
    system = text_of(row[fields["system"]], fields["system"], where) if "system" in fields else ""
    if not system:
        return turns, 0
    if turns and turns[0].role == "system":
        raise where.error(f'field "{fields["system"]}" and the first turn are both system prompts; remove one of them', "two_systems")
    return (Message("system", system), *turns), 1


def _prompt(row: Row, fields: Fields, where: Place) -> Turns:
    name = fields["prompt"]
    value = maybe_json(row[name]) if not isinstance(row[name], str) or row[name].lstrip()[:2] in ("[{", "[ ") else row[name]
    if not isinstance(value, str):
        turns, _ = messages_of(value, name, where)
    elif is_transcript(value):
        turns, _ = messages_of(value, name, where)
        if turns[-1].role == "assistant" and not turns[-1].content:
            turns = turns[:-1]
    else:
        text = text_of(value, name, where)
        before = text_of(row[fields["first"]], fields["first"], where) if "first" in fields else ""
        after = text_of(row[fields["context"]], fields["context"], where) if "context" in fields else ""
        turns = (Message("user", JOIN.join(filter(None, (before, text, after)))),)
    if "history" in fields:
        turns = _history(row[fields["history"]], fields["history"], where) + turns
    return _with_system(turns, row, fields, where)[0]


def _history(value: Any, name: str, where: Place) -> Turns:
    turns: list[Message] = []
    for i, said in enumerate(maybe_json(value)):
        if not isinstance(said, Sequence) or isinstance(said, str) or len(said) != 2:
            raise where.error(f'"{name}[{i}]" must be a [question, answer] pair, but is {quote(said)}; write the two texts')
        turns += [Message("user", text_of(said[0], f"{name}[{i}]", where)), Message("assistant", text_of(said[1], f"{name}[{i}]", where))]
    return tuple(turns)


def _answer(value: Any, name: str, where: Place) -> Turns:
    """The turns of an answer: a string is one assistant turn, a list must begin with one."""
    if isinstance(value, str):
        return (Message("assistant", text_of(value, name, where)),)
    turns, _ = messages_of(value, name, where)
    if turns[0].role != "assistant":
        raise where.error(
            f'field "{name}" begins with a {turns[0].role} turn, but an answer begins with an assistant turn; move it to the prompt', "no_assistant"
        )
    return turns


def _side(value: Any, name: str, prompt: Turns | None, where: Place) -> Turns:
    """One side of a pair as a whole conversation, prompt included."""
    if isinstance(value, str) and not is_transcript(value):
        if prompt is None:
            raise where.error(
                f'field "{name}" is a plain string and there is no prompt; add "prompt", or write turns ("\\n\\nHuman: ...\\n\\nAssistant: ...")',
                "no_shape",
            )
        return (*prompt, Message("assistant", text_of(value, name, where)))
    turns, _ = messages_of(value, name, where)
    if prompt is None:
        return turns
    if turns[0].role == "assistant":
        return (*prompt, *turns)
    said = [m for m in prompt if m.role != "system"]
    own = [m for m in turns if m.role != "system"]
    if own[: len(said)] != said:
        raise where.error(
            f'field "{name}" is a whole conversation that does not begin with the prompt; remove the prompt field or make the two agree', "mixed"
        )
    if prompt[0].role == "system" and turns[0].role != "system":
        return (prompt[0], *turns)
    return turns


def _pair_score(row: Row, side: str, where: Place) -> float | None:
    inner = row.get("metadata")
    for box in (row, inner if isinstance(inner, Mapping) else {}):
        for key in (f"score_{side}", f"{side}_score", f"{side}-rating", f"{side}_rating"):
            if box.get(key) is not None:
                return number_of(box[key], key, where)
    return None


def _rated_one(item: Any, name: str, score: float | None, where: Place) -> Response:
    if not isinstance(item, Mapping):
        if score is None:
            raise where.error(f'"{name}" has no score; write {{"response": "...", "score": 4}} or add a list "scores"', "score")
        return Response(_answer(item, name, where), score)
    key = next((k for k in TEXTS if item.get(k) is not None), None)
    if key is None:
        raise where.error(f'"{name}" has no text; its fields are {quote(list(item))}; write {{"response": "...", "score": 4}}')
    rating = next((k for k in SCORES if item.get(k) is not None), None)
    if score is None and rating is not None:
        score = number_of(item[rating], f"{name}.{rating}", where)
    aspects = {}
    for box in ("aspects", "annotations", "ratings"):
        for aspect, value in (item.get(box) or {}).items() if isinstance(item.get(box), Mapping) else ():
            value = value.get("Rating", value.get("rating")) if isinstance(value, Mapping) else value
            # "N/A" is how UltraFeedback writes an aspect that was not rated
            if value not in (None, "N/A"):
                aspects[str(aspect)] = number_of(value, f"{name}.{box}.{aspect}", where)
    if score is None and not aspects:
        raise where.error(f'"{name}" has no score; write {{"response": "...", "score": 4}} or add a list "scores"', "score")
    return Response(_answer(item[key], f"{name}.{key}", where), score, aspects=aspects)
