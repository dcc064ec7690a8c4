"""DMT: special skills first, then general data with a little of the special data again.

Dong et al. 2023, arXiv 2310.05492, dual-stage mixed fine-tuning. Stage 1 trains the special records (there: mathematics and code), stage 2 the
general ones together with round(k n1) of the n1 special ones, drawn once by seed. The paper's other orders are here to compare with: all at once, and
stage 2 without replay (k = 0, its mixed sequential training). Records say their domain in a field.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field

from tempering.cases import RecordCase, talk
from tempering.errors import UserError
from tempering.making import Maker, Making, made, tag
from tempering.types import Record

FAMILY = "lessons"
CATALOGUE = ("S199",)


class DMT(Maker):
    """Two stages, the second with replay."""

    kind: Literal["dmt"] = "dmt"
    k: Annotated[float, Field(ge=0, le=1)] = 1 / 256
    """Share of the special records that are seen again in stage 2 (the paper tries 1/256 to 1)."""
    order: Literal["dmt", "multitask"] = "dmt"
    """multitask: one stage with everything, once."""
    field: str = "domain"
    """The field that says where a record belongs."""
    general: str = "general"
    """Its value on general records; every other value is special."""

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """The special records, then the general ones, then those seen again.

        Raises:
            UserError: a record has no domain, or all are of one side.
        """
        records = list(records)
        special = [record for record in records if tag(record, self.field) != self.general]
        general = [record for record in records if tag(record, self.field) == self.general]
        if records and not (special and general):
            raise UserError(
                f"dmt: {len(general)} of {len(records)} records have {self.field}={self.general!r}; it needs general and special ones"
                " (--make.general names the general value)"
            )
        late = 1 if self.order == "dmt" else 0
        yield from (made(record, "", record.prompt, record.responses, better=record.better, phase=0) for record in special)
        yield from (made(record, "", record.prompt, record.responses, better=record.better, phase=late) for record in general)
        if late:
            again = making.random("replay").sample(special, round(self.k * len(special)))
            yield from (made(record, "again", record.prompt, record.responses, better=record.better, phase=1) for record in again)


_SUM, _CODE, _CHAT = talk("1 + 1?", "2", domain="math"), talk("Print 1.", "print(1)", domain="code"), talk("Hi", "Hello.", domain="general")
_ALL = [_CHAT, _SUM, _CODE]
_FIRST, _THEN = {"phase": 0}, {"phase": 1}
CASES = (
    RecordCase("k = 0 is sequential: special, then general", DMT(k=0), _ALL, [_SUM, _CODE, _CHAT], tags=(_FIRST, _FIRST, _THEN)),
    RecordCase("1/256 of two records is none", DMT(), _ALL, [_SUM, _CODE, _CHAT], tags=(_FIRST, _FIRST, _THEN)),
    RecordCase("all at once: one stage, nothing twice", DMT(k=1, order="multitask"), _ALL, [_SUM, _CODE, _CHAT], tags=(_FIRST, _FIRST, _FIRST)),
    RecordCase(
        "k = 1 sees one special record of one again; other names",
        DMT(k=1, field="task", general="chat"),
        [talk("1 + 1?", "2", task="sums"), talk("Hi", "Hello.", task="chat")],
        [_SUM, _CHAT, _SUM],
        tags=(_FIRST, _THEN, _THEN),
    ),
)
