"""Bad input through the command line: one sentence that names the place and the mend, exit code 2, no traceback, and nothing written."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tempering.cli import main
from tests.conftest import make_llama, make_tokenizer
from tests.rules.bad_input_cases import CASES, GOOD, SFT, Case

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model."""
    folder = tmp_path_factory.mktemp("model") / "m"
    make_llama().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder and a store of its own, with good data in it, where the command runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEMPERING_HOME", str(tmp_path_factory.mktemp("store")))
    monkeypatch.delenv("TEMPERING_DEBUG", raising=False)
    for name, content in GOOD.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def words(case: Case, original: Path) -> list[str]:
    return [str(original) if word == "M" else word for word in shlex.split(case.line)]


def tree(folder: Path) -> dict[str, Any]:
    """Every file with what it holds, every folder."""
    return {str(path.relative_to(folder)): path.stat().st_size if path.is_file() else None for path in sorted(folder.rglob("*"))}


def refused(code: int, err: str, says: tuple[str, ...]) -> None:
    """Exit code 2, and exactly one sentence of ours, at the end, that says what it must."""
    assert "Traceback" not in err
    ours = [line for line in err.splitlines() if line.startswith("temper: ")]
    assert code == 2, err
    assert len(ours) == 1, err
    assert err.splitlines()[-1] == ours[0]
    assert len(ours[0]) < 1500
    missing = [part for part in says if part not in ours[0]]
    assert not missing, f"{missing} not in: {ours[0]}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case: Case, original: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in case.files.items():
        (here / name).write_bytes(content)
    if case.prepare is not None:
        case.prepare(here, original)
    before = tree(here)
    capsys.readouterr()
    code = main(words(case, original))
    refused(code, capsys.readouterr().err, case.says)
    assert tree(here) == before


def test_there_are_enough_cases_and_their_names_differ() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40


@pytest.mark.parametrize("name", ["broken UTF-8", "an unknown flag", "a wrong type in a config"])
def test_bad_input_in_a_process_of_its_own(name: str, original: Path, here: Path) -> None:
    case = next(case for case in CASES if case.name == name)
    for file, content in case.files.items():
        (here / file).write_bytes(content)
    before = tree(here)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "tempering", *words(case, original)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    refused(done.returncode, done.stderr, case.says)
    assert tree(here) == before


# -------------------------------------------------------------------------------------------------------------------------- what the system refuses


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KiB, where it may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], capture_output=True, check=False).returncode
    ):
        pytest.skip("a small file system cannot be mounted here (needs root and CAP_SYS_ADMIN)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def test_a_full_disk(small_disk: Path, original: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(small_disk)
    code = main(
        shlex.split(SFT.replace("--model M", f"--model {original}").replace("--out out", f"--out {small_disk / 'out'}") + " --data good.jsonl")
    )
    refused(code, capsys.readouterr().err, ("disk is full", "free some space"))
    assert not (small_disk / "out").exists()


def test_a_disk_that_fills_while_the_model_is_saved(small_disk: Path, original: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(small_disk)
    (small_disk / "filler").open("r+b").truncate((small_disk / "filler").stat().st_size - 100 * 1024)
    out = small_disk / "out"
    line = SFT.replace("--model M", f"--model {original}").replace("--out out", f"--out {out}") + " --data good.jsonl --scope full --save-every 0"
    code = main(shlex.split(line))
    refused(code, capsys.readouterr().err, ("disk is full", "free some space"))
    assert not (out / "model").exists(), "never a half-written model that looks whole"
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def fill(folder: Path) -> None:
    """Write until the disk is full."""
    with pytest.raises(OSError, match="No space left"), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def test_a_read_only_folder(original: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = here / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    immutable = os.geteuid() == 0
    if immutable and (shutil.which("chattr") is None or subprocess.run(["chattr", "+i", str(folder)], capture_output=True, check=False).returncode):
        pytest.skip("root may write everywhere, and the file system here has no immutable folders")
    try:
        line = SFT.replace("--model M", f"--model {original}").replace("--out out", "--out locked/out") + " --data good.jsonl"
        code = main(shlex.split(line))
        refused(code, capsys.readouterr().err, ("locked", "write"))
        assert list(folder.iterdir()) == []
    finally:
        if immutable:
            subprocess.run(["chattr", "-i", str(folder)], capture_output=True, check=False)
        folder.chmod(0o700)
