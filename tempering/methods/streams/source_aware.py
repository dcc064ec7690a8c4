"""Source-aware training: learn which document a fact comes from, and cite it.

Khalifa et al. 2024, arXiv 2404.01019. First the documents are read with their identifier in the text; then questions are answered with the identifier
of the document that supports the answer. A record is a document: a plain text, its identifier in the field `field`, and where questions are trained,
these in the field "questions", a list of {"question", "answer"}. A conversation is a question too (held-out ones come with --test). `copies`
versions of each document with its sentences in another order are read besides; the paper adds two, to cite documents that have no training
question. Not the paper's: the form [[id]] (its own was not checked); an identifier's loss counts as that of other tokens (its default weight too);
one schedule and optimizer state for both phases; documents are rows of their own, so none sees another. Decoding along a trie is not in this file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field

from tempering.cases import RecordCase, plain, talk
from tempering.errors import UserError
from tempering.making import Maker, Making, answer, best, is_text, made, spoken, tag, user, written
from tempering.types import Record

FAMILY = "lessons"
CATALOGUE = ("S140",)


class SourceAware(Maker):
    """Documents with identifiers, then answers with citations."""

    kind: Literal["source_aware"] = "source_aware"
    place: Literal["none", "begin", "end", "repeat"] = "end"
    """Where the identifier stands in a document; repeat: after each sentence; none: plain continual pretraining, and answers without citations."""
    copies: Annotated[int, Field(ge=0)] = 2
    """Versions of each document with its sentences in another order, beside the document (the paper: 2)."""
    recall: bool = False
    """Whether the answer to a question of a document tells the document before it cites."""
    field: str = "document"
    """The field with a record's identifier."""

    held = "made"

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """Documents in phase 0, questions in phase 1.

        Raises:
            UserError: a record has no identifier, or one that cannot be cited, or its questions are not pairs of question and answer.
        """
        records = list(records)
        for record in filter(is_text, records):
            text, document = spoken(best(record).messages), self._document(record)
            yield made(record, "document", (), [written(self._named(text, document))], phase=0)
            for i in range(self.copies):
                other = _sentences(text)
                making.random(document, text, i).shuffle(other)
                if len(other) > 1:
                    yield made(record, f"copy-{i}", (), [written(self._named(" ".join(other), document))], phase=0)
        for record in records:
            cited = f" [[{self._document(record)}]]" if self.place != "none" else ""
            content = spoken(best(record).messages)
            if not is_text(record):
                yield made(record, "", record.prompt, [answer(content + cited)], phase=1)
                continue
            told = f"\n{content}" if self.recall else ""
            for i, (question, text) in enumerate(self._pairs(record)):
                yield made(record, f"question-{i}", (user(question),), [answer(f"{text}{told}{cited}")], phase=1)

    @staticmethod
    def _pairs(record: Record) -> list[tuple[str, str]]:
        try:
            return [(str(pair["question"]), str(pair["answer"])) for pair in record.tags.get("questions", ())]
        except (TypeError, KeyError):
            raise UserError(f'{record.source or record.id}: "questions" must be a list of {{"question": ..., "answer": ...}}') from None

    def _document(self, record: Record) -> str:
        document = tag(record, self.field).strip()
        if not document or "[[" in document or "]]" in document:
            raise UserError(f"{record.source or record.id}: the identifier {document!r} must have characters, but not [[ or ]]; mend {self.field!r}")
        return document

    def _named(self, text: str, document: str) -> str:
        all_named = " ".join(f"{sentence} [[{document}]]" for sentence in _sentences(text))
        return {"none": text, "begin": f"[[{document}]] {text}", "end": f"{text} [[{document}]]", "repeat": all_named}[self.place]

    @staticmethod
    def cited(text: str) -> str | None:
        """The last identifier that an answer cites; None where it cites none."""
        return (re.findall(r"\[\[(.*?)\]\]", text, re.DOTALL) or [None])[-1]


def _sentences(text: str) -> list[str]:
    return [piece for piece in re.split(r"(?<=[.!?])\s+", text.strip()) if piece]


_ANN = "Ann was born in 1912. She paints."
_TEXT, _ASKED = plain(_ANN, document="ann"), plain("Ann paints.", document="ann", questions=[{"question": "What does Ann do?", "answer": "Paint."}])
CASES = (
    RecordCase(
        "no identifiers and no copies are plain continual pretraining, then plain answers",
        SourceAware(place="none", copies=0),
        [talk("When was Ann born?", "1912.", document="ann"), _TEXT],
        [plain(_ANN), talk("When was Ann born?", "1912.")],
        tags=({"phase": 0}, {"phase": 1}),
    ),
    RecordCase("before the text", SourceAware(place="begin", copies=0), [_TEXT], [plain(f"[[ann]] {_ANN}")]),
    RecordCase("by sentence", SourceAware(place="repeat", copies=0), [_TEXT], [plain("Ann was born in 1912. [[ann]] She paints. [[ann]]")]),
    RecordCase(
        "two orders of two sentences (by this seed both are swapped)",
        SourceAware(),
        [_TEXT],
        [plain(f"{_ANN} [[ann]]"), *[plain("She paints. Ann was born in 1912. [[ann]]")] * 2],
        seed=2,
    ),
    RecordCase(
        "one sentence has one order; its document is recalled, that of a bare question is not known",
        SourceAware(recall=True),
        [_ASKED, talk("Does Bob?", "No.", document="bob")],
        [plain("Ann paints. [[ann]]"), talk("What does Ann do?", "Paint.\nAnn paints. [[ann]]"), talk("Does Bob?", "No. [[bob]]")],
    ),
)
