"""Messages to tokens with an exact loss mask, through the model's own chat template.

What an assistant turn is made of (the answer and the end-of-turn token the model must learn to emit) is known to the template alone. Templates with
`{% generation %}` markers say it. For the others it is found by differences: the conversation is rendered cut before the turn with the generation
prompt, which is what the model sees at inference, and cut after it; both must be prefixes of the full rendering, in text and in tokens. What lies
between is trained. Where that does not hold (a template that rewrites earlier turns, a token that straddles the boundary) the mask would be a guess,
and the turn is refused by name.

Trained: the answer, and the end-of-turn token. Not trained: white space that the template writes after the end-of-turn token (ChatML's newline),
which the model never has to produce; the first token of a segment, which nothing predicts.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np

from tempering.data.place import DataError, quote
from tempering.errors import UserError
from tempering.types import Message, Segment

Trained = Callable[[int], bool]
Boundary = Literal["refuse", "split"]
MARKER = re.compile(r"\{%-?\+?\s*generation\s*-?%\}")

PLAIN = """{%- for message in messages -%}
{%- if message['role'] == 'system' -%}{{ message['content'] + '\\n\\n' }}
{%- elif message['role'] == 'user' -%}{{ 'User: ' + message['content'] + '\\n\\n' }}
{%- elif message['role'] == 'assistant' -%}{{ 'Assistant: ' + message['content'] + eos_token + '\\n\\n' }}
{%- else -%}{{ raise_exception('the plain template knows system, user and assistant turns only') }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}"""
"""For base models: "User: ...", "Assistant: ..." with the tokenizer's EOS after each answer. Must be chosen by name, never a silent fallback."""


def render(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    trained: Trained | None,
    tools: Sequence[Mapping[str, Any]] = (),
    source: str = "",
    boundary: Boundary = "refuse",
) -> Segment:
    """One conversation as a segment whose weights are 1 on what is trained.

    Arguments:
        tokenizer: a Hugging Face tokenizer; its chat template is used, except for messages of role "text".
        messages: the conversation; or messages of role "text", which are joined, with BOS by the tokenizer's convention and EOS, all trained.
        trained: index of a turn -> whether it is trained; None trains nothing. If it holds for every turn of a conversation that is not the
            assistant's alone, the whole rendering is trained, headers included.
        tools: JSON schemas for the template.
        source: the record's source, for errors and `Segment.source`.
        boundary: what to do if a token straddles the start or end of a trained span: "refuse", or "split" the text there and tokenise both sides
            alone, which is what the model sees at inference.

    Raises DataError, naming source and turn, when the template is missing or refuses the conversation, or the mask is ambiguous.
    """
    if not messages:
        raise _error(source, "there are no messages to render; a record needs at least one turn", "no_turns")
    if any(m.role == "text" for m in messages):
        if not all(m.role == "text" for m in messages):
            raise _error(source, 'plain text and chat turns are mixed in one record; give "text" messages a record of their own', "mixed")
        return text_segment(tokenizer, "".join(m.content for m in messages), weight=0.0 if trained is None else 1.0, source=source)
    chosen = [i for i in range(len(messages)) if trained is not None and trained(i)]
    text = _text(tokenizer, messages, tools, source)
    _all_there(tokenizer, messages, tools, text, source)
    if len(chosen) == len(messages) and any(m.role != "assistant" for m in messages):
        ids = encode(tokenizer, [text])[0]
        return segment(ids, np.ones(len(ids), np.float32), source)
    spans = _spans(tokenizer, messages, tools, chosen, text, source)
    ids, weight = (_split if boundary == "split" else _exact)(tokenizer, text, spans, messages, source)
    return segment(ids, weight, source)


