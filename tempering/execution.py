"""How a recipe is run, whatever it does: where its options are found, what stops it, and what it leaves when it does not end well.

The command line and Python call `execute`. A run of several processes joins them here; all of them run the recipe, the first keeps the folder and
speaks, and the others follow.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tempering.display import Display
from tempering.distributed import word
from tempering.errors import Interrupted, UserError
from tempering.options import OPTIONS, Options
from tempering.runs import RunFolder

if TYPE_CHECKING:
    from tempering.distributed.world import World
    from tempering.experiment import Experiment
    from tempering.ledger_types import Ledger
    from tempering.start import Start


CURRENT: ContextVar[list[Experiment]] = ContextVar("tempering_experiment")


@dataclass(frozen=True)
class Report:
    """What a recipe returns: where the run lies and what it came to."""

    folder: Path
    ledger: Ledger
    failed_gates: tuple[str, ...] = ()


class AlreadyDone(Exception):
    """The same recipe with the same values, data, model and code has finished before."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


def execute(recipe: Callable[..., Report], arguments: Mapping[str, Any], options: Options) -> Report:
    """Run a recipe as the command line does: signals stop it cleanly, failures leave a state that says so, finished work is not done twice.

    Raises:
        UserError: wrong input; nothing is left behind that was not there before (checkpoints are kept).
        Interrupted: Ctrl-C or SIGTERM; the message says how to resume.
    """
    from tempering.ledger import Ledger

    held: list[Experiment] = []
    if word.rank() > 0:
        options = replace(options, display=Display(Console(quiet=True)))
    tokens = OPTIONS.set(options), CURRENT.set(held)
    try:
        with _signals(held), _joined(options.tensor):
            return recipe(**arguments)
    except AlreadyDone as done:
        options.display.say(f"already done with the same code and inputs: {done.folder} (--again runs it once more)")
        ledger = Ledger.read(done.folder / "ledger.json")
        return Report(done.folder, ledger, tuple(g.message for g in ledger.gates if not g.passed))
    except Interrupted as stop:
        for run in held:
            run.leave("interrupted", str(stop))
            raise Interrupted(f"{stop}; go on with: temper run {run.recipe} --resume {run.folder.path}") from None
        raise
    except UserError as error:
        for run in held:
            run.logs.close("failed")
            if not run.folder.discard():
                run.leave("failed", str(error))
        raise
    except BaseException as error:
        lost = word.lost_contact(error)
        for run in held:
            run.leave("failed", "another process of this run went away" if lost else f"{type(error).__name__}: {error}")
        raise
    finally:
        OPTIONS.reset(tokens[0])
        CURRENT.reset(tokens[1])


def _joined(tensor: int) -> AbstractContextManager[Any]:
    word.divides(tensor, word.number())
    if not word.several():
        return nullcontext()
    from tempering.distributed.world import joined

    return joined(tensor)


def world_of_run() -> World:
    """The processes of this run."""
    from tempering.distributed.world import current

    return current()


def one_folder(opened: Callable[[], RunFolder]) -> RunFolder:
    """The run's folder on a process of several: the first opens it, the others follow. Where it was done before, all hear of that."""
    world = world_of_run()
    folder: RunFolder | None = None

    def open_or_done() -> tuple[Path, bool]:
        nonlocal folder
        try:
            folder = opened()
        except AlreadyDone as done:
            return done.folder, True
        return folder.path, False

    path, done = world.lead(open_or_done)
    if done:
        raise AlreadyDone(path)
    return folder or RunFolder(path, follow=True)


@contextmanager
def _signals(held: list[Experiment]) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask training to stop at the next step and write a checkpoint; anywhere else they stop at once. A second Ctrl-C never
    waits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        name = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[signal.Signals(number)]
        stopper = held[0].stopper if held else None
        if stopper is None or stopper.reason:
            raise Interrupted(f"stopped by {name}")
        stopper(name)

    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def leg(
    recipe: Callable[..., Report],
    arguments: Mapping[str, Any],
    place: Path,
    command: str,
    display: Display | None = None,
    start: Start | None = None,
) -> bool:
    """One of several runs that a program makes, in a folder of its own: not run again where it has finished there, gone on with where it was begun.
    Returns whether it was there already.

    Args:
        command: what the run's folder says it was started by.
        display: by default it runs without a word.
        start: what these runs share.
    """
    there = place.is_dir() and any(place.iterdir())
    if there and (place / "ledger.json").is_file() and RunFolder(place, follow=True).read("status.json").get("state") == "done":
        return True
    display = display or Display(Console(quiet=True))
    where: dict[str, Any] = {"resume" if there else "out": place}
    execute(recipe, arguments, Options(**where, display=display, command=command, start=start))
    return False
