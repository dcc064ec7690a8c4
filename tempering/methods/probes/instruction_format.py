"""Instruction format: does the response obey constraints that a program can check?

The idea is IFEval's (Zhou et al. 2023, arXiv:2311.07911): each prompt asks for something verifiable (lower case, a word count, JSON, an ending), so
no judge is needed. The checks here are our own and a subset; `CHECKS` says exactly what each means. An item scores 1 if all its checks hold on the
response as it is (IFEval's strict prompt-level accuracy); the summary has the share of single checks that hold.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, model_validator

from tempering.items import Item, ProbeValue, prompt_ids, read_items
from tempering.types import ItemScore, Policy, ProbeScores


def all_lowercase(text: str) -> bool:
    """There is a letter and no upper-case letter."""
    return any(c.isalpha() for c in text) and not any(c.isupper() for c in text)


def all_uppercase(text: str) -> bool:
    """There is a letter and no lower-case letter."""
    return any(c.isalpha() for c in text) and not any(c.islower() for c in text)


def is_json(text: str) -> bool:
    """The whole response is one JSON object or list; a Markdown code fence around it is allowed."""
    bare = text.strip()
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*?)\n?```", bare, re.DOTALL)
    try:
        return isinstance(json.loads(fenced.group(1) if fenced else bare), (dict, list))
    except (ValueError, RecursionError):
        return False


def bullets(text: str, count: int) -> bool:
    """Exactly `count` lines start with "- ", "* " or a bullet sign."""
    return len(re.findall(r"^\s*[-*\u2022]\s+\S", text, re.MULTILINE)) == count


def numbered(text: str, count: int) -> bool:
    """Lines start with 1. 2. ... up to exactly `count`, in order."""
    return [int(n) for n in re.findall(r"^\s*(\d{1,4})[.)]\s+\S", text, re.MULTILINE)] == list(range(1, count + 1))


def ends_with(text: str, phrase: str) -> bool:
    """The response ends with the phrase; case, trailing white space, quotes and stars aside."""
    return text.rstrip().rstrip("\"'*").lower().endswith(phrase.lower())


def starts_with(text: str, phrase: str) -> bool:
    """The response starts with the phrase; case, leading white space, quotes and stars aside."""
    return text.lstrip().lstrip("\"'*").lower().startswith(phrase.lower())


def no_commas(text: str) -> bool:
    """There is text and no comma in it."""
    return bool(text.strip()) and "," not in text


def words(text: str, at_least: int = 0, at_most: int | None = None) -> bool:
    """The number of words (split at white space) lies in the bounds, both included."""
    count = len(text.split())
    return at_least <= count and (at_most is None or count <= at_most)


def sentences(text: str, at_least: int = 1, at_most: int | None = None) -> bool:
    """The number of sentences (pieces that end with . ! or ?, the last may lack it) lies in the bounds."""
    count = len([piece for piece in re.split(r"(?<=[.!?])\s+", text.strip()) if piece])
    return at_least <= count and (at_most is None or count <= at_most)


def _count(text: str, keyword: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(keyword)}(?!\w)", text, re.IGNORECASE))


def includes(text: str, keywords: list[str]) -> bool:
    """Every keyword is there as a whole word or phrase, in any case."""
    return all(_count(text, keyword) for keyword in keywords)


def excludes(text: str, keywords: list[str]) -> bool:
    """There is text, and no keyword is there as a whole word or phrase, in any case."""
    return bool(text.strip()) and not any(_count(text, keyword) for keyword in keywords)


def one_of(text: str, options: list[str]) -> bool:
    """The response is one of the options; case, surrounding white space, quotes and a final dot aside."""
    return text.strip().strip("\"'.*").lower() in [option.lower() for option in options]


CHECKS: dict[str, Callable[..., bool]] = {
    function.__name__: function
    for function in (
        all_lowercase,
        all_uppercase,
        is_json,
        bullets,
        numbered,
        ends_with,
        starts_with,
        no_commas,
        words,
        sentences,
        includes,
        excludes,
        one_of,
    )
}


def holds(text: str, check: dict[str, Any]) -> bool:
    """Whether the response passes a check, {"check": NAME, and its arguments}."""
    return CHECKS[check["check"]](text, **{key: value for key, value in check.items() if key != "check"})


class FormatItem(Item):
    """A prompt and the checks that its response must pass."""

    prompt: str
    checks: tuple[dict[str, Any], ...] = Field(min_length=1)
    """Each {"check": NAME, and its arguments}; names and arguments are those of `CHECKS`."""

    @model_validator(mode="after")
    def _checks_exist(self) -> FormatItem:
        for check in self.checks:
            name = check.get("check", "")
            if name not in CHECKS:
                near = difflib.get_close_matches(str(name), CHECKS, 1)
                raise ValueError(f"there is no check '{name}'" + (f", did you mean '{near[0]}'?" if near else f", choose from {', '.join(CHECKS)}"))
            try:
                inspect.signature(CHECKS[name]).bind("", **{key: value for key, value in check.items() if key != "check"})
            except TypeError as error:
                raise ValueError(f"check '{name}': {error}") from error
        return self


class InstructionFormat(ProbeValue):
    """Share of the prompts whose response obeys all constraints."""

    kind: Literal["instruction_format"] = "instruction_format"
    name: str = "instruction_format"
    items: str | tuple[FormatItem, ...]
    """A JSON-lines file, keep:NAME, or items ({"prompt", "checks"})."""
    max_new_tokens: int = Field(default=64, gt=0)
    batch_size: int = Field(default=16, gt=0)

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.sample import sample

        items = read_items(self.items, FormatItem, self.limit)
        prompts = [prompt_ids(policy, item.prompt, chat=self.chat) for item in items]
        outputs = sample(policy, prompts, max_new_tokens=self.max_new_tokens, batch_size=self.batch_size)
        scored, passed, asked = [], 0, 0
        for item, (episode,) in zip(items, outputs, strict=True):
            results = [holds(episode.text, check) for check in item.checks]
            passed, asked = passed + sum(results), asked + len(results)
            expected = "; ".join(json.dumps(check) for check in item.checks)
            extra = {"checks": float(len(results)), "passed": float(sum(results))}
            scored.append(ItemScore(item.id, float(all(results)), item.prompt, episode.text, expected, extra))
        return ProbeScores(self.name, "accuracy", "binary", True, tuple(scored), self.side, {"checks_passed": passed / asked})
