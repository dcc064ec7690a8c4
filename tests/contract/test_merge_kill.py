"""A merge that is killed at any moment goes on when it is started again, and ends with the bytes of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

from tempering.merging import write as writing
from tempering.merging.config import parse
from tempering.merging.run import merge
from tests.nursery import nursery
from tests.toy import toy_llama

MERGE = "tests.contract.test_merge_kill:merging"
SHARDS = 9


def merging(folder: str, out: str) -> int:
    """What a child does; every file takes a moment, so that there is something to kill."""
    shard = writing._shard

    def slowly(*args: object) -> str:
        time.sleep(0.02)
        return shard(*args)  # type: ignore[arg-type]

    writing._shard = slowly  # type: ignore[assignment]
    models = [{"model": f"{folder}/a"}, {"model": f"{folder}/b"}]
    config = parse({"merge_method": "dare_ties", "base_model": f"{folder}/m", "models": models, "parameters": {"density": 0.5}}, "test")
    merge(config, out, shard_bytes=8_000, say=lambda text: None)
    return 0


def test_killed_at_random_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    for seed, name in enumerate("mab"):
        toy_llama(seed).save_pretrained(tmp_path / name)
    # Not seeded, on purpose: every run of this test tries other moments.
    dice = random.Random()
    went_on = 0
    with nursery() as children:
        began = time.monotonic()
        children.run(MERGE, str(tmp_path), str(tmp_path / "whole"))
        whole = time.monotonic() - began
        out, partial = tmp_path / "out", tmp_path / ".out.partial"
        for attempt in range(6):
            went_on += (partial / writing.JOURNAL).is_file()
            (child,) = children.start(MERGE, str(tmp_path), str(out))
            if attempt % 2:
                # Once something is finished and more is to come, else there may be nothing to go on with on a busy machine.
                while not (partial / writing.JOURNAL).is_file() and not out.exists():
                    time.sleep(0.002)
                time.sleep(dice.uniform(0, 0.05))
            else:
                time.sleep(dice.uniform(0, whole / 2))
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.kill(child, signal.SIGKILL)
            if children.codes() == [0]:
                break
            assert not out.exists()
        else:
            children.run(MERGE, str(tmp_path), str(out))
    assert went_on and not partial.exists()
    files = sorted((tmp_path / "whole").iterdir())
    assert len([file for file in files if file.suffix == ".safetensors"]) >= SHARDS
    assert sorted(file.name for file in out.iterdir()) == [file.name for file in files]
    for file in files:
        assert (out / file.name).read_bytes() == file.read_bytes(), file.name
