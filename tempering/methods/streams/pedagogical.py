"""Pedagogical alignment: a tutor's hint is preferred to the answer, and to a hint that does not fit the state of the lesson.

Sonkar et al. 2024, arXiv 2402.05000. A tutoring dialogue gives a pair for each turn of the tutor: what the tutor says there (a sub-question, a hint,
a judgement of the student's step) is chosen; rejected is the solution, or what the tutor says at another state of the same lesson. The solution
stands in a field, and so may the name of each tutor turn's state; without names every other turn of the dialogue counts as another state. A tutor
turn that gives the solution before the student does is a direct answer itself and is not chosen. That two kinds of reply are rejected is recalled,
and how often each is our choice (once). The paper's other parts are elsewhere or left out: DPO and IPO are losses of `teach_pairs`; KTO, which takes
labels, is not run on these pairs; the accuracy of the tutor's action and the pairs from live feedback are not part of this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from tempering.cases import RecordCase, talk
from tempering.errors import UserError
from tempering.making import Maker, Making, answer, best, made, right, spoken
from tempering.types import Message, Record

FAMILY = "comparisons"
CATALOGUE = ("S017",)


class Pedagogical(Maker):
    """Pairs of a tutor's reply and one that does not teach."""

    kind: Literal["pedagogical"] = "pedagogical"
    rejected: tuple[Literal["direct", "state"], ...] = ("direct", "state")
    """What is rejected at each turn: the solution, and a reply of another state, drawn by seed."""
    solution: str = "solution"
    """The field with the direct answer to the lesson's question."""
    states: str = "states"
    """The field with the states' names, a list with one for each tutor turn."""

    held = "made"

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """Dialogues that give no pair are left out.

        Raises:
            UserError: the names of the states are not one for each tutor turn.
        """
        for record in records:
            turns = (*record.prompt, *(best(record).messages if record.responses else ()))
            spots = [i for i, turn in enumerate(turns) if turn.role == "assistant" and turn.content.strip()]
            states = self._names(record, spots)
            solved = str(record.tags.get(self.solution) or "")
            some = False
            for n, spot in enumerate(spots):
                reply = turns[spot].content
                if spot == 0 or turns[spot - 1].role != "user" or (solved and right(reply, solved) and not _student_solved(turns[:spot], solved)):
                    continue
                others = [turns[j].content for j, state in zip(spots, states, strict=True) if state != states[n] and turns[j].content != reply]
                bad = {
                    "direct": solved if solved != reply else "",
                    "state": making.random(record.id, n).choice(others) if others else "",
                }
                for kind in self.rejected:
                    if bad[kind]:
                        some = True
                        both = [answer(reply), answer(bad[kind])]
                        yield made(record, f"turn-{n}-{kind}", turns[:spot], both, better=((0, 1),), rejected=kind)
            if not some:
                making.drop(record, "no tutor turn that teaches with a worse reply to it")

    def _names(self, record: Record, spots: Sequence[int]) -> list[str]:
        names = record.tags.get(self.states) or list(range(len(spots)))
        if not isinstance(names, list | tuple) or len(names) != len(spots):
            raise UserError(f"{record.source or record.id}: {self.states!r} must be a list with a name for each of the {len(spots)} tutor turns")
        return [str(name) for name in names]


def _student_solved(turns: Sequence[Message], solved: str) -> bool:
    """Whether the student has said the solution, after the question."""
    said = [turn for turn in turns if turn.role == "user"]
    return any(right(spoken([turn]), solved) for turn in said[1:])


_Q, _S1, _S2 = "What is 3 + 4 + 5?", "7", "7 + 5 = 12"
_T1, _T2, _T3 = "Add the first two. What do you get?", "Right. Now add the 5.", "Yes, 12 it is."
_GOLD = "3 + 4 + 5 = 12"


def _pair(*turns: str, rejected: str) -> Record:
    return talk(*turns[:-1], answers=[turns[-1], rejected], better=[(0, 1)])


CASES = (
    RecordCase(
        "the answer is rejected at every state; confirming what the student found is teaching",
        Pedagogical(rejected=("direct",)),
        [talk(_Q, _T1, _S1, _T2, _S2, _T3, solution=_GOLD)],
        [_pair(_Q, _T1, rejected=_GOLD), _pair(_Q, _T1, _S1, _T2, rejected=_GOLD), _pair(_Q, _T1, _S1, _T2, _S2, _T3, rejected=_GOLD)],
        tags=({"rejected": "direct"},) * 3,
    ),
    RecordCase(
        "a turn that tells the answer is no choice, but a reply of another state; states of one name do not compete",
        Pedagogical(solution="key", states="kinds"),
        [talk(_Q, _T1, _S1, _T2, "I give up.", "It is 12.", key=_GOLD, kinds=["hint", "hint", "tell"])],
        [
            *[_pair(_Q, _T1, rejected=_GOLD), _pair(_Q, _T1, rejected="It is 12.")],
            *[_pair(_Q, _T1, _S1, _T2, rejected=_GOLD), _pair(_Q, _T1, _S1, _T2, rejected="It is 12.")],
        ],
    ),
    RecordCase(
        "without a solution and another state there is nothing to reject",
        Pedagogical(),
        [talk(_Q, _T1, id="a"), talk(_Q, _T1, _S1, _T2, id="b")],
        [_pair(_Q, _T1, rejected=_T2), _pair(_Q, _T1, _S1, _T2, rejected=_T1)],
        dropped={"no tutor turn that teaches with a worse reply to it": 1},
    ),
)
