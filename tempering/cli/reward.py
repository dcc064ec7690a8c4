"""`temper reward try REWARD FILE`: what a reward gives for answers that are there already, before anything is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering import index
from tempering.cli.models import Json, write_json
from tempering.cli.show import one_line, say, table
from tempering.errors import UserError

if TYPE_CHECKING:
    from tempering.types import Message, Record

_PROMPTS = ("prompt", "question", "instruction", "query")
_SHOWN = 20


def attempt(reward: str, file: str, /, *, column: str = "answer", limit: int | None = None, json_: Json = None) -> int:
    """Score the answers of a file, and say how far the reward can tell them apart.

    Args:
        reward: its name, with fields: exact_answer, exact_answer,rule=boxed, "weighted:exact_answer + 0.1*format".
        file: rows (.jsonl, .json, .csv, .parquet) with a prompt, an answer and what the reward needs to know: the right answer, tests.
        column: where the answer stands.
        limit: at most this many rows.
        json_: write every row's score to this file.
    """
    import numpy as np

    value = named(reward)
    prompts, answers, records = _rows(file, column, limit)
    score_N = np.asarray(value(prompts, answers, records), dtype=np.float64)
    known = score_N[np.isfinite(score_N)]
    shown = [
        (r.source, _score(s), one_line(a)[:60], one_line(p[-1].content)[:40]) for s, p, a, r in zip(score_N, prompts, answers, records, strict=True)
    ]
    table(("row", "score", "answer", "prompt"), shown[:_SHOWN], right=(1,), wrap=(2, 3))
    if len(shown) > _SHOWN:
        say(f"... and {len(shown) - _SHOWN} more rows" + ("" if json_ else "; --json FILE writes all"))
    say()
    if unknown := len(score_N) - len(known):
        say(f"{unknown} of {len(score_N)} rows cannot be scored: they do not say what the reward needs to know")
    if len(known):
        say(f"{reward}: mean {known.mean():.4g}, deviation {known.std():.4g}, from {known.min():.4g} to {known.max():.4g}, over {len(known)} answers")
        say(_ties(prompts, score_N))
    if json_ is not None:
        items = [{"row": r.source, "score": None if np.isnan(s) else float(s)} for s, r in zip(score_N, records, strict=True)]
        write_json(json_, {"reward": reward, "file": file, "items": items})
    return 0


def named(text: str) -> Any:
    """The reward of a name as it is typed, with its fields.

    Raises:
        UserError: no reward has the name, or a field is unknown, wrong or missing.
    """
    from tempering.cli.probes import built

    head, fields = (text[: len(cut)], text[len(cut) + 1 :]) if (cut := text.partition(":")[0].partition(",")[0]) else (text, "")
    kinds = {entry.name: entry for entry in index.methods("reward") if entry.family == "checked"}
    kind = head.replace("-", "_")
    if kind not in kinds:
        raise UserError(f"reward {text}: there is no reward {head!r}{index.closest(kind, kinds)}; there are {', '.join(sorted(kinds))}")
    return built("", text, kind, index.load(kinds[kind]), fields)


def _score(score: float) -> str:
    return "-" if score != score else f"{score:.4g}"


def _ties(prompts: list[tuple[Message, ...]], score_N: Any) -> str:
    """How much the answers to one prompt differ: a group of equal scores teaches nothing to what compares them."""
    groups: dict[Any, list[float]] = {}
    for prompt, score in zip(prompts, score_N, strict=True):
        if score == score:
            groups.setdefault(tuple((m.role, m.content) for m in prompt), []).append(float(score))
    several = [scores for scores in groups.values() if len(scores) > 1]
    if several:
        pairs = [(a, b) for scores in several for i, a in enumerate(scores) for b in scores[:i]]
        even = sum(len(set(scores)) == 1 for scores in several)
        tied = sum(a == b for a, b in pairs) / len(pairs)
        return f"ties: {tied:.0%} of the pairs of answers to one prompt; {even} of {len(several)} prompts have one score for all their answers"
    scores = [score for group in groups.values() for score in group]
    most = max(scores.count(score) for score in set(scores))
    return f"ties: {most / len(scores):.0%} of the answers have the most frequent score (every prompt has one answer here)"


def _rows(file: str, column: str, limit: int | None) -> tuple[list[tuple[Message, ...]], list[str], list[Record]]:
    """(prompts, answers, records) of a file; a record's tags are the row's other columns."""
    from itertools import islice

    from tempering.data.formats import rows_of, settle
    from tempering.data.readers import MAX_LINE_MIB
    from tempering.types import Record

    path = Path(file)
    if not path.is_file():
        raise UserError(f"{file}: there is no such file; give JSON lines with a prompt and an answer in each row")
    if limit is not None and limit < 1:
        raise UserError(f"--limit is {limit}; give 1 or more, or leave it out")
    records: list[Record] = []
    answers: list[str] = []
    for place, raw in islice(rows_of(path, file, path.name, MAX_LINE_MIB), limit):
        row = settle(raw, place)
        if not isinstance(row.get(column), str):
            have = ", ".join(map(str, row))
            what = "is no text" if column in row else f"is not there; the row has {have[:200]}"
            raise place.error(f'the answer, column "{column}", {what}; say where it stands with --column NAME')
        asked = next((name for name in _PROMPTS if name in row and name != column), None)
        if asked is None:
            raise place.error(f"no prompt; name its column one of {', '.join(_PROMPTS)}")
        answers.append(row[column])
        records.append(Record(_messages(row[asked], place), (), source=place.source, tags={k: v for k, v in row.items() if k not in (column, asked)}))
    if not records:
        raise UserError(f"{file}: holds no rows; check that it is the right file")
    return [record.prompt for record in records], answers, records


def _messages(prompt: Any, place: Any) -> tuple[Message, ...]:
    from tempering.types import Message

    if isinstance(prompt, str):
        return (Message("user", prompt),)
    if isinstance(prompt, list) and prompt and all(isinstance(m, dict) and isinstance(m.get("content"), str) and "role" in m for m in prompt):
        return tuple(Message(str(m["role"]), m["content"]) for m in prompt)
    raise place.error("the prompt is neither a text nor messages with role and content")