def prompt_ids(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
    """Token ids of a prompt as at inference: the template with its generation prompt; "text" messages with BOS by convention and no EOS."""
    front = convention(tokenizer)[0] if _is_text(messages) else []
    return front + encode(tokenizer, [prompt_text(tokenizer, messages, tools)])[0]


def prompt_text(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
    """The text that `prompt_ids` makes ids of."""
    return "".join(m.content for m in messages) if _is_text(messages) else _text(tokenizer, messages, tools, "prompt", answer=True)


def _is_text(messages: Sequence[Message]) -> bool:
    return bool(messages) and all(m.role == "text" for m in messages)


def with_template(tokenizer: Any, template: str) -> Any:
    """A copy of the tokenizer with another chat template: "plain", a path to a Jinja file, or the template's text.

    Base models have no template, and their users must choose one: "plain" is the documented default choice.
    Raises UserError for a path that cannot be read, or "plain" on a tokenizer without an EOS token.
    """
    if template == "plain":
        if tokenizer.eos_token is None:
            raise UserError(
                "the plain template ends answers with the EOS token, but this tokenizer has none; set tokenizer.eos_token, or give a template."
            )
        front, _ = convention(tokenizer)
        template = ("{{- bos_token -}}" if front and front[0] == tokenizer.bos_token_id else "") + PLAIN
    elif "{" not in template:
        try:
            template = Path(template).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f'template "{template}" is neither "plain" nor a readable Jinja file ({error}); give one of these.') from None
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


def segment(ids: Sequence[int] | np.ndarray, weight: np.ndarray, source: str, extras: Mapping[str, Any] | None = None) -> Segment:
    """A `Segment`; the weight of its first token is set to 0, because nothing predicts it."""
    weight = np.array(weight, np.float32)
    weight[:1] = 0.0
    return Segment(np.asarray(ids, np.int32), weight, extras or {}, source)


def text_segment(tokenizer: Any, text: str, *, weight: float = 1.0, begins: bool = True, ends: bool = True, source: str = "") -> Segment:
    """Plain text: BOS by the tokenizer's convention if it `begins` a document, EOS if it `ends` one; every token but the first has the weight."""
    front, back = convention(tokenizer)
    ids = (front if begins else []) + encode(tokenizer, [text])[0] + (back if ends else [])
    return segment(ids, np.full(len(ids), weight, np.float32), source)


def encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids without special tokens added: templates write their own."""
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"] if texts else []


def convention(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer itself puts around a text, and EOS at the end even if it does not."""
    bare, full = encode(tokenizer, ["a"])[0], list(tokenizer("a")["input_ids"])
    at = next((i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare), 0)
    front, back = full[:at], full[at + len(bare) :]
    eos = tokenizer.eos_token_id
    return front, back if eos is None or eos in back else [*back, eos]


def has_template(tokenizer: Any) -> bool:
    """Whether the tokenizer brings a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def _error(source: str, sentence: str, code: str) -> DataError:
    return DataError(f"{source or 'record'}: {sentence}", code=code, source=source)


def _dicts(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as templates read them; absent fields stay absent, because some templates print None."""
    return [
        {"role": m.role, "content": m.content}
        | ({"tool_calls": [dict(c) for c in m.tool_calls]} if m.tool_calls else {})
        | ({"name": m.name} if m.name else {})
        for m in messages
    ]


def _template(tokenizer: Any, tools: Sequence[Any], source: str) -> str:
    if not has_template(tokenizer):
        raise _error(
            source,
            "the tokenizer has no chat template (a base model); use the instruct model, or choose a template by name: "
            'template=plain (--template plain; in Python with_template(tokenizer, "plain")) or a Jinja file',
            "no_template",
        )
    return tokenizer.get_chat_template(None, list(tools) or None)


def _text(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Any], source: str, *, answer: bool = False) -> str:
    _template(tokenizer, tools, source)
    try:
        return tokenizer.apply_chat_template(_dicts(messages), tools=list(tools) or None, add_generation_prompt=answer, tokenize=False)
    except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
        roles = ", ".join(m.role for m in messages)
        raise _error(
            source,
            f"the model's chat template refuses the turns ({roles}): {str(error)[:200]}; change the record or leave it out",
            "template_refuses",
        ) from None


def _marked(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Any], template: str) -> list[tuple[int, int]]:
    """Character spans inside {% generation %} markers, one for each assistant turn."""
    from transformers.utils.chat_template_utils import render_jinja_template

    _, indices = render_jinja_template(
        conversations=[_dicts(messages)],
        tools=list(tools) or None,
        chat_template=template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    return [(int(a), int(b)) for a, b in indices[0]]


def _all_there(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Any], text: str, source: str) -> None:
    """Refuse what the template drops in silence: tool schemas and tool calls."""
    if tools and _text(tokenizer, messages, (), source) == text:
        raise _error(
            source,
            "the record has tools, but the model's chat template does not show them; remove the tools, or use a model that is made for them",
            "tools_ignored",
        )
    for index, message in enumerate(messages):
        for call in message.tool_calls:
            if str(call["function"]["name"]) not in text:
                raise _error(
                    source,
                    f"turn {index} ({message.role}) calls the tool {quote(call['function']['name'])}, but the model's chat template does not write "
                    "tool calls; write the call into the content, or use a model that is made for tools",
                    "tools_ignored",
                )


def _spans(
    tokenizer: Any, messages: Sequence[Message], tools: Sequence[Any], chosen: list[int], text: str, source: str
) -> list[tuple[int, int, int]]:
    """(turn, start, end) in characters of the full rendering, for each chosen turn, in order."""
    if not chosen:
        return []
    template = _template(tokenizer, tools, source)
    marks: dict[int, tuple[int, int]] = {}
    if MARKER.search(template):
        turns = [i for i, m in enumerate(messages) if m.role == "assistant"]
        found = _marked(tokenizer, messages, tools, template)
        if len(found) != len(turns):
            raise _error(
                source,
                f"the template's generation markers show {len(found)} answers, but the conversation has {len(turns)} assistant turns; mend the "
                "template, or remove its markers",
                "mask_ambiguous",
            )
        marks = dict(zip(turns, found, strict=True))
    spans = []
    for i in chosen:
        start, end = marks[i] if i in marks else _difference(tokenizer, messages, tools, i, text, source)
        end = _trim(tokenizer, text, start, end)
        if _squeeze(_said(messages[i].content)) not in _squeeze(text[start:end]):
            raise _error(
                source,
                f"the template does not write turn {i} ({messages[i].role}) as it is in the data; remove the record or change the turn",
                "mask_ambiguous",
            )
        spans.append((i, start, end))
    return spans


