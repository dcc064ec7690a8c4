"""TPO: learn which thoughts lead to good answers, by judging the answers alone.

Thought preference optimisation (Wu et al. 2024, "Thinking LLMs", arXiv 2410.10630; recalled, not checked against the text). The model is asked to
write a thought and then a response; of several outputs the judge sees the responses only. An output is worth

    score = N(judge's mark) - rho N(length of the response),   N(x) = (x - mean) / deviation over the prompt's outputs

and the best and the worst become a pair of whole outputs, thought included. Outputs without a response take no part (the paper may keep them as
rejected ones). The judge is a reward model, or, without one, whether the response ends like the record's best answer. One round of the paper's
about four is one call; `temper run tpo` makes the rounds, each with the model at its beginning as the reference. The words that ask for the thought
are this project's; rho between 0 and 0.5 is unsure, the temperature recalled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean, pstdev
from typing import Annotated, Literal

from pydantic import Field

from tempering.cases import RecordCase, talk
from tempering.making import Maker, Making, answer, asking, best, made, right, spoken
from tempering.types import Record

FAMILY = "rounds"
CATALOGUE = ("S110",)


class TPO(Maker):
    """Pairs of thoughts with responses, by the responses."""

    kind: Literal["tpo"] = "tpo"
    samples: Annotated[int, Field(ge=2)] = 8
    """Outputs for each prompt and round (K)."""
    temperature: Annotated[float, Field(gt=0)] = 0.8
    """Of the outputs."""
    rho: Annotated[float, Field(ge=0)] = 0.0
    """What a deviation of length costs, in deviations of the judge's mark; 0 selects by the mark alone."""
    judge: str = ""
    """Reward model that marks the responses: a folder or hub id. Without one, 1 where the response ends like the record's best answer, else 0."""
    ask: str = "Think first: write your thoughts after 'Thought:', then your answer alone after 'Response:'.\n\n"
    """Stands before the prompt."""
    mark: str = "Response:"
    """What the response stands behind; the first one in an output counts."""

    held = "made"

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """A pair for each prompt whose responses do not all get one mark."""
        records = list(records)
        prompts = [asking(record, before=self.ask) for record in records]
        for record, prompt, outputs in zip(records, prompts, making.ask(prompts, self.samples, self.temperature) if records else (), strict=True):
            parsed = [(output, response) for output in outputs if (response := self.response(output))]
            if len(parsed) < 2:
                making.drop(record, "fewer than two outputs with a response")
                continue
            responses = [response for _, response in parsed]
            marks = self._marks(record, responses, making)
            if min(marks) == max(marks):
                making.drop(record, "every response gets the same mark")
                continue
            lengths = _normal([len(response) for response in responses])
            scores = [x - self.rho * length for x, length in zip(_normal(marks), lengths, strict=True)]
            first, last = scores.index(max(scores)), scores.index(min(scores))
            pair = [answer(parsed[i][0], score=scores[i]) for i in (first, last)]
            yield made(record, "pair", prompt, pair, better=((0, 1),))

    def response(self, output: str) -> str:
        """What the judge sees of an output: the text behind the first `mark`; "" where there is none."""
        return output.partition(self.mark)[2].strip()

    def _marks(self, record: Record, responses: Sequence[str], making: Making) -> Sequence[float]:
        if self.judge:
            return making.judge(self.judge, [record.prompt] * len(responses), responses)
        gold = spoken(best(record).messages)
        return [float(right(response, gold)) for response in responses]


def _normal(values: Sequence[float]) -> list[float]:
    mean, deviation = fmean(values), pstdev(values)
    return [(value - mean) / deviation if deviation else 0.0 for value in values]


_ASKED = TPO().ask + "1 + 2?"
_SUM = talk("1 + 2?", "3")
_OUT = ["Thought: easy. Response: 3", "Thought: 1, 2, so 4. Response: 4", "Response: it is 3", "I say 3", "Response: 5"]
CASES = (
    RecordCase(
        "marks 1, 0, 1, 0 of the outputs with a response: mean and deviation 1/2; of equal ones the first",
        TPO(samples=5),
        [_SUM],
        [Record(talk(_ASKED, "").prompt, (answer(_OUT[0], score=1.0), answer(_OUT[1], score=-1.0)), ((0, 1),))],
        answers={_ASKED: _OUT},
    ),
    RecordCase(
        "by a judge's marks 0 and 2 with a length of 1 and 3 that costs half a deviation: -1 + 0.5 and 1 - 0.5",
        TPO(samples=2, rho=0.5, judge="marker", mark="=>", ask=""),
        [_SUM],
        [Record(_SUM.prompt, (answer("hm => abc", score=0.5), answer("=> a", score=-0.5)), ((0, 1),))],
        answers={"1 + 2?": ["=> a", "hm => abc"]},
        marks={"a": 0, "abc": 2},
    ),
    RecordCase(
        "a costly length turns the order",
        TPO(samples=2, rho=2, judge="marker", mark="=>", ask=""),
        [_SUM],
        [Record(_SUM.prompt, (answer("=> a", score=1.0), answer("hm => abc", score=-1.0)), ((0, 1),))],
        answers={"1 + 2?": ["=> a", "hm => abc"]},
        marks={"a": 0, "abc": 2},
    ),
    RecordCase(
        "no order: one response only, an empty one beside it; or marks that are all the same, whatever the lengths",
        TPO(samples=3, rho=0.5, ask=""),
        [_SUM, talk("2 + 2?", "4")],
        [],
        answers={"1 + 2?": ["3", "Response: 3", "Response: "], "2 + 2?": ["Response: 5", "Response: it is 6", "Response: 7"]},
        dropped={"fewer than two outputs with a response": 1, "every response gets the same mark": 1},
    ),
    RecordCase("no records, no questions", TPO(), [], []),
)
