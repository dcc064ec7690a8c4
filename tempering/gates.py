"""Gates: conditions on a ledger that make a run fail with exit code 3, for example `--gate "keep >= 0.98"`.

A gate compares the point estimate, and says when its items cannot tell on which side of the threshold the truth is, with how many could. To be held
to what is certain rather than to what was seen, gate a bound: `keep.lower >= 0.98`.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tempering.errors import GateFailed, UserError
from tempering.ledger_types import GateResult, Ledger, ProbeChange, number
from tempering.stats import Interval

GRAMMAR = """NAME[.FIELD] OP NUMBER, for example "keep >= 0.98"
  NAME   keep (share of the items right before that are still right), gain (improvement on the target), kl (nats per token), or a probe
  FIELD  keep, gain, kl: point (default), lower, upper; keep and probes: lost (items)
         probes: after (default), before, lower, upper (bounds of after), diff, diff_lower, diff_upper, keep, or a summary such as ece
  OP     >=  >  <=  <"""

_FORM = re.compile(r"\s*(?P<target>[^<>=]*?[^<>=\s])\s*(?P<op>>=|<=|>|<)\s*(?P<number>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)\s*")
_OPS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
_WHOLE = {"keep": ("point", "lower", "upper", "lost"), "gain": ("point", "lower", "upper"), "kl": ("point", "lower", "upper")}
_PROBE = ("after", "point", "before", "lower", "upper", "diff", "diff_lower", "diff_upper", "lost", "keep")
_NAMED = 10
"""How many broken items a result names."""


@dataclass(frozen=True)
class Gate:
    """A parsed gate. `target` is split into name and field only against a ledger, since probe names may hold dots."""

    text: str
    target: str
    op: str
    threshold: float

    @property
    def wants_more(self) -> bool:
        return self.op in (">=", ">")


@dataclass(frozen=True)
class _Reading:
    """What a gate's target is worth in a ledger."""

    what: str
    value: float | None
    interval: Interval | None = None
    """Of the value itself; None where the gate compares a bound, a count or a summary."""
    items: int | None = None
    lost: tuple[str, ...] = ()
    gained: tuple[str, ...] = ()
    share: bool = False
    bound_of: Interval | None = None
    better_up: bool = True


def parse(text: str) -> Gate:
    """Raises UserError, showing the grammar, for anything else than NAME[.FIELD] OP NUMBER."""
    found = _FORM.fullmatch(text)
    if found is None or not math.isfinite(float(found["number"])):
        raise UserError(f"gate {text!r} is malformed; expected {GRAMMAR}")
    return Gate(text.strip(), found["target"], found["op"], float(found["number"]))


def validate(gates: Iterable[str], probes: Sequence[str]) -> list[Gate]:
    """Parse gates and check their names before anything is trained. Fields that name a summary are only known after measuring.

    Raises:
        UserError: a malformed gate, or an unknown probe, naming the closest right one.
    """
    parsed = [parse(text) for text in gates]
    for gate in parsed:
        _split(gate, probes)
    return parsed


def check(ledger: Ledger, gates: Iterable[str | Gate]) -> list[GateResult]:
    """One result for each gate, in order.

    Raises:
        UserError: malformed gates, unknown probes or fields, a gate on something the ledger has not measured, a threshold no share can reach.
    """
    return [_check(ledger, parse(gate) if isinstance(gate, str) else gate) for gate in gates]


def raise_if_failed(results: Sequence[GateResult]) -> None:
    """Raises GateFailed (exit code 3) naming every failed gate with its value, its bounds and the first items that broke it."""
    failed = [result for result in results if not result.passed]
    if failed:
        raise GateFailed("\n".join(result.message for result in failed))


def _check(ledger: Ledger, gate: Gate) -> GateResult:
    name, field = _split(gate, [probe.name for probe in ledger.probes])
    reading = _whole(ledger, gate, name, field) if name in _WHOLE else _of_probe(ledger.probe(name), gate, field)
    if reading.share and not 0.0 <= gate.threshold <= 1.0:
        hint = f"{name}.diff {gate.op} {gate.threshold:g}" if name not in _WHOLE else f"{gate.target} {gate.op} {gate.threshold / 100:g}"
        raise UserError(f"gate {gate.text!r} compares a share, which lies between 0 and 1, to {gate.threshold:g}; did you mean {hint!r}?")
    passed = reading.value is not None and _OPS[gate.op](reading.value, gate.threshold)
    undecided, needed, note = _decided(gate, reading, passed)
    broken = reading.lost if gate.wants_more == reading.better_up else reading.gained
    interval = reading.interval or reading.bound_of
    return GateResult(
        gate=gate.text,
        passed=passed,
        value=reading.value,
        lower=interval.low if interval else None,
        upper=interval.high if interval else None,
        threshold=gate.threshold,
        what=reading.what,
        undecided=undecided,
        items=reading.items,
        items_needed=needed,
        broken=broken[:_NAMED],
        broken_count=len(broken),
        note=note,
    )


