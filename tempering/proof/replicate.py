"""Running a claim: every arm of every seed, in worker processes of one thread each, and a stored result that can be checked against git.

What an arm gave is written at once, whole or not at all, into the store, and is not run again while the digest of what it depends on stays the same.
So a run that is stopped, or killed, loses at most the arms in the making. A worker takes a seed at a time and runs both of its arms, because they
share their start; when the process that gave it work is gone, it ends.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tempering.errors import UserError
from tempering.home import store_dir, write_atomic
from tempering.proof import claims
from tempering.proof.claims import ARMS, Claim, Judgement, Result, Scale, Seed, judge
from tempering.proof.digest import CORE_NUMERICS, ROOT, combined, digests
from tempering.runs import installed

RESULTS = ROOT / "replications"
QUICK_SEEDS = 2
_PACKAGES = ("tempering", "torch", "transformers", "peft", "numpy", "scipy")


@dataclass(frozen=True)
class Arm:
    """What one arm of one seed gave."""

    seed: int
    arm: str
    values: Mapping[str, float]
    seconds: float
    """Of the processor: a busy machine does not make a claim dearer."""
    reused: bool = False


def place_of(name: str, digest: str, seed: int, arm: str, quick: bool) -> Path:
    """Where in the store an arm's numbers are kept: found again only under the same digest."""
    folder = store_dir("replications") / name / f"{digest[:24]}{'-quick' if quick else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{seed}-{arm}.json"


