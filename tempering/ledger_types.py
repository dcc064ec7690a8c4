"""The ledger as a value: what one model gained and lost against another, down to the items, and its JSON.

Reading a ledger needs neither NumPy, SciPy nor torch: every number in it is already worked out. `ledger.compare` makes one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from tempering.errors import UserError
from tempering.home import write_atomic
from tempering.stats import Interval

VERSION = 1

Verdict = Literal["gained", "lost", "changed", "no change detected"]
""""changed" is for probes where neither direction is better."""


@dataclass(frozen=True)
class ItemChange:
    """One item whose outcome changed, with what the two models said."""

    id: str
    prompt: str
    expected: str
    before_output: str
    after_output: str
    before_score: float
    after_score: float
    cut: bool = False
    """True if prompt or expected answer was too long to keep whole: such an item cannot be trained on again."""


@dataclass(frozen=True)
class ProbeChange:
    """One probe, before and after, on the same items."""

    name: str
    side: Literal["target", "keep"]
    kind: Literal["binary", "continuous"]
    metric: str
    higher_is_better: bool | None
    """None: neither direction is better (output length)."""
    n: int
    before: Interval
    """Mean score before, with an interval of its own (Wilson for shares)."""
    after: Interval
    difference: Interval
    """Mean of after - before over the items, in the probe's own direction: negative is an improvement where lower is better."""
    p: float
    test: str
    p_adjusted: float
    """Holm, over every probe and model of the call."""
    verdict: Verdict
    mde: float | None
    """Smallest change seen with 80% power at these items, in units of the score; None where these items cannot see any."""
    gained_ids: tuple[str, ...] = ()
    kept_ids: tuple[str, ...] = ()
    lost_ids: tuple[str, ...] = ()
    never_ids: tuple[str, ...] = ()
    """Binary: wrong before and after. Continuous: empty (all that neither gained nor lost are kept)."""
    gained: tuple[ItemChange, ...] = ()
    lost: tuple[ItemChange, ...] = ()
    """Texts of the first gained and lost items; the ids are always complete."""
    keep: Interval | None = None
    """Share of the items right before that are still right after; None for continuous probes and where none was right."""
    item_rule: str = ""
    """What counts as a gained or lost item."""
    headroom: str = ""
    summary: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    """Aggregates that are not item means, before and after: {"ece": (0.21, 0.09)}."""
    notes: tuple[str, ...] = ()

    @property
    def improvement(self) -> Interval:
        """The difference turned so that up is better."""
        d = self.difference
        if self.higher_is_better is not False:
            return d
        return replace(d, point=0.0 - d.point, low=None if d.high is None else 0.0 - d.high, high=None if d.low is None else 0.0 - d.low)

    def show(self, value: float, *, sign: bool = False) -> str:
        """A value or change of this probe for people: shares in points."""
        return points(value, sign=sign) if self.kind == "binary" else number(value, sign=sign)

    @property
    def verdict_text(self) -> str:
        if self.verdict != "no change detected":
            return self.verdict
        if self.mde is None:
            return "no change detected: too few items or too little spread to see any"
        unit = " points" if self.kind == "binary" else ""
        return f"no change detected: could not see less than {self.show(self.mde)}{unit}"


@dataclass(frozen=True)
class GateResult:
    """Whether one gate held. `undecided`: these items cannot tell on which side of the threshold the truth is."""

    gate: str
    passed: bool
    value: float | None
    lower: float | None
    upper: float | None
    threshold: float
    what: str
    """What was compared, in words: "share of the 412 items right before that are still right"."""
    undecided: bool = False
    items: int | None = None
    items_needed: int | None = None
    broken: tuple[str, ...] = ()
    """"probe/item" of the items that count against the gate; first ones."""
    broken_count: int = 0
    note: str = ""

    @property
    def message(self) -> str:
        """One sentence."""
        value = "nothing to measure" if self.value is None else number(self.value, digits=4)
        text = f"gate {self.gate!r} {'holds' if self.passed else 'FAILED'}: {self.what} is {value}"
        named = (("lower bound", self.lower), ("upper bound", self.upper))
        bounds = [f"{name} {number(bound, digits=4)}" for name, bound in named if bound is not None and bound != self.value]
        text += f" ({', '.join(bounds)})" if bounds else ""
        if self.note:
            text += f"; {self.note}"
        if not self.passed and self.broken_count:
            more = f" and {self.broken_count - len(self.broken)} more" if self.broken_count > len(self.broken) else ""
            text += f"; broken by {', '.join(self.broken)}{more}"
        return text


