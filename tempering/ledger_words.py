"""The ledger in one sentence: what was gained, what was kept, what it cost.

    Gained 31 points on gsm-like (95% interval 24 to 38), kept 96.2% of what it knew (at least 93.9%), lost 9 items, mostly in arithmetic;
    KL 0.12 nats/token; 210 s, 3.1 GiB.

Words follow the verdicts: "gained" is said only where the adjusted test says so, otherwise the sentence says what could not have been seen.
"""

from __future__ import annotations

from collections.abc import Callable

from tempering.ledger_types import Ledger, ProbeChange, number, percent, points
from tempering.stats import Interval


def sentence(ledger: Ledger) -> str:
    """The one sentence that sums the exchange up: gained, kept, lost, how far, at what cost."""
    parts = [*_gains(ledger), *_kept(ledger)]
    if not parts:
        parts = ["Nothing was measured"]
    text = ", ".join(parts)
    text = text[:1].upper() + text[1:]
    tail = []
    if "kl_per_token" in ledger.kl:
        tail.append(f"KL {number(ledger.kl['kl_per_token'])} nats/token")
    costs = _costs(ledger)
    if costs:
        tail.append(costs)
    return "; ".join([text, *tail]) + "."


def _gains(ledger: Ledger) -> list[str]:
    targets = ledger.on("target")
    binary = [probe for probe in targets if probe.kind == "binary"]
    said = [_one(probe) for probe in binary]
    if len(binary) > 1 and ledger.gain is not None:
        said = [_pooled(ledger.gain, ledger.gain_on)]
    return said + [_one(probe) for probe in targets if probe.kind == "continuous"]


def _pooled(gain: Interval, where: str) -> str:
    verb = "changed" if not gain.excludes(0.0) else "gained" if gain.point > 0 else "lost"
    size = points(abs(gain.point)) if verb != "changed" else points(gain.point, sign=True)
    return f"{verb} {size} points on {where} ({_interval(gain, points, flip=verb == 'lost')})"


def _one(probe: ProbeChange) -> str:
    better = probe.improvement
    if probe.kind == "continuous":
        rose = "rose" if probe.difference.point > 0 else "fell"
        if probe.verdict == "no change detected":
            return f"{probe.metric} on {probe.name} shows no change ({number(probe.difference.point, sign=True)}; {_unseen(probe)})"
        word = "better" if probe.verdict == "gained" else "worse"
        bounds = _interval(probe.difference, number, flip=probe.difference.point < 0)
        return f"{probe.metric} on {probe.name} {rose} by {number(abs(probe.difference.point))}, which is {word} ({bounds})"
    if probe.verdict == "no change detected":
        return f"no change seen on {probe.name} ({points(better.point, sign=True)} points, {_interval(better, points)}; {_unseen(probe)})"
    bounds = _interval(better, points, flip=probe.verdict == "lost")
    return f"{probe.verdict} {points(abs(better.point))} points on {probe.name} ({bounds})"


def _unseen(probe: ProbeChange) -> str:
    if probe.mde is None:
        return "too few items to see any"
    return f"could not see less than {probe.show(probe.mde)}"


def _interval(interval: Interval, show: Callable[[float], str], *, flip: bool = False) -> str:
    if interval.low is None or interval.high is None:
        return "no interval"
    low, high = (-interval.high, -interval.low) if flip else (interval.low, interval.high)
    return f"{interval.level:.0%} interval {show(low)} to {show(high)}"


def _kept(ledger: Ledger) -> list[str]:
    if ledger.keep is None:
        return []
    said = f"kept {percent(ledger.keep.point)} of what it knew"
    if ledger.keep.low is not None:
        said += f" (at least {percent(ledger.keep.low)})"
    counts = {probe.name: len(probe.lost_ids) for probe in ledger.on("keep") if probe.kind == "binary" and probe.lost_ids}
    lost = sum(counts.values())
    won = sum(len(probe.gained_ids) for probe in ledger.on("keep") if probe.kind == "binary")
    result = [said]
    if lost:
        items = f"lost {_items(lost)}"
        worst = max(counts, key=lambda name: counts[name])
        if len(counts) == 1:
            items += f", all in {worst}" if lost > 1 else f" in {worst}"
        elif counts[worst] > lost / 2:
            items += f", mostly in {worst}"
        result.append(items)
    if won:
        result.append(f"won {won} other{'s' if won > 1 else ''}" if lost else f"won {_items(won)}")
    return result


def _items(count: int) -> str:
    return "1 item" if count == 1 else f"{count} items"


def _costs(ledger: Ledger) -> str:
    said = []
    if "tokens" in ledger.cost:
        said.append(f"{ledger.cost['tokens']:,.0f} tokens")
    if "seconds" in ledger.cost:
        seconds = ledger.cost["seconds"]
        said.append(f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h")
    if "peak_memory_gib" in ledger.cost:
        said.append(f"{ledger.cost['peak_memory_gib']:.1f} GiB")
    return ", ".join(said)
