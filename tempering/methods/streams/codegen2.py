"""CodeGen2: a mixture of plain causal language modelling and infilling, in one left-to-right model.

Nijkamp et al. 2023, arXiv 2305.02309. A text stays as it is with probability p = 0.5; else spans of it are replaced by <mask_1>, <mask_2>, ... and
follow after <sep>, each as <mask_i> span <eom>. To infill, give the text with <mask_1>, then <sep><mask_1>, let the model write to <eom>, and
`demask`. Ratio and span length are recalled from T5's span corruption; the paper's own were not checked. Not the paper's: spans are words and signs,
not tokens; sentinels are plain text, not new tokens, and no <|endoftext|> stands before <sep> (the released models have one there); the loss is on
every token; attention is causal (the paper: prefix attention does not help); texts are corrupted all the time (the paper: better late). A text that
has a sentinel in it already is left out, so that every masked text can be undone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from tempering.cases import RecordCase, plain
from tempering.errors import UserError
from tempering.making import Maker, Making, best, is_text, made, spoken, written
from tempering.types import Record

FAMILY = "lessons"
CATALOGUE = ("S041",)

_SENTINEL = re.compile(r"<mask_\d+>|<sep>|<eom>")
_MASK = re.compile(r"<mask_(\d+)>")
_SPAN = re.compile(r"<mask_(\d+)>(.*?)<eom>", re.DOTALL)
_PIECE = re.compile(r"\s*(?:\w+|[^\w\s])|\s+")
"""A word or a sign with the space before it; the pieces of a text are the text."""


class CodeGen2(Maker):
    """Texts as they are, or with spans moved to the end."""

    kind: Literal["codegen2"] = "codegen2"
    causal: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability that a text stays as it is (the paper: 0.5); 1 is plain language modelling."""
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the pieces that is masked (recalled, T5)."""
    span: Annotated[float, Field(ge=1)] = 3.0
    """Mean length of a span in pieces (recalled, T5)."""

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """Every text once.

        Raises:
            UserError: a record is a conversation.
        """
        for record in records:
            if not is_text(record):
                raise UserError(f'{record.source or record.id}: codegen2 needs plain texts (a field "text"), but this is a conversation')
            text = spoken(record.prompt) + spoken(best(record).messages)
            draw = making.random(record.id)
            if _SENTINEL.search(text):
                making.drop(record, "the text has a sentinel in it")
            elif draw.random() < self.causal or len(_PIECE.findall(text)) < 2:
                yield made(record, "", record.prompt, record.responses, infill=False)
            else:
                yield made(record, "infill", (), [written(self.mask(text, draw))], infill=True)

    def mask(self, text: str, draw: random.Random) -> str:
        """A text of two pieces or more with about `ratio` of them moved behind <sep>; at least one is, and one stays."""
        pieces = _PIECE.findall(text)
        hidden = min(max(1, round(len(pieces) * self.ratio)), len(pieces) - 1)
        n = min(max(1, round(hidden / self.span)), len(pieces) - hidden + 1)
        gaps = _parts(len(pieces) - hidden + 2, n + 1, draw)  # two more, so that the text may begin and end with a span
        gaps[0], at, body, tail = gaps[0] - 1, 0, "", ""
        for i, (gap, length) in enumerate(zip(gaps, _parts(hidden, n, draw), strict=False), 1):
            body += "".join(pieces[at : at + gap]) + f"<mask_{i}>"
            tail += f"<mask_{i}>{''.join(pieces[at + gap : at + gap + length])}<eom>"
            at += gap + length
        return f"{body}{''.join(pieces[at:])}<sep>{tail}"

    @staticmethod
    def demask(text: str) -> str:
        """The text of which `mask` made this, or that a model filled in; a text without <sep> is returned as it is.

        Raises:
            UserError: a mask has no span, or what is behind <sep> is no list of spans.
        """
        body, sep, tail = text.partition("<sep>")
        if not sep:
            return text
        found, masks = _SPAN.findall(tail), _MASK.findall(body)
        if _SPAN.sub("", tail) or sorted(i for i, _ in found) != sorted(set(masks)):
            raise UserError(f"the text has masks {masks} and whole spans for {[i for i, _ in found]}; each mask needs one span, ended by <eom>")
        spans = dict(found)
        return _MASK.sub(lambda match: spans[match[1]], body)


def _parts(total: int, n: int, draw: random.Random) -> list[int]:
    """n whole numbers of at least 1 that add up to `total`, each way equally likely."""
    cuts = [0, *sorted(draw.sample(range(1, total), n - 1)), total]
    return [b - a for a, b in pairwise(cuts)]


_TWO = plain("x = 1\n")
CASES = (
    RecordCase("p = 1 is plain language modelling", CodeGen2(causal=1), [_TWO, plain("y")], [_TWO, plain("y")], tags=({"infill": False},) * 2),
    RecordCase("one word cannot be masked and kept", CodeGen2(causal=0), [plain("y")], [plain("y")], tags=({"infill": False},)),
    RecordCase(
        "one of two words is behind <sep>, by seed",
        CodeGen2(causal=0),
        [plain("x y")],
        [plain("<mask_1> y<sep><mask_1>x<eom>")],
        tags=({"infill": True},),
    ),
    RecordCase("the other seed", CodeGen2(causal=0), [plain("x y")], [plain("x<mask_1><sep><mask_1> y<eom>")], seed=1),
    RecordCase("a text with a sentinel is left out", CodeGen2(causal=1), [plain("a <sep> b")], [], dropped={"the text has a sentinel in it": 1}),
)
