"""`temper sweep RECIPE --lr 1e-4,3e-4 --seed 0,1,2`: one run for every combination of comma-separated values, in order, and a table at the end.

Every run is a process of its own with a folder of its own, named by its values. A sweep is continued by typing it again: finished runs are not
run twice, interrupted ones are resumed. A gate that fails does not stop the sweep; wrong input and Ctrl-C do. `--scaling FLAG` asks how the gain
grows with one of the swept flags (`powerlaw.py`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.cli.runs import read_run, signed
from tempering.cli.show import say, table
from tempering.errors import GateFailed, Interrupted, UserError

MAX_RUNS = 1000
if TYPE_CHECKING:
    from tempering.cli.flags import Generic
    from tempering.cli.values import Given, Signature

Runner = Callable[[Sequence[str]], int]


def command(spec: str, recipe: Callable[..., Any]) -> Callable[..., int]:
    """The sweep command of one recipe: its flags are those of `temper run`, with commas."""
    from tempering.cli import run as single
    from tempering.cli.flags import SweepOptions

    return single.command(spec, recipe, lambda signature, given, generic: sweep(spec, signature, given, generic), SweepOptions)


def split(text: str) -> list[str]:
    """The values of a swept flag: "a,b" -> a and b; "a\\,b" is one value with a comma in it."""
    return [part.replace("\\,", ",") for part in re.split(r"(?<!\\),", text)]


def combinations(signature: Signature, given: Sequence[Given]) -> tuple[list[str], list[list[Given]]]:
    """(names of what varies, the given values of every run), the last flag varying fastest.

    Raises:
        UserError: an empty value between commas, or too many runs.
    """
    axes: list[list[Given]] = []
    varied = []
    for one in given:
        field = signature.fields.get(".".join(one.path))
        texts = split(one.value) if isinstance(one.value, str) and (field is None or not field.is_list) else [one.value]
        if any(text == "" for text in texts) and len(texts) > 1:
            raise UserError(f"{one.origin}: an empty value between commas in {one.value!r}; write a comma inside a value as \\,")
        if len(set(map(str, texts))) < len(texts):
            raise UserError(f"{one.origin}: a value is given twice in {one.value!r}; keep one of each")
        axes.append([replace(one, value=text) for text in texts])
        if len(texts) > 1:
            varied.append(one.origin)
    total = 1
    for axis in axes:
        total *= len(axis)
    if total > MAX_RUNS:
        raise UserError(f"the sweep would be {total:,} runs, more than {MAX_RUNS:,}; sweep fewer values at once")
    return varied, [list(combination) for combination in itertools.product(*axes)]


def sweep(spec: str, signature: Signature, given: Sequence[Given], generic: Generic, runner: Runner | None = None) -> int:
    """Run every combination, one after the other.

    Args:
        runner: given the words after `temper`, runs them and returns the exit code; by default in a process of its own.

    Raises:
        UserError: a value is wrong in any of the runs (before the first one starts), or a run refused its input.
        Interrupted: Ctrl-C; the sweep goes on when it is typed again.
        GateFailed: all runs finished, and some failed a gate.
    """
    from tempering.cli.run import resolve

    if generic.resume:
        raise UserError("--resume: a sweep is resumed by typing it again without --resume; finished runs are not run twice")
    varied, every = combinations(signature, given)
    along = _along(signature, every, varied, wanted) if (wanted := getattr(generic, "scaling", None)) else ""
    for one in every:
        resolve(signature, one, generic)
    folder = Path(generic.out) if generic.out else _folder(spec, given, generic)
    plans = [(folder / _name(i, combination, varied), list(_words(signature, combination, generic))) for i, combination in enumerate(every)]
    if generic.dry_run:
        for path, words in plans:
            say(shlex.join(["temper", "run", spec, *words, "--out", str(path)]))
        return 0
    failed = [path for i, (path, words) in enumerate(plans) if _one(i, len(plans), spec, path, words, generic.again, runner or _process)]
    _summary(plans, every, varied)
    if along:
        _scaling(folder, plans, every, varied, along)
    if failed:
        raise GateFailed(f"{len(failed)} of {len(plans)} runs failed a gate: {', '.join(map(str, failed[:5]))}{' ...' if len(failed) > 5 else ''}")
    return 0


def _along(signature: Signature, every: Sequence[Sequence[Given]], varied: Sequence[str], wanted: str) -> str:
    """The swept flag that --scaling names, as the user typed it there; its values are looked at before anything runs.

    Raises:
        UserError: it is not swept, or its values are no three different numbers above 0.
    """
    from tempering.powerlaw import LEAST

    field = signature.find(wanted.lstrip("-"))
    found = next((one for one in every[0] if one.origin in varied and (one.path == field.path if field else one.origin == wanted)), None)
    if found is None:
        raise UserError(f"--scaling {wanted}: is none of the flags that vary here ({', '.join(varied) or 'none does'}); give it values with commas")
    values = {str(one.value) for combination in every for one in combination if one.origin == found.origin}
    if len(values) < LEAST or any(not _positive(value) for value in values):
        raise UserError(f"--scaling {wanted}: needs {LEAST} or more different numbers above 0, got {', '.join(sorted(values))}")
    return found.origin


def _positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def _scaling(folder: Path, plans: Sequence[tuple[Path, Any]], every: Sequence[Sequence[Given]], varied: Sequence[str], along: str) -> None:
    """How the gain grows with a swept flag: a table, and scaling.json and scaling.svg in the sweep's folder.

    Raises:
        UserError: a run's ledger has no gain.
    """
    from tempering import powerlaw
    from tempering.home import write_atomic

    found: dict[str, dict[float, float]] = {}
    for (path, _), combination in zip(plans, every, strict=True):
        gain = read_run(path).gain
        if gain is None:
            raise UserError(f"--scaling: the ledger of {path} has no gain (it has one where a single target is measured)")
        (x,) = (float(str(one.value)) for one in combination if one.origin == along)
        others = ", ".join(f"{one.origin}={one.value}" for one in combination if one.origin in varied and one.origin != along)
        found.setdefault(others, {})[x] = gain
    grown, name = powerlaw.growth(found), along.lstrip("-")
    said = powerlaw.sentence(grown, name)
    write_atomic(folder / "scaling.json", json.dumps({"flag": name, **grown.json(), "runs": found}, indent=1))
    write_atomic(folder / "scaling.svg", str(powerlaw.picture(grown, name)) + "\n")
    say()
    table((name, *powerlaw.HEADINGS[1:]), [powerlaw.cells(level) for level in grown.levels], right=(0, 1, 3))
    say(said)
    say(f"scaling {folder / 'scaling.svg'}")


def _one(i: int, total: int, spec: str, path: Path, words: Sequence[str], again: bool, runner: Runner) -> bool:
    """Run one combination unless it has finished; True if a gate failed."""
    before = read_run(path)
    say(f"\n[{i + 1}/{total}] {path}")
    if before.state == "done" and not again:
        say("finished before, not run again")
        return bool(before.failed_gates)
    go_on = ["--resume", str(path)] if before.state in ("interrupted", "killed", "running", "failed") else ["--out", str(path), *words]
    code = runner(["run", spec, *go_on, *(["--again"] if again else [])])
    if code == 3:
        return True
    if code == 130:
        raise Interrupted("the sweep was stopped; type the same command again to go on where it was")
    if code != 0:
        raise UserError(f"run {i + 1} of {total} ({path}) ended with exit code {code}; correct what it says above and type the same command again")
    return False


def _process(words: Sequence[str]) -> int:
    return subprocess.run([sys.executable, "-m", "tempering", *words], check=False).returncode


def _folder(spec: str, given: Sequence[Given], generic: Generic) -> Path:
    # The same sweep typed again must find its folder.
    key = json.dumps([spec, generic.config, [(one.path, str(one.value)) for one in given]])
    return Path("runs") / f"sweep-{Path(spec.partition('.py')[0]).name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def _name(i: int, combination: Sequence[Given], varied: Sequence[str]) -> str:
    parts = [f"{one.origin.lstrip('-')}={one.value}" for one in combination if one.origin in varied]
    return re.sub(r"[^\w.=,+-]+", "_", ",".join([f"{i:03d}", *parts]))[:120]


def _words(signature: Signature, combination: Sequence[Given], generic: Generic) -> Iterator[str]:
    from tempering.cli.run import hyphened

    if generic.config:
        yield from ("--config", generic.config)
    for name in generic.log or ():
        yield from ("--log", name)
    if generic.profile:
        yield from ("--profile", generic.profile)
    for one in combination:
        field = signature.fields.get(".".join(one.path))
        for value in one.value if isinstance(one.value, list) else [one.value]:
            if isinstance(value, bool) and field is not None:
                yield f"{hyphened(field.dotted)}={str(value).lower()}"
            else:
                yield f"--{'.'.join(one.path)}={value}"


def _summary(plans: Sequence[tuple[Path, Any]], every: Sequence[Sequence[Given]], varied: Sequence[str]) -> None:
    rows = []
    for (path, _), combination in zip(plans, every, strict=True):
        run = read_run(path)
        values = [one.value for name in varied for one in combination if one.origin == name]
        rows.append((path.name, *values, run.state, "" if run.keep is None else f"{run.keep:.3f}", signed(run.gain)))
    say()
    names = [name.lstrip("-") for name in varied]
    table(("run", *names, "state", "keep", "gain"), rows, right=(len(names) + 2, len(names) + 3), wrap=(0,))