@dataclass(frozen=True)
class Ledger:
    """The exchange between two models: what was gained on the target, what was kept of the rest, and what it cost."""

    before_model: str
    after_model: str
    alpha: float
    comparisons: int
    """How many probe x model comparisons the p values are adjusted for."""
    probes: tuple[ProbeChange, ...]
    gain: Interval | None = None
    """Improvement on the target side: pooled over the items of its binary probes, or that of its only continuous probe."""
    gain_on: str = ""
    keep: Interval | None = None
    """Share still right of all keep-side items right before; each bound one-sided."""
    keep_items: int = 0
    """How many keep-side items were right before."""
    kl: Mapping[str, float] = field(default_factory=dict)
    """{"kl_per_token": nats from the start model, "low", "high", "tokens"}, as `measure.kl_from` gives it; empty if not measured."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """{"tokens", "seconds", "peak_memory_gib"} and whatever else was measured."""
    gates: tuple[GateResult, ...] = ()
    version: int = VERSION

    def probe(self, name: str) -> ProbeChange:
        for probe in self.probes:
            if probe.name == name:
                return probe
        raise KeyError(name)

    def on(self, side: Literal["target", "keep"]) -> tuple[ProbeChange, ...]:
        return tuple(probe for probe in self.probes if probe.side == side)

    def sentence(self) -> str:
        """The one sentence that sums the exchange up."""
        from tempering.ledger_words import sentence

        return sentence(self)

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes, *, name: str = "ledger.json") -> Ledger:
        """Raises UserError, naming the field, for anything that is not a ledger this version can read."""
        from pydantic import TypeAdapter, ValidationError

        try:
            raw = json.loads(text)
        except ValueError as error:
            raise UserError(f"{name} is not JSON ({error}); make it again with `temper compare`.") from None
        version = raw.get("version") if isinstance(raw, dict) else None
        if not isinstance(version, int):
            raise UserError(f"{name} is not a ledger (no version number); expected a file that `temper run` or `temper compare` wrote.")
        if version > VERSION:
            raise UserError(f"{name} has ledger version {version}, this tempering reads up to {VERSION}; upgrade tempering.")
        try:
            return TypeAdapter(cls).validate_python(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(f"{name}: field {where}: {first['msg']}; make the ledger again with `temper compare`.") from None

    def write(self, path: Path) -> None:
        """Write the whole file or nothing."""
        write_atomic(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Ledger:
        try:
            text = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; expected the ledger.json of a run folder.") from None
        return cls.from_json(text, name=str(path))


# ------------------------------------------------------------------------------------------------------------------------ numbers for people


def points(value: float, *, sign: bool = False) -> str:
    """A share in points of a hundred: one decimal under 10 points, none above. 0.312 -> "31"."""
    text = f"{100 * value:.{0 if abs(100 * value) >= 9.95 else 1}f}"
    return signed(text.removesuffix(".0"), sign=sign)


def percent(value: float) -> str:
    """0.9624 -> "96.2%"; never rounded up to 100%."""
    return "100%" if value == 1.0 else f"{min(99.9, round(100 * value, 1)):g}%"


def number(value: float, *, sign: bool = False, digits: int = 3) -> str:
    """About `digits` significant digits, with a true minus sign."""
    return signed(f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}", sign=sign)


def signed(text: str, *, sign: bool = False) -> str:
    """A formatted number with a true minus sign, a plus on request, and no sign on zero."""
    if text.lstrip("-").strip("0.") == "":
        return text.lstrip("-")
    if text.startswith("-"):
        return "\u2212" + text[1:]
    return f"+{text}" if sign else text
