"""`--processes` and `--cluster`: the command line once more in several processes, which this one starts and watches."""

from __future__ import annotations

import sys

from tempering.distributed import word
from tempering.errors import ProcessFailed, UserError


def elsewhere(processes: int, cluster: str | None, tensor: int = 1) -> int | None:
    """Run this command line as several processes and give their exit code; None where this process is to run it itself.

    Raises:
        UserError: not a number of processes, one that `tensor` does not divide, or a cluster that is not there.
        ProcessFailed: one failed or died.
    """
    if processes < 1:
        raise UserError(f"--processes: expected a whole number from 1 on, got {processes}")
    word.divides(tensor, max(processes, word.number()))
    if word.several() or word.launched() or (processes == 1 and cluster is None):
        return None
    if cluster is not None:
        from tempering.distributed.ray import launch_on

        code, sentence = launch_on(cluster, sys.argv[1:], processes)
    else:
        from tempering.distributed.launch import launch

        code, sentence = launch([sys.executable, "-m", "tempering", *sys.argv[1:]], processes)
    if sentence:
        raise ProcessFailed(sentence, code)
    return code
