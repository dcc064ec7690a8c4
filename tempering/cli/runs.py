"""What runs left behind: `temper runs`, `report`, `lost`. Run folders are data: a broken or foreign file shows as unknown, not as an error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from tempering.cli.show import age, clean, say, table
from tempering.errors import UserError


@dataclass(frozen=True)
class RunInfo:
    """One run folder at a glance."""

    folder: Path
    recipe: str
    state: str
    """running, done, failed, interrupted, killed (its process is gone), or unknown."""
    model: str
    data: str
    when: float
    """Seconds since the epoch of the last thing that happened."""
    keep: float | None
    gain: float | None
    message: str
    failed_gates: tuple[str, ...] = ()


def read_json(path: Path) -> Any:
    """A JSON file's value, or None where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def read_run(folder: Path) -> RunInfo:
    """What a run folder says of itself."""
    config, status = _mapping(read_json(folder / "config.json")), _mapping(read_json(folder / "status.json"))
    values = _mapping(config.get("values")) or config
    ledger = _mapping(read_json(folder / "ledger.json"))
    keep, gain = headline(ledger)
    state = _text(status.get("state")) or "unknown"
    if state == "running" and isinstance(status.get("pid"), int) and not _alive(status["pid"], _text(status.get("host"))):
        state = "killed"
    when = max((path.stat().st_mtime for name in ("status.json", "metrics.jsonl", "config.json") if (path := folder / name).is_file()), default=0.0)
    return RunInfo(
        folder=folder,
        recipe=_text(config.get("recipe")),
        state=state,
        model=_text(values.get("model")),
        data=_text(values.get("data")),
        when=when,
        keep=keep,
        gain=gain,
        message=_text(status.get("message")),
        failed_gates=_failed_gates(ledger),
    )


def _alive(pid: int, host: str) -> bool:
    import socket

    from tempering.runs import alive

    return (bool(host) and host != socket.gethostname()) or alive(pid)  # another machine's process cannot be asked


def headline(ledger: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """(keep, gain) of a ledger's JSON: the share kept and the improvement on the target; None where it has none."""
    keep, gain = (_number(_mapping(ledger.get(name)).get("point")) for name in ("keep", "gain"))
    return keep, gain


def _failed_gates(ledger: Mapping[str, Any]) -> tuple[str, ...]:
    gates = ledger.get("gates")
    found = [_mapping(gate) for gate in gates] if isinstance(gates, list) else []
    return tuple(_text(gate.get("gate")) for gate in found if gate.get("passed") is False)


def find_runs(root: Path) -> list[RunInfo]:
    """Run folders under a folder (itself, its children, and theirs: sweeps are one deeper), newest first."""
    folders = [root, *root.glob("*"), *root.glob("*/*")]
    return sorted((read_run(path) for path in folders if (path / "status.json").is_file()), key=lambda run: -run.when)


def signed(value: float | None) -> str:
    """A change with its sign, "" for none."""
    return "" if value is None else f"{value:+.3f}"


def runs(folder: Path = Path("runs"), /, *, json_: Annotated[bool, Parameter(name="--json", negative="")] = False) -> int:
    """List runs, newest first: state, recipe, model, what was kept and gained, age.

    Args:
        folder: where to look.
        json_: print JSON instead of a table.
    """
    if not folder.is_dir():
        if folder == Path("runs"):
            say("there are no runs here yet; `temper run sft --model builtin:tiny` makes one")
            return 0
        raise UserError(f"{folder}: there is no such folder; give the folder that holds runs")
    found = find_runs(folder)
    if json_:
        say(json.dumps([{**vars(run), "folder": str(run.folder)} for run in found], indent=2))
        return 0
    if not found:
        say(f"no runs under {folder}")
        return 0
    rows = [
        (run.folder, run.state, run.recipe, run.model, "" if run.keep is None else f"{run.keep:.3f}", signed(run.gain), age(run.when), _note(run))
        for run in found
    ]
    table(("run", "state", "recipe", "model", "keep", "gain", "age", "note"), rows, right=(4, 5, 6), wrap=(3, 7))
    return 0


def _note(run: RunInfo) -> str:
    if run.state != "done":
        return run.message
    return f"failed: {', '.join(run.failed_gates)}" if run.failed_gates else ""


def _run_folder(run: Path, needs: str) -> Path:
    if not run.is_dir():
        raise UserError(f"{run}: there is no such folder; `temper runs` lists the runs")
    if not (run / needs).is_file():
        why = "the run has not come to its end" if (run / "config.json").is_file() else "it is not a run folder"
        raise UserError(f"{run}: has no {needs}; {why}")
    return run


def report(run: Path, /) -> int:
    """Write a run's report.html again from what lies in its folder.

    Args:
        run: the run's folder.
    """
    from tempering.report import write

    folder = _run_folder(run, "config.json")
    write(folder)
    say(f"wrote {folder / 'report.html'}")
    return 0


def lost(run: Path, /, *, side: Literal["keep", "target"] | None = None) -> int:
    """Print the items a run lost, as JSON lines that can be trained on again (`temper lost RUN > replay.jsonl`).

    Args:
        run: the run's folder, or a ledger.json.
        side: only the items of the keep battery, or only those of the target.
    """
    from tempering.ledger_types import Ledger
    from tempering.lost import write_lost

    path = run if run.is_file() else _run_folder(run, "ledger.json") / "ledger.json"
    write_lost(Ledger.read(path), sys.stdout, side=side, say=lambda text: print(clean(text), file=sys.stderr))
    return 0
