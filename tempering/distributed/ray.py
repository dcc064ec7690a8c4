"""`--cluster ADDRESS`: the processes of a run on the machines of a Ray cluster; `local` starts a small one here.

One actor for each process, placed by Ray, with a GPU where the cluster has any. An actor only starts the command line with its rank in the
environment and looks after it, so a process on a cluster is the same as one that `--processes` or torchrun starts: it finds the others at the first
one's address (gloo or nccl), and what it says and how it ends reaches the launcher, which tells the user the same single sentence.

Ray does not bring files along: every machine needs tempering, and the run folder, the data and `TEMPERING_HOME` at the same shared paths.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from tempering.distributed.launch import environment, passed_on, verdict, watch
from tempering.distributed.word import FOLDER, Word, leave_for, read
from tempering.errors import UserError

START_S = 120.0
"""How long the cluster may take to place all processes."""
KNOCK_S = 10.0
POLL_S = 0.5


def _knock(address: str) -> None:
    """Ray itself tries for minutes where nobody listens."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()


class Starter:
    """What runs in an actor: one process of the run, and what is known of it."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="tempering-run-"))
        self.read_to = 0

    def meeting_place(self) -> tuple[str, int]:
        """This machine's address and a free port on it."""
        with socket.socket() as free:
            free.bind(("", 0))
            return import_module("ray.util").get_node_ip_address(), free.getsockname()[1]

    def start(self, command: Sequence[str], folder: str, env: dict[str, str]) -> None:
        """Start the command in a folder."""
        own = {FOLDER: str(self.folder), "TEMPERING_LAUNCHER": str(os.getpid())}
        with (self.folder / "output").open("wb") as output:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "tempering", *command], cwd=folder, env={**os.environ, **env, **own}, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def look(self, rank: int) -> tuple[int | None, dict[str, Any], bytes]:
        """(exit code or None, the process's word, what it has written since the last look)."""
        assert self.child is not None
        code = self.child.poll()
        written = (self.folder / "output").read_bytes()
        new, self.read_to = written[self.read_to :], len(written)
        return code, asdict(read(self.folder, rank)), new

    def signal(self, number: int) -> None:
        """Send the process a signal."""
        if self.child is not None:
            self.child.send_signal(number)


class _Remote:
    """A process on the cluster, as the launcher's watch sees it."""

    def __init__(self, ray: Any, actor: Any, rank: int, folder: Path) -> None:
        self.ray, self.actor, self.rank, self.folder = ray, actor, rank, folder
        self.code: int | None = None

    def poll(self) -> int | None:
        if self.code is not None:
            return self.code
        try:
            self.code, word, written = self.ray.get(self.actor.look.remote(self.rank))
        except self.ray.exceptions.RayError:
            # The machine or its actor is gone, which is how the out-of-memory killer looks from here.
            self.code = -signal.SIGKILL
            return self.code
        leave_for(self.folder, self.rank, Word(**word))
        if self.rank == 0:
            sys.stdout.buffer.write(written)
            sys.stdout.flush()
        else:
            with (self.folder / f"{self.rank}.log").open("ab") as log:
                log.write(written)
        return self.code

    def send_signal(self, number: int) -> None:
        self.actor.signal.remote(number)


def _ray(flag: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return import_module("ray")
    except ImportError:
        raise UserError(f"{flag} needs Ray: pip install 'tempering[ray]'") from None


def start_here(flag: str, cores: int) -> Any:
    """Ray on this machine alone, for as long as this process lives.

    Args:
        flag: what asked for it.

    Raises:
        UserError: Ray is not installed or does not start.
    """
    ray = _ray(flag)
    try:
        ray.init(address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, ImportError, ray.exceptions.RayError) as error:
        raise UserError(f"{flag}: Ray does not start on this machine ({' '.join(str(error).split())[:200]})") from None
    return ray


def reached(flag: str, address: str) -> Any:
    """The Ray of a cluster that runs already.

    Args:
        flag: what asked for it.
        address: "ray://host:port", or anything else that `ray.init` takes.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be reached.
    """
    ray = _ray(flag)
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, ImportError, ray.exceptions.RayError) as error:
        raise UserError(f"{flag} {address}: no Ray cluster can be reached there ({' '.join(str(error).split())[:200]})") from None
    return ray


def launch_on(address: str, command: Sequence[str], processes: int) -> tuple[int, str]:
    """Run `python -m tempering COMMAND` as `processes` processes on a Ray cluster; returns what `launch.launch` does.

    Args:
        address: "local", "ray://host:port", or anything else that `ray.init` takes.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, or it has no room.
    """
    ray = start_here("--cluster local", processes) if address == "local" else reached("--cluster", address)
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        actor: Any = ray.remote(num_cpus=1, num_gpus=gpus)(Starter)
        actors = [actor.remote() for _ in range(processes)]
        try:
            (host, port), *_ = ray.get([one.meeting_place.remote() for one in actors], timeout=START_S)
        except ray.exceptions.GetTimeoutError:
            raise UserError(
                f"--cluster {address}: it has no room for {processes} processes (each takes a core{' and a GPU' if gpus else ''}); "
                "take fewer --processes, or wait until it is free"
            ) from None
        shared = {**environment(processes), "MASTER_ADDR": host, "MASTER_PORT": str(port), "LOCAL_RANK": "0"}
        ray.get([one.start.remote(list(command), os.getcwd(), {**shared, "RANK": str(rank)}) for rank, one in enumerate(actors)])
        with tempfile.TemporaryDirectory(prefix="tempering-run-") as name:
            children = [_Remote(ray, one, rank, Path(name)) for rank, one in enumerate(actors)]
            with passed_on(children):
                codes = watch(children, every_s=POLL_S)
            # The signals of the last moment are delivered before the actors go.
            time.sleep(POLL_S)
            return verdict(codes, Path(name))
    finally:
        ray.shutdown()
