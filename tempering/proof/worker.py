"""A process that runs arms: `python -m tempering.proof.worker NAME DIGEST [--quick] [--again]`.

Each line of its input is a seed, each line of its output an arm. What a claim prints goes to standard error. It ends with its input: when the process
that started it is gone, so is this one after its arm.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from dataclasses import asdict
from typing import Any


def main(words: list[str]) -> int:
    """Run what is asked for until the input ends; the first failure is told and ends it."""
    # Ctrl-C reaches every process of the terminal; the one that gave the work decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    import torch

    from tempering.errors import UserError
    from tempering.proof.claims import ARMS
    from tempering.proof.replicate import run_arm

    torch.set_num_threads(1)
    name, digest = words[:2]
    try:
        for line in sys.stdin:
            for arm in ARMS:
                done = run_arm(name, int(line), arm, quick="--quick" in words, digest=digest, again="--again" in words)
                _tell(out, asdict(done))
    except UserError as error:
        _tell(out, {"wrong": str(error)})
    except BrokenPipeError:
        os._exit(1)
    except Exception:
        _tell(out, {"failed": traceback.format_exc()})
    return 0


def _tell(out: Any, what: dict[str, Any]) -> None:
    out.write(json.dumps(what) + "\n")
    out.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
