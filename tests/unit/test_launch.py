"""A run of several processes ends with one sentence: who failed or died, and how. Children here load no torch."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tempering.cli.several import elsewhere
from tempering.distributed import launch as launching
from tempering.distributed.launch import launch, verdict
from tempering.distributed.word import FOLDER, leave, read
from tempering.errors import UserError

BEGIN = "import os, signal, sys, time; from tempering.distributed.word import leave, rank\n"


def child(code: str) -> list[str]:
    return [sys.executable, "-c", BEGIN + code]


def test_all_well() -> None:
    assert launch(child("assert os.environ['WORLD_SIZE'] == '3' and rank() < 3"), 3) == (0, "")


def test_a_process_that_is_killed_is_named_and_the_others_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "GRACE_S", 0.2)
    code = "leave(step=7)\nif rank() == 1: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(600)"
    assert launch(child(code), 2) == (
        1,
        "process 1 of this run was killed by SIGKILL after step 7; the machine may be out of memory; the others were stopped; go on with --resume",
    )


def test_the_sentence_of_one_that_failed_comes_before_those_that_lost_contact() -> None:
    code = (
        "leave(step=3)\n"
        "if rank() == 1: leave(sentence='train.jsonl:3: not JSON'); sys.exit(2)\n"
        "leave(sentence='lost contact', lost=True); sys.exit(1)"
    )
    assert launch(child(code), 3) == (2, "train.jsonl:3: not JSON")


def test_a_fault_on_another_process_says_which_and_when() -> None:
    code = "leave(step=3)\nif rank() == 1: leave(sentence='a fault'); sys.exit(1)\nleave(sentence='lost contact', lost=True); sys.exit(1)"
    assert launch(child(code), 2) == (1, "process 1 of this run, after step 3: a fault")


def test_without_a_word_the_last_line_it_wrote_is_told() -> None:
    code = "if rank() == 1: print('Fatal Python error: out of luck', file=sys.stderr); os._exit(4)"
    sentence = (
        "process 1 of this run ended with exit code 4 after step 0: Fatal Python error: out of luck; the others were stopped; go on with --resume"
    )
    assert launch(child(code), 2) == (4, sentence)


def test_a_process_whose_launcher_is_gone_ends(tmp_path: Path) -> None:
    """The launcher dies without a chance to tell anybody; its process would write a file if it lived on."""
    import subprocess

    inner = f"from tempering.distributed.launch import end_with_launcher; end_with_launcher(); open({str(tmp_path / 'up')!r}, 'w').close()\n"
    inner += f"time.sleep(2); open({str(tmp_path / 'lived')!r}, 'w').close()"
    outer = f"from tempering.distributed.launch import launch; launch([sys.executable, '-c', {BEGIN + inner!r}], 1)"
    launcher = subprocess.Popen(child(outer))
    while not (tmp_path / "up").exists():
        time.sleep(0.01)
    launcher.kill()
    launcher.wait()
    time.sleep(3)
    assert not (tmp_path / "lived").exists()


def test_words_are_read_as_they_were_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv("RANK", "2")
    leave(step=5)
    leave(sentence="no")
    word = read(tmp_path, 2)
    assert (word.step, word.sentence, word.lost) == (5, "no", False)
    assert verdict({0: 0, 1: 0, 2: 3}, tmp_path) == (3, "no")
    assert read(tmp_path, 0).step == 0


@pytest.mark.parametrize(("processes", "tensor"), [(1, 2), (3, 2), (2, 4), (2, 0), (4, -2)])
def test_processes_that_do_not_divide_are_refused_before_anything_starts(processes: int, tensor: int) -> None:
    with pytest.raises(UserError, match=rf"--tensor-parallel: expected a divisor of the number of processes \({processes}, .*\), got {tensor}"):
        elsewhere(processes, None, tensor)


def test_a_run_of_one_process_stays_here() -> None:
    assert elsewhere(1, None, 1) is None
