"""What `check` finds: each finding with a code, how bad it is, how many rows, which ones first, and the mend."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

Severity = Literal["error", "warning", "note"]
ORDER: tuple[Severity, ...] = ("error", "warning", "note")
SHOWN = 5

KINDS: Mapping[str, tuple[Severity, str, str]] = {
    "nothing_trained": ("error", "no token is trained", "give the record an assistant turn with text, or another train_on"),
    "eos_never_trained": (
        "error",
        "the trained text does not end with an end-of-turn token, so the model never learns to stop",
        "mend the template to close the assistant's turn (inside its generation markers), or set tokenizer.eos_token",
    ),
    "stop_differs": (
        "warning",
        "the trained end-of-turn token is not one that generation stops at",
        "add it to eos_token_id of the model's generation_config, or sample with it as a stop token",
    ),
    "answer_truncated": (
        "error",
        "max_length would cut the answer",
        "raise max_length, shorten the records, or accept that these rows are dropped (truncate=refuse_answer)",
    ),
    "over_long": ("warning", "longer than max_length, but the answer fits", "raise max_length, or accept that context at the end is cut"),
    "duplicate_bos": ("error", "begins with two BOS tokens", "remove the BOS text from the template or from the data"),
    "prompt_differs": (
        "error",
        "what stands before the answer in training is not what the model sees at inference",
        "use the model's own chat template, also in its generation prompt",
    ),
    "no_template": ("error", "the tokenizer has no chat template", "use the instruct model, or choose one: template=plain (--template plain)"),
    "identical_pair": ("error", "chosen and rejected are the same", "remove these rows: they teach nothing and hide mistakes"),
    "empty_response": ("error", "an answer is empty", "remove these rows, or write the answer"),
    "mojibake": ("warning", "text decoded with the wrong encoding (like Ã© for é)", "read the original as UTF-8, or repair it with the ftfy package"),
    "replacement": ("warning", "replacement characters (U+FFFD): text was lost when it was decoded", "decode the original anew"),
    "invisible": ("warning", "byte order marks or control characters inside the text", "remove them"),
    "special_in_content": (
        "warning",
        "the text itself holds special tokens, which become control tokens of the chat",
        "remove or rewrite them: they can end a turn in the middle of a text",
    ),
    "duplicate_row": ("warning", "the same prompt and answers as an earlier row", "remove the repeats, unless the weight is meant"),
    "repeated_prompt": ("note", "the same prompt as an earlier row, with another answer", "keep them together when splitting into train and test"),
    "prompt_in_test": ("error", "the prompt is also a test item", "remove these rows from training"),
    "near_test": ("warning", "shares a run of words with a test item", "look at them; remove the rows that are the item in other words"),
}
"""Code -> severity, what it is, the mend. Errors of readers and templates bring their own sentence instead."""


@dataclass(frozen=True)
class Finding:
    """One kind of problem over the whole data."""

    code: str
    severity: Severity
    count: int
    sources: tuple[str, ...]
    """The first few, such as "train.jsonl:12" or "train.jsonl:12 ~ test.jsonl:3"."""
    message: str
    mend: str = ""

    def sentence(self) -> str:
        """The finding as one sentence."""
        where = ", ".join(self.sources) + (", ..." if self.count > len(self.sources) else "")
        return f"{self.count} row{'s' * (self.count != 1)}: {self.message} ({where})" + (f"; {self.mend}." if self.mend else ".")


@dataclass
class Tally:
    """Counts problems while rows stream by."""

    counts: dict[str, int] = field(default_factory=dict)
    sources: dict[str, list[str]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)

    def note(self, code: str, source: str, words: str = "") -> None:
        self.counts[code] = self.counts.get(code, 0) + 1
        first = self.sources.setdefault(code, [])
        if len(first) < SHOWN:
            first.append(source)
        if words:
            self.words.setdefault(code, words)

    def findings(self) -> tuple[Finding, ...]:
        found = []
        for code, count in self.counts.items():
            severity, message, mend = KINDS.get(code, ("error", "", ""))
            if code in self.words:
                message, mend = self.words[code].rstrip("."), ""
            found.append(Finding(code, severity, count, tuple(self.sources[code]), message, mend))
        return tuple(sorted(found, key=lambda f: (ORDER.index(f.severity), f.code)))


@dataclass(frozen=True)
class CheckReport:
    """The outcome of `check`."""

    name: str
    shape: str
    records: int
    tokens: int
    trained_tokens: int
    longest: int
    """Tokens of the longest row."""
    findings: tuple[Finding, ...]
    example: Text | None = None
    """The first row, decoded, trained tokens coloured."""

    @property
    def ok(self) -> bool:
        """No finding of severity error."""
        return not any(f.severity == "error" for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Everything but the example, as JSON-able values."""
        findings = [{k: list(v) if isinstance(v, tuple) else v for k, v in vars(f).items()} for f in self.findings]
        rest = {k: v for k, v in vars(self).items() if k not in ("findings", "example")}
        return json.loads(json.dumps({**rest, "ok": self.ok, "findings": findings}))

    def __rich__(self) -> Group:
        """For a rich console: totals, findings, the example. Nothing from the data is read as markup."""
        from rich.console import Group
        from rich.table import Table as Grid
        from rich.text import Text

        head = (
            f"{self.name}: {self.records} records of shape {self.shape}, {self.tokens} tokens, {self.trained_tokens} trained, longest {self.longest}"
        )
        grid = Grid("", "finding", "rows", "which and what to do", box=None, padding=(0, 1))
        colours = {"error": "bold red", "warning": "yellow", "note": "cyan"}
        for f in self.findings:
            where = ", ".join(f.sources) + (", ..." if f.count > len(f.sources) else "")
            words = f"{f.message} ({where})" + (f"; {f.mend}" if f.mend else "")
            grid.add_row(Text(f.severity, colours[f.severity]), Text(f.code), Text(str(f.count)), Text(escaped(words)))
        found = grid if self.findings else Text("nothing found", "green")
        return Group(Text(escaped(head)), found, *([Text("first row, trained tokens in green:", "dim"), self.example] if self.example else []))


def escaped(text: str) -> str:
    """Control characters written as \\x1b, so that text from data cannot steer the terminal; tabs and line ends stay."""
    return "".join(c if c in "\n\t" or (c.isprintable() and c not in "\u200e\u200f") or c == " " else _code(c) for c in text)


def _code(c: str) -> str:
    return f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}" if ord(c) < 65536 else f"\\U{ord(c):08x}"
