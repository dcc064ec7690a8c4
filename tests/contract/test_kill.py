"""A run that is killed at any moment, also while it writes a checkpoint, loses at most the interval and ends with the bits of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tempering import checkpoint
from tempering.config import Optimizer, Training
from tempering.data.streams import Shuffled, passes
from tempering.errors import Interrupted
from tempering.fit import Evaluation, Stopper, fit
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.lora import LoRA
from tempering.types import Role
from tests.nursery import nursery
from tests.toy import toy_llama, toy_rows

STEPS, EVERY = 40, 6
END = "end.safetensors"


def train(path: str) -> int:
    """What a child does; its exit code. SIGTERM asks it to stop, as the command line does."""
    folder = Path(path)
    stopper = Stopper()
    signal.signal(signal.SIGTERM, lambda number, frame: stopper("SIGTERM"))
    try:
        fitted = fit(
            {"policy": Role(toy_llama(), LoRA(r=4, dropout=0.3))}, NLL(), Shuffled(toy_rows(20), 4, seed=5), steps=STEPS,
            optimizer=Optimizer(lr=3e-3), training=Training(save_every=EVERY, micro_tokens=30, keep_checkpoints=2, precision="fp32"),
            evaluation=Evaluation(lambda: passes(toy_rows(5, seed=8), 2), every=9), folder=folder, resume=True, seed=11, say=lambda text: None,
            stopper=stopper,
        )  # fmt: skip
    except Interrupted as stop:
        return stop.exit_code
    save_file(dict(fitted.roles["policy"].handle.params), folder / END)
    return 0


def steps_done(folder: Path) -> int:
    """Steps that were finished, by the whole lines of metrics.jsonl."""
    metrics = folder / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


def newest(folder: Path) -> int:
    """Step of the newest checkpoint; every one that is there must be whole."""
    found = checkpoint.steps(folder / "checkpoints")
    for step in found:
        checkpoint.verify(folder / "checkpoints" / f"step-{step:06d}")
    return max(found, default=0)


def writing(folder: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any((folder / "checkpoints").glob(".step-*.part"))


def check(folder: Path, undisturbed: Path) -> None:
    expected, got = load_file(undisturbed / END), load_file(folder / END)
    assert expected.keys() == got.keys() and all(torch.equal(expected[name], got[name]) for name in expected)
    lines = [[json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (folder, undisturbed)]
    theirs, ours = ([{k: v for k, v in line.items() if k != "tokens_per_s"} for line in run] for run in lines)
    assert theirs == ours and [line["step"] for line in ours] == list(range(1, STEPS + 1))
    assert not writing(folder)


TRAIN = f"{__name__}:train"


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_ends_with_the_same_bits(tmp_path: Path, kills: int) -> None:
    undisturbed = tmp_path / "undisturbed"
    # Not seeded, on purpose: every run of this test tries other moments.
    dice = random.Random()
    done, runs, midwrite = 0, 0, 0
    with nursery() as children:
        began = time.monotonic()
        children.run(TRAIN, str(undisturbed))
        whole = time.monotonic() - began
        while done < kills:
            folder = tmp_path / f"killed-{runs}"
            (child,) = children.start(TRAIN, str(folder))
            if done % 3 == 2:
                until = time.monotonic() + whole
                while not writing(folder) and time.monotonic() < until and not (folder / END).exists():
                    pass
                midwrite += writing(folder)
            else:
                time.sleep(dice.uniform(0, whole / 2))
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.kill(child, signal.SIGTERM if done % 3 == 1 else signal.SIGKILL)
            (code,) = children.codes()
            if code == 0:
                check(folder, undisturbed)
                runs += 1
                continue
            assert code in (-signal.SIGKILL, -signal.SIGTERM, Interrupted.exit_code)
            lost = steps_done(folder) - newest(folder)
            assert 0 <= lost <= (0 if code == Interrupted.exit_code else EVERY)
            done += 1
        assert midwrite >= kills // 3 - 1
        folder = tmp_path / f"killed-{runs}"
        children.run(TRAIN, str(folder))
        check(folder, undisturbed)


def test_a_checkpoint_that_cannot_be_written_is_told_and_training_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "checkpoints").write_text("a file stands where the folder should be")
    fitted = fit({"policy": Role(toy_llama(), LoRA(r=4))}, NLL(), Shuffled(toy_rows(8), 4), steps=4,
                 training=Training(save_every=2, precision="fp32"), folder=tmp_path, say=said.append)  # fmt: skip
    assert fitted.steps == 4 and steps_done(tmp_path) == 4
    (told,) = said
    assert told.startswith("the checkpoint of step 2 could not be written: cannot write the folder") and "there is no checkpoint yet" in told
