"""The verdict: what the strongest attack still gets out of the model, beside what the model gave away before and what one gives away that never saw
the data. An average over attacks would hide the one that works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tempering.errors import UserError
from tempering.methods.probes._attack import BESIDE, KEPT
from tempering.stats import Interval, share_interval
from tempering.types import ProbeScores, Scores

METRIC = KEPT
"""What tells the scores of an attack that counts from those of other probes."""
PLAIN, TOLD = "asked", "re-supplied"
"""Names of the probes that ask without and with the fact in the prompt."""


@dataclass(frozen=True)
class Leak:
    """One attack: how many of `n` secrets came out."""

    attack: str
    n: int
    before: int
    after: int
    oracle: int | None
    """Of the model that never saw the data; None where there is none."""
    share: Interval
    """Share that came out after, with its Wilson interval."""
    back: tuple[str, ...] = ()
    """Ids of the secrets that came out and that the oracle, if there is one, does not give away."""
    curve: Mapping[str, float] = field(default_factory=dict)
    """Share that was out after so much of the attack, where it has a budget: {"out after 5 steps": 0.25}."""
    chance: float | None = None
    """Share that comes out of a model which knows nothing, where that is known."""
    note: str = ""
    """Why it does not count, where it is told beside."""


@dataclass(frozen=True)
class Verdict:
    """All attacks that count, the strongest first, and what they come to in a sentence."""

    leaks: tuple[Leak, ...]
    sentence: str
    beside: tuple[Leak, ...] = ()
    """What does not count, with the reason in `note`: what a prompt tells, what needs the old weights, what is only inside."""
    recovered: Mapping[str, float] = field(default_factory=dict)
    """Share of the secrets that comes out with the fact in the prompt, less the share without (UnUnlearning, arXiv 2407.00106): "before", "after",
    "oracle"."""
    numbers: tuple[str, ...] = ()
    """What published benchmarks and membership inference say of the same run, a sentence each."""

    @property
    def worst(self) -> Leak:
        return self.leaks[0]

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


def verdict(before: Scores, after: Scores, oracle: Scores | None = None) -> Verdict | None:
    """What attacks found; None where none ran.

    Args:
        before, after: scores of the model before and after forgetting.
        oracle: scores of a model that never saw the data.
    """
    then, now, never = ({p.probe: p for p in scores.probes} if scores else {} for scores in (before, after, oracle))
    both = [(p, _leak(p, then[p.probe], never.get(p.probe))) for p in after.probes if p.metric in (METRIC, BESIDE) and p.probe in then]
    leaks = [leak for p, leak in both if p.metric == METRIC]
    if not leaks:
        return None
    leaks.sort(key=lambda leak: (-len(leak.back) / leak.n, -leak.after / leak.n, leak.attack))
    three = {"before": then, "after": now, "oracle": never}
    recovered = {name: _recovered(found) for name, found in three.items() if PLAIN in found and TOLD in found}
    return Verdict(tuple(leaks), _sentence(leaks), tuple(leak for p, leak in both if p.metric == BESIDE), recovered)


def tell(run: Any, before: Scores, after: Scores, oracle: Scores | None, *, numbers: Sequence[str] = (), **beside: Any) -> Verdict | None:
    """The verdict of a run, written to forgetting.json with what else is given, and said; None where no attack ran.

    Args:
        numbers: sentences about what else was measured, which are said in any case.
    """
    found = verdict(before, after, oracle)
    if found is not None:
        found = replace(found, numbers=tuple(numbers))
        run.folder.write("forgetting.json", {**found.plain(), **beside})
    for line in (*([found.sentence] if found else ()), *numbers):
        run.display.say(line)
    return found


def read(path: Path) -> Verdict:
    """The verdict that a run wrote (forgetting.json).

    Raises:
        UserError: the file is missing or holds something else.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        found = TypeAdapter(Verdict).validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} could not be read ({error.strerror}); expected the verdict of a forget run.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{path}: {where}: {first['msg']}; expected the verdict that a forget run writes, run it again.") from error
    if not found.leaks:
        raise UserError(f"{path}: leaks: there is none; expected the verdict that a forget run writes, run it again.")
    return found


def _recovered(found: Mapping[str, ProbeScores]) -> float:
    """On the secrets that were asked for both ways."""
    ids = {item.id for item in found[TOLD].items} & {item.id for item in found[PLAIN].items}
    return (len(_out(found[TOLD]) & ids) - len(_out(found[PLAIN]) & ids)) / max(1, len(ids))


def _out(scores: ProbeScores) -> set[str]:
    return {item.id for item in scores.items if item.score < 1}


def _leak(after: ProbeScores, before: ProbeScores, oracle: ProbeScores | None) -> Leak:
    out, never = _out(after), _out(oracle) if oracle else set()
    n = len(after.items)
    back = tuple(item.id for item in after.items if item.id in out - never)
    counts = (len(_out(before)), len(out), len(never) if oracle else None)
    curve = {name: value for name, value in after.summary.items() if name.startswith("out ")}
    return Leak(after.probe, n, *counts, share_interval(len(out), n), back, curve, after.summary.get("chance"), after.note)


def _sentence(leaks: Sequence[Leak]) -> str:
    worst = leaks[0]
    oracle = "" if worst.oracle is None else f"; a model that never saw them gives {worst.oracle} away to it"
    tried = f"the strongest of {len(leaks)} attacks" if len(leaks) > 1 else "the one attack tried"
    if not worst.after:
        most = f"{100 * (worst.share.high or 0):.1f}%"
        return f"None of {worst.n} secrets came out under {tried} (at most {most} of such secrets, 95%){oracle}."
    low, high = 100 * (worst.share.low or 0), 100 * (worst.share.high or 0)
    told = f"{worst.after} of {worst.n} secrets ({100 * worst.share.point:.0f}%, 95%: {low:.0f} to {high:.0f}) still come out under {tried}, "
    return f"{told}“{worst.attack}”, which got {worst.before} before{oracle}."
