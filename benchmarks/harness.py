"""Contenders run turn and turn about, each in a fresh process, and what comes out is a ratio of medians with its spread.

A round runs every contender once: A B C, A B C, ... so that a slow minute of the machine falls on all of them. A round is a seed too: it gives the
order of the rows, the same for everyone. A contender may have several settings; the first round runs them all and the fastest goes on, so a peer is
compared at its best and what was tried is stored. Work that must be equal (rows, scored tokens) is asserted to be, and the losses at the end must
agree within their spread over the seeds: a faster wrong answer has no ratio.

Every result says how fast this machine multiplied matrices in the same run, before and after, and what share of that limit was reached.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import children, precision
from benchmarks.machine import commit, describe

RESULTS = Path(__file__).resolve().parent / "results"
ROUNDS, QUICK_ROUNDS = 5, 2
Report = dict[str, Any]
Run = Callable[[str, Mapping[str, Any]], Report]
"""(target, keywords) -> report of a fresh process; tests put a function in its place."""


@dataclass(frozen=True)
class Contender:
    """Something that does the work.

    `target` is `module:function`, called in a child with the benchmark's inputs, one of `settings`, and the seed of the round.
    """

    name: str
    target: str
    settings: tuple[Mapping[str, Any], ...] = ({},)
    note: str = ""
    """What a reader has to know about the settings."""


@dataclass(frozen=True)
class Target:
    """What the project wants of a number: of the ratio, of our own value, or of the share of the roofline ("share")."""

    least: float | None = None
    most: float | None = None
    of: str = "ratio"

    def met(self, value: float | None) -> bool | None:
        """None where there is no value."""
        if value is None:
            return None
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


@dataclass(frozen=True)
class Benchmark:
    """Contenders for the same work.

    `prepare` writes the inputs once, in a child, and returns facts; `limit(facts, best)` is the speed (in `unit`) that the matrix products alone
    allow, None where that has no meaning. `targets` are keyed by (metric, peer).
    """

    name: str
    ours: Contender
    peers: tuple[Contender, ...]
    prepare: str
    inputs: Mapping[str, Any]
    quick_inputs: Mapping[str, Any]
    unit: str = "tokens/s"
    equal: tuple[str, ...] = ("rows", "scored")
    tolerance: float | None = 0.01
    """How far losses may differ beyond their spread over seeds; None where contenders have no loss to compare."""
    limit: Callable[[Mapping[str, Any], Mapping[str, Any]], float] | None = None
    targets: Mapping[tuple[str, str], Target] = field(default_factory=dict)
    whole_process: bool = True
    """Whether the speed of the whole process, start and model loading included, is reported beside the steady one."""
    lean: Contender | None = None
    """Ours once more, with settings for less memory: in rows of its own against the same peers, with the same targets."""

    @property
    def mine(self) -> tuple[Contender, ...]:
        """What of ours takes part."""
        return (self.ours,) if self.lean is None else (self.ours, self.lean)


# ------------------------------------------------------------------------------------------------------------------------ one report to numbers


def steady(report: Report) -> float:
    """Tokens a second over all steps but the first two, which pay for first calls and for memory that is touched for the first time.

    A report of three steps leaves out one, and a single step counts.

    What was computed ahead of the steps for their sake ("ahead_s": a cached reference) is charged to every token alike.
    """
    skip = min(2, len(report["steps_s"]) // 2)
    tokens = sum(report["tokens"][skip:])
    ahead = report.get("ahead_s", 0.0) * tokens / sum(report["tokens"])
    return tokens / (sum(report["steps_s"][skip:]) + ahead)


def whole(report: Report) -> float:
    """Tokens a second of the process from its start to its end, without the seconds that went into judging the result."""
    return sum(report["tokens"]) / (report["wall_s"] - report.get("judging_s", 0.0))


def peak(report: Report) -> float:
    """GiB at the peak."""
    return report["peak_bytes"] / 2**30


def above_imports(report: Report) -> float:
    """GiB at the peak above what the imported libraries occupy."""
    return (report["peak_bytes"] - report["imports_bytes"]) / 2**30


PHASES: tuple[tuple[str, str, Callable[[Report], float]], ...] = (
    ("speed", "steady", steady),
    ("speed", "whole process", whole),
    ("memory", "peak", peak),
    ("memory", "above imports", above_imports),
)

# --------------------------------------------------------------------------------------------------------------------------------------- rounds


@dataclass
class Turns:
    """What a contender did: the setting that was kept, its report of each round, and what else was tried."""

    setting: Mapping[str, Any]
    reports: list[Report]
    tried: list[dict[str, Any]]


def alternate(
    contenders: Sequence[Contender], inputs: Mapping[str, Any], rounds: int, run: Run, say: Callable[[str], None] = print
) -> dict[str, Turns]:
    """All contenders in turn, `rounds` times; in the first round every setting of each, of which the fastest is kept.

    A setting that fails in the first round is noted with its error and left; a contender none of whose settings run is an error.
    """
    turns: dict[str, Turns] = {}
    for seed in range(rounds):
        for contender in contenders:
            settings = contender.settings if seed == 0 else (turns[contender.name].setting,)
            tried: list[tuple[Mapping[str, Any], Report]] = []
            failed: list[dict[str, Any]] = []
            for setting in settings:
                try:
                    report = run(contender.target, {**inputs, **setting, "seed": seed})
                except children.ChildFailed as error:
                    if seed:
                        raise
                    failed.append({"setting": dict(setting), "failed": str(error).strip().splitlines()[-1][:200]})
                    say(f"{contender.name} {dict(setting) or ''} failed: {error}")
                    continue
                tried.append((setting, report))
                say(f"round {seed + 1}: {contender.name} {dict(setting) or ''}: {steady(report):.1f} a second, {peak(report):.2f} GiB")
            if not tried:
                raise children.ChildFailed(f"{contender.name}: none of its settings runs: {failed}")
            if seed == 0:
                best, report = max(tried, key=lambda pair: steady(pair[1]))
                others = [{"setting": dict(s), "steady": round(steady(r), 2), "peak_gib": round(peak(r), 2)} for s, r in tried if s is not best]
                turns[contender.name] = Turns(best, [report], others + failed)
            else:
                turns[contender.name].reports.append(tried[0][1])
    return turns


def check(benchmark: Benchmark, turns: Mapping[str, Turns]) -> None:
    """The same work, and the same outcome within the spread over seeds. Raises AssertionError with the numbers."""
    mine = turns[benchmark.ours.name].reports
    for peer in (*benchmark.mine[1:], *benchmark.peers):
        theirs = turns[peer.name].reports
        for name in benchmark.equal:
            ours, other = [r[name] for r in mine], [r[name] for r in theirs]
            assert ours == other, f"{benchmark.name}: {name} differs: ours {ours}, {peer.name} {other}"
        steps = [[len(r["steps_s"]) for r in reports] for reports in (mine, theirs)]
        assert steps[0] == steps[1], f"{benchmark.name}: optimizer steps differ: ours {steps[0]}, {peer.name} {steps[1]}"
        if benchmark.tolerance is None:
            continue
        differences = [a["loss"] - b["loss"] for a, b in zip(mine, theirs, strict=True)]
        spread = statistics.stdev(r["loss"] for r in mine) if len(mine) > 1 else 0.0
        allowed, found = benchmark.tolerance + 2 * spread, abs(statistics.median(differences))
        assert found <= allowed, f"{benchmark.name}: the final loss differs from {peer.name}'s by {found:.4f}, allowed is {allowed:.4f}"


# ------------------------------------------------------------------------------------------------------------------------------------------ rows


def row(
    benchmark: str,
    metric: str,
    ours: Sequence[float],
    peer: Sequence[float],
    *,
    peer_name: str,
    unit: str,
    command: str,
    machine: Mapping[str, Any],
    target: Target | None = None,
    **more: Any,
) -> dict[str, Any]:
    """One result: medians, their ratio (ours / peer), the spread, and the target with whether it is met.

    `ours` and `peer` are one value a round; without a peer its fields are null and the target, if any, is about our own value.
    """
    mine = statistics.median(ours)
    theirs = statistics.median(peer) if peer else None
    ratio = mine / theirs if theirs else None
    paired = [a / b for a, b in zip(ours, peer, strict=True)] if peer else []
    found: dict[str, Any] = {
        "benchmark": benchmark,
        "metric": metric,
        "ours": _short(mine),
        "peer": _short(theirs),
        "peer_name": peer_name,
        "unit": unit,
        "ratio": _short(ratio),
        "runs": len(ours),
        "command": command,
        "commit": commit(),
        "machine": dict(machine),
        "precision": precision.name(),
        "ours_range": [_short(min(ours)), _short(max(ours))],
        "peer_range": [_short(min(peer)), _short(max(peer))] if peer else None,
        "ratio_range": [_short(min(paired)), _short(max(paired))] if paired else None,
    } | more
    if target is not None:
        value = {"ratio": ratio, "ours": mine, "share": more.get("ours_share")}[target.of]
        found |= {"target": {"of": target.of, "least": target.least, "most": target.most}, "target_met": target.met(value)}
    return found


def rows_of(
    benchmark: Benchmark, turns: Mapping[str, Turns], facts: Mapping[str, Any], best: Mapping[str, Any], command: str
) -> list[dict[str, Any]]:
    """Every result of a benchmark: speed and memory against each peer, steady and whole; then our share of the roofline where one is asked for."""
    machine = describe() | {"matmul_gflops": {dtype: {"linear": b["linear"], "head": b["head"]} for dtype, b in best.items()}}
    limit = benchmark.limit(facts, best) if benchmark.limit else None
    about = {"command": command, "machine": machine, "facts": dict(facts)}
    kinds = ({}, {"lean": True})
    return [row for who, kind in zip(benchmark.mine, kinds, strict=False) for row in _against(benchmark, who, turns, limit, about | kind)]


def _against(benchmark: Benchmark, who: Contender, turns: Mapping[str, Turns], limit: float | None, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    mine, found = turns[who.name], list[dict[str, Any]]()
    first = mine.reports[0]
    work = {name: first[name] for name in benchmark.equal} | {"tokens": sum(first["tokens"])}
    about = {**about, "work": work, "ours_setting": dict(mine.setting), "ours_tried": mine.tried}
    for peer in benchmark.peers:
        theirs = turns[peer.name]
        versus = {"peer_setting": dict(theirs.setting), "peer_tried": theirs.tried, "peer_note": peer.note}
        versus |= {"threads": [first["threads"], theirs.reports[0]["threads"]]}
        versus |= {"losses": [[_short(r.get("loss")) for r in t.reports] for t in (mine, theirs)]}
        for metric, phase, number in PHASES:
            if phase == "whole process" and not benchmark.whole_process:
                continue
            ours, other = [number(r) for r in mine.reports], [number(r) for r in theirs.reports]
            shares = {"limit": limit, "ours_share": statistics.median(ours) / limit, "peer_share": statistics.median(other) / limit} if limit else {}
            more = {name: _short(value) for name, value in shares.items()} if phase == "steady" else {}
            unit, target = benchmark.unit if metric == "speed" else "GiB", benchmark.targets.get((metric, peer.name))
            about_peer = about | versus | more
            found.append(row(benchmark.name, metric, ours, other, peer_name=peer.name, unit=unit, target=target, phase=phase, **about_peer))
    share = benchmark.targets.get(("share", ""))
    if who is benchmark.ours and share is not None and limit:
        ours = [steady(r) for r in mine.reports]
        about |= {"limit": _short(limit), "ours_share": _short(statistics.median(ours) / limit), "phase": "steady"}
        found.append(row(benchmark.name, "speed", ours, [limit] * len(ours), peer_name="roofline", unit=benchmark.unit, target=share, **about))
    return found


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def store(name: str, rows: Sequence[Mapping[str, Any]], folder: Path = RESULTS) -> Path:
    """Write results/NAME.json: whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=folder, prefix=f".{name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(json.dumps(list(rows), indent=1) + "\n")
        os.chmod(scratch, 0o644)
        os.replace(scratch, folder / f"{name}.json")
    except BaseException:
        os.unlink(scratch)
        raise
    return folder / f"{name}.json"


