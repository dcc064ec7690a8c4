"""What a process of a run leaves word of: its last step, and how it ended. The launcher reads it and tells the user one sentence.

No torch here: the command line looks at this before anything is loaded.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from tempering.errors import UserError

FOLDER = "TEMPERING_WORD"
"""Environment: the folder where each process of a launched run leaves word; not set where another launcher (torchrun) looks after them."""


@dataclass(frozen=True)
class Word:
    """`step` steps were done; `sentence` says what went wrong, "" while nothing did; `lost` where that was another process going away."""

    step: int = 0
    sentence: str = ""
    lost: bool = False


def rank() -> int:
    """This process's place among those of its run; 0 for a run of one."""
    return int(os.environ.get("RANK", "0"))


def number() -> int:
    """How many processes this one's run has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def several() -> bool:
    """Whether this process is one of several of a run."""
    return number() > 1


def divides(tensor: int, processes: int) -> None:
    """Raise UserError where `tensor` processes side by side cannot share each matrix of a run of so many."""
    if tensor < 1 or processes % tensor:
        raise UserError(
            f"--tensor-parallel: expected a divisor of the number of processes ({processes}, set by --processes or torchrun), got {tensor}"
        )


def launched() -> bool:
    """Whether a launcher of ours waits for word."""
    return FOLDER in os.environ


def leave(step: int | None = None, sentence: str = "", lost: bool = False) -> None:
    """Leave word; a step alone overwrites the last one."""
    if not launched():
        return
    folder = Path(os.environ[FOLDER])
    leave_for(folder, rank(), Word(read(folder, rank()).step if step is None else step, sentence, lost))


def leave_for(folder: Path, of: int, word: Word) -> None:
    """Write a process's word where the launcher looks."""
    beside = folder / f"{of}.part"
    beside.write_text(json.dumps(asdict(word)))
    os.replace(beside, folder / f"{of}.json")


def read(folder: Path, of: int) -> Word:
    """What a process has left; nothing yet is step 0."""
    try:
        return Word(**json.loads((folder / f"{of}.json").read_text()))
    except FileNotFoundError:
        return Word()


def lost_contact(error: BaseException) -> bool:
    """Whether an error only says that another process of the run went away."""
    texts = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "NCCL", "gloo")
    return several() and not isinstance(error, ValueError | KeyboardInterrupt) and any(text.lower() in str(error).lower() for text in texts)
