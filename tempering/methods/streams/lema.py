"""LeMa: learn to correct wrong reasoning, beside learning right reasoning.

An et al. 2023, arXiv 2310.20689. To the demonstrations come corrections: given the question and a wrong solution, write which step is wrong, why, and
the right solution. Only what is written is trained; the wrong solution is context. A correction stays only if its final answer is the gold one. Wrong
solutions are the record's answers that are labelled wrong or beaten; with `own` the model's samples that end wrongly come too (the paper samples
several models). The paper's corrector is GPT-4: its text may stand in the field "corrections" (a list, one for each of the record's wrong answers).
Where it does not, the first step that the gold solution does not contain is named as wrong and the gold solution follows, without a reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field

from tempering.cases import RecordCase, talk
from tempering.making import Maker, Making, answer, asking, best, final_answer, made, right, spoken, steps_of, wrong
from tempering.types import Record

FAMILY = "lessons"
CATALOGUE = ("S101",)


class LeMa(Maker):
    """Solutions, and corrections of wrong ones."""

    kind: Literal["lema"] = "lema"
    own: Annotated[int, Field(ge=0)] = 0
    """How many solutions of the model itself are sampled for each question; the wrong ones are corrected."""
    temperature: Annotated[float, Field(gt=0)] = 0.7
    """Of those samples (not checked in the paper's code)."""

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """Each record's best answer, then a correction for each distinct wrong one."""
        records = list(records)
        sampled: list[list[str]] = [[] for _ in records]
        if self.own and records:
            sampled = making.ask([record.prompt for record in records], self.own, self.temperature)
        for record, texts in zip(records, sampled, strict=True):
            good = best(record)
            gold = spoken(good.messages)
            yield made(record, "", record.prompt, [good])
            given = [spoken(response.messages) for response in wrong(record)]
            written = dict(zip(given, record.tags.get("corrections", ()), strict=False))
            bad = [*given, *(text for text in texts if text and not right(text, gold))]
            for i, path in enumerate(dict.fromkeys(bad)):
                correction = str(written.get(path) or _correction(path, gold))
                if final_answer(correction) == final_answer(gold):
                    after = f"\n\nThis solution is wrong:\n{path}\n\nName the wrong step, say why, and solve it correctly."
                    yield made(record, f"correction-{i}", asking(record, after=after), [answer(correction)])


def _correction(path: str, gold: str) -> str:
    known = set(steps_of(gold))
    step = next((step for step in steps_of(path) if step not in known), path)
    return f"Wrong step: {step}\nCorrect solution: {gold}"


_SUM = talk(
    "What is 3 + 4 + 5?", answers=["3 + 4 = 7; 7 + 5 = 12. Answer: 12", "3 + 4 = 7; 7 + 5 = 13. Answer: 13"], better=[(0, 1)], id="sum"
)  # fmt: skip
_WRONG = "What is 3 + 4 + 5?\n\nThis solution is wrong:\n{}\n\nName the wrong step, say why, and solve it correctly."
_GOLD, _BAD = "3 + 4 = 7; 7 + 5 = 12. Answer: 12", "3 + 4 = 7; 7 + 5 = 13. Answer: 13"
_WRITTEN = "Step 2 is wrong, as 7 + 5 is 12. Answer: 12"
CASES = (
    RecordCase("without wrong answers nothing is added", LeMa(), [talk("1 + 1?", "2")], [talk("1 + 1?", "2")]),
    RecordCase(
        "the first step that the gold solution lacks is named",
        LeMa(),
        [_SUM],
        [talk("What is 3 + 4 + 5?", _GOLD), talk(_WRONG.format(_BAD), f"Wrong step: 7 + 5 = 13.\nCorrect solution: {_GOLD}")],
    ),
    RecordCase(
        "a written correction is taken; one that ends wrongly is not kept",
        LeMa(),
        [
            Record(_SUM.prompt, _SUM.responses, _SUM.better, "a", tags={"corrections": [_WRITTEN]}),
            Record(_SUM.prompt, _SUM.responses, _SUM.better, "b", tags={"corrections": ["It should be so. Answer: 14"]}),
        ],
        [talk("What is 3 + 4 + 5?", _GOLD), talk(_WRONG.format(_BAD), _WRITTEN), talk("What is 3 + 4 + 5?", _GOLD)],
    ),
    RecordCase(
        "the model's own wrong solutions, each once; what it got right is not corrected",
        LeMa(own=3),
        [talk("What is 3 + 4 + 5?", _GOLD)],
        [talk("What is 3 + 4 + 5?", _GOLD), talk(_WRONG.format("So 10"), f"Wrong step: So 10\nCorrect solution: {_GOLD}")],
        answers={"What is 3 + 4 + 5?": ["So 10", "12", "So 10"]},
    ),
)