def _difference(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Any], i: int, text: str, source: str) -> tuple[int, int]:
    """The span of turn i by prefix differences; refused where the prefixes are none."""
    turn = f"turn {i} ({messages[i].role})"
    after = _text(tokenizer, messages[: i + 1], tools, source)
    if not text.startswith(after):
        raise _error(
            source,
            f"the chat template writes {turn} differently once the conversation goes on, so that no exact mask exists for it; "
            'train on the last turn only (train_on="last") or on each turn in a segment of its own (train_on="each")',
            "history_rewritten",
        )
    if i == 0:
        content = messages[0].content.strip()
        if not content or after.count(content) != 1:
            raise _error(
                source, f"{turn} begins the conversation, and where its text starts is ambiguous; put a user turn before it", "mask_ambiguous"
            )
        return after.index(content), len(after)
    is_answer = messages[i].role == "assistant"
    before = _text(tokenizer, messages[:i], tools, source, answer=is_answer)
    if after.startswith(before) and len(after) > len(before):
        return len(before), len(after)
    rewritten = not after.startswith(_text(tokenizer, messages[:i], tools, source))
    raise _error(
        source,
        f"what the model sees before {turn} at inference is not what stands before it in training: the chat template "
        + ("rewrites earlier turns" if rewritten else "has another generation prompt")
        + "; use the model's own template, or write the turn as the model would say it",
        "prompt_differs",
    )


def _said(content: str) -> str:
    """The answer without the reasoning in front of it, which templates set in their own way."""
    return content.rsplit("</think>", 1)[-1]


def _squeeze(text: str) -> str:
    return "".join(text.split())


def _trim(tokenizer: Any, text: str, start: int, end: int) -> int:
    """Leave out white space after a closing special token."""
    stripped = text[start:end].rstrip()
    closing = (*tokenizer.all_special_tokens, *tokenizer.get_added_vocab())
    return start + len(stripped) if stripped.endswith(tuple(t for t in closing if t.strip())) else end


def _exact(tokenizer: Any, text: str, spans: list[tuple[int, int, int]], messages: Sequence[Message], source: str) -> tuple[list[int], np.ndarray]:
    """Ids of the whole text; every boundary must also be a boundary of tokens: the ids of the text before it are the first ids of the whole."""
    starts, ends = sorted({s for _, s, _ in spans}), sorted({e for _, _, e in spans})
    # for the end of a span the text after it serves as well, and after the last answer there is little of it
    short = [at for at in ends if len(text) - at < at]
    ids, *parts = encode(tokenizer, [text, *(text[:at] for at in starts), *(text[at:] for at in short)])
    heads, tails = parts[: len(starts)], parts[len(starts) :]
    place = {at: len(ids) - len(tail) for at, tail in zip(short, tails, strict=True) if ids[len(ids) - len(tail) :] == tail}
    late = [at for at in ends if at not in place]
    for at, head in zip((*starts, *late), (*heads, *encode(tokenizer, [text[:at] for at in late])), strict=True):
        if ids[: len(head)] != head:
            turn, is_start = next((i, at == s) for i, s, e in spans if at in (s, e))
            raise _error(
                source,
                f"a token straddles the {'start' if is_start else 'end'} of turn {turn} ({messages[turn].role}), "
                f"around {quote(text[max(at - 8, 0) : at + 8])}, "
                'so that no exact mask exists; remove white space at the ends of that turn, or use boundary="split"',
                "straddle",
            )
        place[at] = len(head)
    weight = np.zeros(len(ids), np.float32)
    for _, start, end in spans:
        weight[place[start] : place[end]] = 1.0
    return ids, weight


def _split(tokenizer: Any, text: str, spans: list[tuple[int, int, int]], messages: Sequence[Message], source: str) -> tuple[list[int], np.ndarray]:
    """Ids of the pieces between boundaries, each tokenised alone."""
    cuts = sorted({0, len(text), *(at for _, start, end in spans for at in (start, end))})
    pieces = encode(tokenizer, [text[a:b] for a, b in pairwise(cuts)])
    starts = {start for _, start, _ in spans}
    weights = [np.full(len(piece), float(at in starts), np.float32) for at, piece in zip(cuts, pieces, strict=False)]
    return [t for piece in pieces for t in piece], np.concatenate(weights) if weights else np.zeros(0, np.float32)
