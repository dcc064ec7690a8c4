"""Constraints: whether an answer keeps to instructions that a program can check, such as no commas, at least 300 words, in lower case.

The instructions and their names are those of IFEval (Zhou et al. 2023, arXiv 2311.07911), as its data gives them: a record's `instruction_id_list`
and, of each, its `kwargs`. Checked is a subset (`_RULES`), each by its description in the paper's list; a record with one that is not in it has no
score (nan), so that nothing is rewarded for what was not looked at. An empty answer keeps to nothing, and one that begins by repeating the prompt
must keep to everything with it and without it: a prompt holds the keywords it asks for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from tempering.config import Value
from tempering.errors import UserError
from tempering.methods.rewards import _checked
from tempering.types import Prompt, Record

if TYPE_CHECKING:
    import numpy as np

FAMILY = "checked"


def _related(number: int, given: Mapping[str, Any], name: str, relation: str = "relation") -> bool:
    """`number` at least, or less than, what is asked for."""
    return number < given[name] if given.get(relation) == "less than" else number >= given[name]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def _sentences(text: str) -> int:
    return len([piece for piece in re.split(r"(?<=[.!?])[\"')\]]*\s+", text.strip()) if piece.strip()])


def _count(word: str, text: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))


def _json(text: str) -> bool:
    bare = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip(), flags=re.IGNORECASE)
    try:
        return isinstance(json.loads(bare), dict | list)
    except (ValueError, RecursionError):
        return False


def _paragraphs(text: str) -> list[str]:
    return [piece for piece in re.split(r"\s*\*\*\*\s*", text.strip()) if piece]


_RULES: dict[str, Callable[[str, Mapping[str, Any]], bool]] = {
    "punctuation:no_comma": lambda text, _: "," not in text,
    "length_constraints:number_words": lambda text, given: _related(len(_words(text)), given, "num_words"),
    "length_constraints:number_sentences": lambda text, given: _related(_sentences(text), given, "num_sentences"),
    "length_constraints:number_paragraphs": lambda text, given: len(_paragraphs(text)) == given["num_paragraphs"],
    "keywords:existence": lambda text, given: all(_count(word, text) for word in given["keywords"]),
    "keywords:forbidden_words": lambda text, given: not any(_count(word, text) for word in given["forbidden_words"]),
    "keywords:frequency": lambda text, given: _related(_count(given["keyword"], text), given, "frequency"),
    "keywords:letter_frequency": lambda text, given: _related(text.lower().count(given["letter"].lower()), given, "let_frequency", "let_relation"),
    "detectable_format:number_bullet_lists": lambda text, given: len(re.findall(r"^\s*[-*] +\S", text, re.MULTILINE)) == given["num_bullets"],
    "detectable_format:number_highlighted_sections": lambda text, given: (
        len(re.findall(r"(?<!\*)\*\*?[^\s*][^*\n]*\*\*?(?!\*)", text)) >= given["num_highlights"]
    ),
    "detectable_format:title": lambda text, _: any(title.strip() for title in re.findall(r"<<([^\n<>]+)>>", text)),
    "detectable_format:json_format": lambda text, _: _json(text),
    "detectable_content:number_placeholders": lambda text, given: len(re.findall(r"\[[^\[\]\n]+\]", text)) >= given["num_placeholders"],
    "detectable_content:postscript": lambda text, given: (
        re.search(rf"^\s*{re.escape(given['postscript_marker'])}\s*\S", text, re.M | re.I) is not None
    ),
    "change_case:english_lowercase": lambda text, _: text == text.lower() and any(c.isalpha() for c in text),
    "change_case:english_capital": lambda text, _: text == text.upper() and any(c.isalpha() for c in text),
    "change_case:capital_word_frequency": lambda text, given: _related(
        sum(word.isupper() for word in _words(text)), given, "capital_frequency", "capital_relation"
    ),
    "startend:end_checker": lambda text, given: text.strip().strip('"').lower().endswith(given["end_phrase"].strip().lower()),
    "startend:quotation": lambda text, _: len(text.strip()) > 2 and text.strip()[0] == text.strip()[-1] == '"',
    "combination:two_responses": lambda text, _: len(parts := [p.strip() for p in text.split("******")]) == 2 and all(parts) and parts[0] != parts[1],
}


class Constraints(Value):
    """Whether the answer keeps to its instructions."""

    kind: Literal["constraints"] = "constraints"
    partial: bool = False
    """Give the share of the instructions that are kept to; otherwise 1 for all and 0 for fewer."""

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str], records: Sequence[Record]) -> np.ndarray:
        """float64 [N].

        Raises:
            UserError: a record whose instructions lack what they need.
        """
        import numpy as np

        triples = zip(prompts, answers, records, strict=True)
        return np.array([self._score({answer, _checked.own(prompt, answer)}, record) for prompt, answer, record in triples], dtype=np.float64)

    def _score(self, texts: set[str], record: Record) -> float:
        names, given = record.tags.get("instruction_id_list") or (), record.tags.get("kwargs") or ()
        if not names or any(name not in _RULES for name in names):
            return float("nan")
        if len(given) != len(names):
            raise UserError(f"{record.source or 'record'}: {len(names)} instructions and {len(given)} kwargs; give one of each")
        try:
            kept = [all(text.strip() and _RULES[name](text, values) for text in texts) for name, values in zip(names, given, strict=True)]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{record.source or 'record'}: kwargs of {', '.join(names)}: {error} is missing or wrong; give them as IFEval does"
            ) from None
        return sum(kept) / len(kept) if self.partial else float(all(kept))
