"""How long until something happens: the command's help, the import, the end of the first training step.

The first step is timed from the start of the process to the end of the first optimizer step on 16 real rows: imports and loading included. It is
timed with a warm store, and with an empty one (`TEMPERING_HOME`), where the GGUF file has to be converted first. Beside them stands the same thing
done with TRL, whose model is a folder already.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import children, harness, precision
from benchmarks.harness import Target
from benchmarks.machine import describe

INPUTS = {"rows": 16, "per_step": 16, "max_length": 512}


def _command(*command: str) -> float:
    """Wall seconds of a command that must succeed."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log.txt"
        found = children.measured(list(command), log=log, env={"PYTHONPATH": str(children.ROOT)})
        if found["code"]:
            raise children.ChildFailed(f"{' '.join(command)} ended with code {found['code']}:\n{log.read_text(errors='replace')[-2000:]}")
        return found["wall_s"]


def _first_step(target: str, path: str, home: str | None = None) -> float:
    report = children.call(target, {"path": path, **INPUTS, "seed": 0}, env={"TEMPERING_HOME": home} if home else None)
    return report["first_step_at"] - report["began_at"]


def measure(*, rounds: int | None = None, quick: bool = False, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Seconds of each, ours and TRL's in turn."""
    rounds = rounds or (harness.QUICK_ROUNDS if quick else harness.ROUNDS)
    command = f"python -m benchmarks startup --rounds {rounds}{precision.flag()}" + (" --quick" if quick else "")
    scripts, python = Path(sys.executable).parent, sys.executable
    machine, found = describe(), []
    with tempfile.TemporaryDirectory(prefix="bench-startup-") as path:
        say("== startup: preparing")
        children.call("benchmarks.ours:prepare_sft", {"path": path, **INPUTS})

        def empty_store() -> float:
            with tempfile.TemporaryDirectory(prefix="bench-home-") as home:
                return _first_step("benchmarks.ours:sft", path, home)

        def ours_warm() -> float:
            return _first_step("benchmarks.ours:sft", path)

        def trl_step() -> float:
            return _first_step("benchmarks.trl_peers:sft", path)

        help_of = {name: partial(_command, str(scripts / name), "--help") for name in ("temper", "trl")}
        import_of = {name: partial(_command, python, "-c", f"import {name}") for name in ("tempering", "trl")}
        cases: tuple[tuple[str, Callable[[], float], str, Callable[[], float] | None, float], ...] = (
            ("help", help_of["temper"], "trl --help", help_of["trl"], 0.4),
            ("import", import_of["tempering"], "import trl", import_of["trl"], 0.5),
            ("first step, warm store", ours_warm, "TRL's first step", trl_step, 15.0),
            ("first step, empty store", empty_store, "no peer", None, 35.0),
        )
        for phase, ours, peer_name, peer, most in cases:
            mine, theirs = [], []
            for i in range(rounds):
                mine.append(ours())
                theirs += [peer()] if peer is not None else []
                say(f"round {i + 1}: {phase}: {mine[-1]:.2f} s" + (f", {peer_name} {theirs[-1]:.2f} s" if theirs else ""))
            target = Target(most=most, of="ours")
            about = {"command": command, "machine": machine, "phase": phase}
            found.append(harness.row("startup", "startup", mine, theirs, peer_name=peer_name, unit="s", target=target, **about))
    return found