def stored(file: Path) -> dict[str, Any] | None:
    """An arm's numbers; None where there are none, or a file that someone edited."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {"values": {str(k): float(v) for k, v in found["values"].items()}, "seconds": float(found["seconds"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def run_arm(name: str, seed: int, arm: str, *, quick: bool = False, digest: str | None = None, again: bool = False) -> Arm:
    """One arm of one seed in this process, or what an earlier run of the same digest gave.

    Raises:
        UserError: the arm gives no number for the claim's metric, or one that is not finite.
    """
    file = place_of(name, digest or combined(digests(name)), seed, arm, quick)
    if not again and (known := stored(file)) is not None:
        return Arm(seed, arm, known["values"], known["seconds"], reused=True)
    metric = claims.read(claims.path_of(name)).metric
    function = claims.arm_of(name)
    began = time.process_time()
    given = function(seed, arm, Scale(quick))
    seconds = time.process_time() - began
    values = {key: float(value) for key, value in (given.items() if isinstance(given, Mapping) else {metric: given}.items())}
    if metric not in values:
        raise UserError(f"claim {name}: arm {arm!r} gives {', '.join(values) or 'nothing'} and not the claim's metric {metric!r}")
    if bad := [key for key, value in values.items() if value - value != 0]:
        raise UserError(f"claim {name}: arm {arm!r} of seed {seed} gives {bad[0]} = {values[bad[0]]}, which is not a finite number")
    write_atomic(file, json.dumps({"values": values, "seconds": seconds}))
    return Arm(seed, arm, values, seconds)


def paired(claim: Claim, arms: Sequence[Arm]) -> tuple[Seed, ...]:
    """Arms as seeds, in order."""
    by = {(arm.seed, arm.arm): arm.values for arm in arms}
    return tuple(
        Seed(
            seed=seed,
            baseline=by[seed, "baseline"][claim.metric],
            method=by[seed, "method"][claim.metric],
            others={f"{arm}.{key}": value for arm in ARMS for key, value in by[seed, arm].items() if key != claim.metric},
        )
        for seed in sorted({arm.seed for arm in arms})
    )


# ----------------------------------------------------------------------------------------------------------------------------------------- workers


def run(name: str, seeds: Sequence[int], *, quick: bool = False, processes: int = 1, again: bool = False) -> Generator[Arm]:
    """Every arm of every seed as it is done, in `processes` worker processes.

    Raises:
        UserError: an arm refused its input.
        RuntimeError: an arm failed, with its traceback.
    """
    digest = combined(digests(name))
    files = {(seed, arm): place_of(name, digest, seed, arm, quick) for seed in seeds for arm in ARMS}
    known = {key: found for key, file in files.items() if not again and (found := stored(file)) is not None}
    for (seed, arm), found in known.items():
        yield Arm(seed, arm, found["values"], found["seconds"], reused=True)
    left = [seed for seed in seeds if any((seed, arm) not in known for arm in ARMS)]
    workers = [_worker(name, digest, quick, again) for _ in range(min(processes, len(left)))]
    try:
        for arm in _hand_out(workers, left):
            if (arm.seed, arm.arm) not in known:
                yield arm
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    pipe.close()


def _worker(name: str, digest: str, quick: bool, again: bool) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = [sys.executable, "-m", "tempering.proof.worker", name, digest, *(["--quick"] if quick else []), *(["--again"] if again else [])]
    return subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")


def _hand_out(workers: Sequence[subprocess.Popen[str]], seeds: Sequence[int]) -> Iterator[Arm]:
    """Give each worker a seed, and another when its two arms are done."""
    waiting = list(reversed(seeds))
    with ThreadPoolExecutor(max(1, len(workers))) as pool:
        due = {}

        def ask(worker: subprocess.Popen[str]) -> None:
            if waiting:
                _pipe(worker.stdin).write(f"{waiting.pop()}\n")
                _pipe(worker.stdin).flush()
                due[pool.submit(_pipe(worker.stdout).readline)] = (worker, len(ARMS))

        try:
            for worker in workers:
                ask(worker)
            while due:
                answer = next(as_completed(list(due)))
                worker, more = due.pop(answer)
                yield _arm(answer.result())
                if more > 1:
                    due[pool.submit(_pipe(worker.stdout).readline)] = (worker, more - 1)
                else:
                    ask(worker)
        finally:
            # Ends the reads that the pool waits for.
            for worker in workers:
                worker.kill()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def _arm(line: str) -> Arm:
    if not line:
        raise RuntimeError("a worker process ended before its arm was done; its last words are above. Run the command again to go on from there")
    told = json.loads(line)
    if "wrong" in told:
        raise UserError(told["wrong"])
    if "failed" in told:
        raise RuntimeError(f"an arm failed:\n{told['failed']}")
    return Arm(**told)


# ----------------------------------------------------------------------------------------------------------------------------------------- records


def record(name: str, claim: Claim, arms: Sequence[Arm], commit: str, command: str) -> Result:
    """The result as it is stored."""
    seeds = paired(claim, arms)
    found: Judgement = judge(claim, seeds)
    parts = digests(name)
    return Result(
        method=claim.method,
        catalogue=claim.catalogue,
        title=claim.title,
        claim=claim.claim,
        rule=claim.rule(),
        baseline=claim.baseline,
        metric=claim.metric,
        seeds=seeds,
        effect=found.effect,
        interval=found.interval,
        verdict=found.verdict,
        reason=found.reason,
        seconds=round(sum(arm.seconds for arm in arms), 1),
        command=command,
        commit=commit,
        versions={"python": platform.python_version(), **{name: version for name in _PACKAGES if (version := installed(name))}},
        digest=combined(parts),
        files={path: digest[:12] for path, digest in parts.items()},
        core_numerics=CORE_NUMERICS,
    )


def write(name: str, result: Result) -> Path:
    """Keep a result in `replications/` of the checkout."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{claims.path_of(name).stem}.json"
    write_atomic(file, json.dumps(result.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")
    return file


def read_result(file: Path) -> Result:
    """A stored result.

    Raises:
        UserError: the file is not one.
    """
    try:
        return Result.model_validate_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not a stored result: {' '.join(str(error).split())[:300]}; run `temper replicate {file.stem}` again") from None


def standing(name: str, result: Result) -> str:
    """How a stored result stands to the files here: "" (as they are), "stale" (older numerics of the core) or "changed: FILE, ..."."""
    parts = digests(name)
    if combined(parts, result.core_numerics) != result.digest:
        changed = sorted(path for path in {*parts, *result.files} if parts.get(path, "")[:12] != result.files.get(path))
        return f"changed: {', '.join(changed)}"
    return "stale" if result.core_numerics < CORE_NUMERICS else ""