# -------------------------------------------------------------------------------------------------------------------------- what a gate names


def _split(gate: Gate, probes: Sequence[str]) -> tuple[str, str]:
    known = [*_WHOLE, *probes]
    if gate.target in known:
        return gate.target, "point"
    name, dot, field = gate.target.rpartition(".")
    if dot and name in known:
        if name in _WHOLE and field not in _WHOLE[name]:
            raise UserError(f"gate {gate.text!r}: {name!r} has no field {field!r}{_closest(field, _WHOLE[name])}; expected {GRAMMAR}")
        return name, field
    wanted = [gate.target, name] if dot else [gate.target]
    close = next((match for word in wanted for match in difflib.get_close_matches(word, known, n=1, cutoff=0.5)), None)
    mean = f"did you mean {close!r}?" if close else f"expected one of {', '.join(known)}."
    raise UserError(f"gate {gate.text!r}: there is no probe named {gate.target!r}; {mean}")


def _closest(word: str, choices: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else f", it has {', '.join(choices)}"


def _whole(ledger: Ledger, gate: Gate, name: str, field: str) -> _Reading:
    if name == "kl":
        if "kl_per_token" not in ledger.kl:
            raise UserError(f"gate {gate.text!r}: the divergence from the start model was not measured; measure it, or leave the gate out.")
        kl = ledger.kl
        interval = Interval(kl["kl_per_token"], kl.get("low"), kl.get("high"), 1 - ledger.alpha, "t")
        return _bounded(gate, "KL from the start model, nats per token", interval, field, None, better_up=False)
    if name == "gain":
        if ledger.gain is None:
            targets = ", ".join(probe.name for probe in ledger.on("target"))
            why = f"the target probes {targets} have units of their own; gate one of them" if targets else "no probe is on the target side"
            raise UserError(f"gate {gate.text!r}: the ledger has no single gain, {why}.")
        targets_ = ledger.on("target")
        items = sum(p.n for p in targets_ if p.kind == "binary") or targets_[0].n
        return _bounded(gate, f"improvement on {ledger.gain_on}", ledger.gain, field, items, *_broken(targets_))
    probes = [probe for probe in ledger.on("keep") if probe.kind == "binary"]
    if not probes:
        raise UserError(f"gate {gate.text!r}: no binary probe is on the keep side; measure a keep battery, or leave the gate out.")
    lost, gained = _broken(probes)
    if field == "lost":
        return _Reading("number of keep-side items lost", len(lost), lost=lost, gained=gained, better_up=False, items=ledger.keep_items)
    what = f"share of the {ledger.keep_items} items right before that are still right"
    if ledger.keep is None:
        return _Reading(what, None, items=0, share=True)
    return _bounded(gate, what, ledger.keep, field, ledger.keep_items, lost, gained, share=True)


def _of_probe(probe: ProbeChange, gate: Gate, field: str) -> _Reading:
    lost, gained = _broken([probe])
    up = probe.higher_is_better is not False
    share = probe.kind == "binary"
    what = f"{probe.metric} on {probe.name}"
    if field in ("point", "after", "lower", "upper"):
        bound = "point" if field == "after" else field
        return _bounded(gate, f"{what} after", probe.after, bound, probe.n, lost, gained, share=share, better_up=up)
    if field == "before":
        return _Reading(f"{what} before", probe.before.point, probe.before, probe.n, share=share)
    if field in ("diff", "diff_lower", "diff_upper"):
        bound = {"diff": "point", "diff_lower": "lower", "diff_upper": "upper"}[field]
        return _bounded(gate, f"change of {what}", probe.difference, bound, probe.n, lost, gained, better_up=up)
    if field == "lost":
        return _Reading(f"number of items lost on {probe.name}", len(lost), items=probe.n, lost=lost, gained=gained, better_up=False)
    if field == "keep":
        if probe.kind != "binary":
            raise UserError(f"gate {gate.text!r}: {probe.name!r} is not a binary probe, so no share of its items is kept; gate {probe.name}.diff.")
        right = len(probe.kept_ids) + len(probe.lost_ids)
        words = f"share of the {right} items of {probe.name} right before that are still right"
        if probe.keep is None:
            return _Reading(words, None, items=0, share=True)
        return _bounded(gate, words, probe.keep, "point", right, lost, gained, share=True)
    if field in probe.summary:
        value = probe.summary[field][1]
        return _Reading(f"{field} of {probe.name} after", value)
    choices = (*_PROBE, *probe.summary)
    raise UserError(f"gate {gate.text!r}: probe {probe.name!r} has no field {field!r}{_closest(field, choices)}; expected {GRAMMAR}")


def _broken(probes: Iterable[ProbeChange]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    probes = list(probes)
    lost = tuple(f"{probe.name}/{id}" for probe in probes for id in probe.lost_ids)
    return lost, tuple(f"{probe.name}/{id}" for probe in probes for id in probe.gained_ids)


def _bounded(
    gate: Gate,
    what: str,
    interval: Interval,
    field: str,
    items: int | None,
    lost: tuple[str, ...] = (),
    gained: tuple[str, ...] = (),
    *,
    share: bool = False,
    better_up: bool = True,
) -> _Reading:
    common = {"items": items, "lost": lost, "gained": gained, "share": share, "better_up": better_up}
    if field == "point":
        return _Reading(what, interval.point, interval, **common)
    value = interval.low if field == "lower" else interval.high
    if value is None:
        raise UserError(f"gate {gate.text!r}: {what} has no {field} bound ({interval.note or 'not measured'}); gate the point.")
    return _Reading(f"the {field} bound of the {what}", value, bound_of=interval, **common)


# ---------------------------------------------------------------------------------------------------------------------- can the items decide it


def _decided(gate: Gate, reading: _Reading, passed: bool) -> tuple[bool, int | None, str]:
    """(undecided, items needed, what to say about it)."""
    if reading.value is None:
        # a gate that nothing can be measured for protects nothing, so it must not let a run through
        return True, None, "no item was right before, so there is nothing to keep: choose items the base model can do"
    if reading.bound_of is not None:
        holds = _OPS[gate.op](reading.bound_of.point, gate.threshold)
        if passed or not holds:
            return False, None, ""
        needed = _needed(gate, reading, reading.bound_of)
        enough = f"with about {needed:,} items at the same value the bound would too" if needed else "the point is at the threshold"
        return True, needed, f"the point {number(reading.bound_of.point, digits=4)} holds and only its bound does not; {enough}"
    if reading.interval is None:
        return False, None, ""
    if reading.interval.low is None and reading.interval.high is None:
        return True, None, "undecided: there is no interval"
    if reading.interval.excludes(gate.threshold):
        return False, None, ""
    # a bound that has just reached the threshold decides a gate of that sign
    if passed and gate.threshold == (reading.interval.low if gate.wants_more else reading.interval.high):
        return False, None, ""
    needed = _needed(gate, reading, reading.interval)
    have = f"{reading.items:,} items" if reading.items is not None else "these items"
    if needed is None:
        return True, None, f"undecided: {have} cannot tell, and no number could while the value is at the threshold"
    return True, needed, f"undecided: {have} cannot tell, about {needed:,} could if the value stays the same"


def _needed(gate: Gate, reading: _Reading, interval: Interval) -> int | None:
    if reading.items is None or interval.point == gate.threshold:
        return None
    if reading.share:
        from tempering.power import share_items_needed

        # the bounds of an interval for `after` are two-sided; one of them alone is one-sided at half the error
        level = interval.level if "one-sided" in interval.method else 0.5 + interval.level / 2
        needed = share_items_needed(interval.point, gate.threshold, level=level)
        return None if needed is None else max(needed, reading.items + 1)
    bound = interval.low if interval.point > gate.threshold else interval.high
    if bound is None:
        return None
    # widths shrink with the square root of the items
    return max(reading.items + 1, math.ceil(reading.items * ((interval.point - bound) / (interval.point - gate.threshold)) ** 2))
