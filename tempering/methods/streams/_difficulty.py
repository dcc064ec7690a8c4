"""Prompts parted by difficulty, for constructive and diverse feedback: the same parts whichever file asks, given the same records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from tempering.errors import UserError
from tempering.making import Maker, by_prompt, overall
from tempering.types import Record

Part = Literal["easy", "medium", "hard"]


class Parted(Maker):
    """Base of what treats easy, medium and hard prompts differently."""

    easy: Annotated[float, Field(ge=0, le=1)] = 1 / 3
    """Share of the prompts that are easy (our choice: three equal parts)."""
    medium: Annotated[float, Field(ge=0, le=1)] = 1 / 3
    """Share of the prompts that come next; the rest is hard. 0 and 0 leave preferences alone."""
    difficulty: str = "difficulty"
    """The field with a number that is higher where a prompt is harder; without it, the lower the mean score of a prompt's answers, the harder."""

    def parts(self, records: Sequence[Record]) -> Iterator[tuple[Part, Record]]:
        """Each record with the part that its prompt belongs to, in the order of the data; equally hard prompts in that order too.

        Raises:
            UserError: the shares are more than 1 together, or a prompt has neither rated answers nor the field.
        """
        if self.easy + self.medium > 1 + 1e-9:
            raise UserError(f"{self.name}: easy ({self.easy:g}) and medium ({self.medium:g}) are more than 1 together; lower one of them")
        groups = list(by_prompt(records))
        order = sorted(range(len(groups)), key=[self._hardness(group) for group in groups].__getitem__)
        first, second = round(self.easy * len(order)), round((self.easy + self.medium) * len(order))
        of: dict[int, Part] = {i: "easy" if rank < first else "medium" if rank < second else "hard" for rank, i in enumerate(order)}
        return ((of[i], record) for i, group in enumerate(groups) for record in group)

    def _hardness(self, group: Sequence[Record]) -> float:
        told = [record.tags[self.difficulty] for record in group if self.difficulty in record.tags]
        scores = [score for record in group for response in record.responses if (score := overall(response)) is not None]
        try:
            return sum(float(value) for value in told) / len(told) if told else -sum(scores) / len(scores)
        except (TypeError, ValueError, ZeroDivisionError):
            where = group[0].source or group[0].id
            raise UserError(f"{where}: to tell how hard the prompt is, give rated answers or a number in the field {self.difficulty!r}") from None