def speeds() -> dict[str, Any]:
    """The roofline's best, measured now in a child of its own: {dtype: {"linear", "head", "decode"}}."""
    return children.call("benchmarks.roofline:now", {})["best"]


def faster(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """The better of two measurements, number by number: a limit is what the machine could do at its best in the run."""
    return {dtype: {k: max(v, b[dtype][k]) if isinstance(v, float) else v for k, v in best.items()} for dtype, best in a.items()}


def measure(benchmark: Benchmark, *, rounds: int | None = None, quick: bool = False, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Run a benchmark and return its results; nothing is stored."""
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    # A merge is named with its method; what runs it is the benchmark of them all.
    command = f"python -m benchmarks {benchmark.name.split()[0]} --rounds {rounds}{precision.flag()}" + (" --quick" if quick else "")
    with tempfile.TemporaryDirectory(prefix=f"bench-{benchmark.name}-") as folder:
        inputs = {"path": folder, **(benchmark.quick_inputs if quick else benchmark.inputs)}
        say(f"== {benchmark.name}: preparing")
        facts = children.call(benchmark.prepare, inputs)["facts"]
        before = speeds()
        turns = alternate((*benchmark.mine, *benchmark.peers), inputs, rounds, children.call, say)
        best = faster(before, speeds())
    check(benchmark, turns)
    return rows_of(benchmark, turns, facts, best, command)


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Ratios with their spread, one a line."""
    for r in rows:
        spread = f" [{r['ratio_range'][0]:.2f}, {r['ratio_range'][1]:.2f}]" if r["ratio_range"] else ""
        versus = f" against {r['peer']:g} ({r['peer_name']}): ratio {r['ratio']:.2f}{spread}" if r["peer"] is not None else f" ({r['peer_name']})"
        met = {True: "  target met", False: "  TARGET MISSED", None: ""}[r.get("target_met")]
        print(f"{r['benchmark']:<15} {r['metric']:<8}{r.get('phase', ''):<14} {r['ours']:g} {r['unit']}{versus}, {r['runs']} runs{met}")
    sys.stdout.flush()
