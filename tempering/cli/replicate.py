"""`temper replicate NAME`: run a paper's claim in a small world, and say whether it was seen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from tempering.cli.show import say, table
from tempering.display import Display
from tempering.errors import Interrupted, UserError

if TYPE_CHECKING:
    from tempering.proof.claims import Claim, Judgement, Seed
    from tempering.proof.replicate import Arm


def replicate(*names: str, seeds: int = 5, quick: bool = False, processes: int = 1, again: bool = False) -> int:
    """Run a claim: baseline and method over paired seeds, the effect with its interval, and a verdict. Without a name: the claims and their results.

    Results go to replications/NAME.json. What is done is kept: after Ctrl-C the same command goes on where it was.

    Args:
        names: of claims; `all` for every one.
        seeds: how many paired seeds, at least 5.
        quick: two seeds and fewer steps, to try a claim out; nothing is recorded.
        processes: seeds at the same time, each in a process of one thread.
        again: run what earlier runs have kept, too.
    """
    from tempering.proof import claims

    if not names:
        return _listing()
    known = claims.names() if names == ("all",) else tuple(claims.path_of(name).stem for name in names)
    if not quick and seeds < claims.MIN_SEEDS:
        raise UserError(f"--seeds {seeds}: a verdict needs at least {claims.MIN_SEEDS} paired seeds; to try a claim out, take --quick")
    if processes < 1:
        raise UserError(f"--processes {processes}: give at least 1; this machine has {os.cpu_count()} processors")
    for name in known:
        _one(name, seeds, quick, processes, again)
    return 0


def _one(name: str, count: int, quick: bool, processes: int, again: bool) -> None:
    from tempering.proof import claims, history
    from tempering.proof import replicate as proof
    from tempering.proof.digest import digests

    claim = claims.read(claims.path_of(name))
    # Before the work: a rule that is not committed would make all of it worth nothing.
    commit = history.committed(name) if not quick and history.in_checkout() else ""
    seeds = range(proof.QUICK_SEEDS if quick else count)
    before, display, arms = digests(name), Display(), list["Arm"]()
    display.say(f"{claim.title}\n{claim.claim}\nbaseline: {claim.baseline}")
    total = len(seeds) * len(claims.ARMS)
    try:
        with display.phase(f"replicate {name}", total), closing(proof.run(name, seeds, quick=quick, processes=processes, again=again)) as running:
            for arm in running:
                arms.append(arm)
                spent = "kept from before" if arm.reused else f"{arm.seconds:.0f} s"
                display.say(f"  seed {arm.seed} {arm.arm}: {claim.metric} {arm.values[claim.metric]:.4g} ({spent})")
                display.advance(len(arms), total)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped with {len(arms)} of {total} arms done; the same command goes on from there") from None
    pairs = proof.paired(claim, arms)
    found = claims.judge(claim, pairs)
    _show(claim, pairs, found)
    say(f"{sum(arm.seconds for arm in arms):.0f} s of one processor")
    if quick:
        say("a quick run: fewer steps and seeds, so this says whether the claim runs, and is not a result")
    elif not commit:
        say("this is not the project's git checkout, so the result is not a record and nothing was written")
    elif before != digests(name):
        raise UserError(f"{name}: its files were changed while it ran, so nothing was written; commit them, then run the same command again")
    else:
        command = f"temper replicate {name}" + (f" --seeds {count}" if count != claims.MIN_SEEDS else "")
        say(f"written to {os.path.relpath(proof.write(name, proof.record(name, claim, arms, commit, command)))}; commit it")


def _show(claim: Claim, seeds: Sequence[Seed], found: Judgement) -> None:
    rows = [(seed.seed, f"{seed.baseline:.4f}", f"{seed.method:.4f}", f"{seed.method - seed.baseline:+.4f}") for seed in seeds]
    table(("seed", "baseline", "method", "difference"), rows, title=f"{claim.title}: {claim.metric}", right=(0, 1, 2, 3))
    low, high = found.interval
    way = "method - baseline" if claim.higher_is_better else "baseline - method"
    say(f"effect ({way}) {found.effect:+.4f}, 95% interval {low:+.4f} to {high:+.4f}; smallest effect that counts: {claim.smallest_effect:g}")
    say(f"verdict: {found.verdict} ({found.reason})")


def _listing() -> int:
    from tempering.proof import claims
    from tempering.proof import replicate as proof

    rows = []
    for name in claims.names():
        claim, file = claims.read(claims.path_of(name)), proof.RESULTS / f"{name}.json"
        if not file.is_file():
            rows.append((name, claim.title, "", "not run yet"))
            continue
        result = proof.read_result(file)
        note = proof.standing(name, result)
        effect = f"{result.effect:+.3g} [{result.interval[0]:+.3g}, {result.interval[1]:+.3g}]"
        rows.append((name, claim.title, effect, result.verdict + (f" ({note})" if note else "")))
    table(("claim", "what it says", "effect", "verdict"), rows, wrap=(1, 3))
    return 0
