"""The program: grammar, help, exit codes, and one sentence for every failure."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tempering.cli.errors import explain
from tempering.errors import GateFailed, Interrupted, UserError
from tests.unit.cli_cases import run_folder, temper, write_ledger

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("empty_folder")

MINE = '''from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path
from tempering.config import Optimizer
from tempering.errors import GateFailed, Interrupted, UserError


def mine(optimizer: Optimizer = Optimizer(lr=0.5), fail: str = "", seed: int = 0) -> None:
    """My own recipe. More.

    Args:
        fail: how to fail.
    """
    Path("ran.txt").write_text(f"{optimizer.lr} {seed}")
    if fail == "user":
        raise UserError("line one\\nwith \\x1b[31mcolour")
    if fail == "gate":
        raise GateFailed("keep is 0.5")
    if fail == "stop":
        raise Interrupted("stopped; go on with: temper run mine --resume runs/x")
    if fail == "full":
        raise OSError(28, "No space left on device", "/somewhere/file")
    if fail == "bug":
        raise KeyError("what")
'''


# -------------------------------------------------------------------------------------------------------------------------------- grammar and help


def test_without_words_a_short_screen(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = temper(capsys, "")
    assert (code, err) == (0, "")
    assert "temper run sft" in out
    assert len(out.splitlines()) < 15


@pytest.mark.parametrize(
    "line", ["--help", "-h", "run", "run --help", "run sft --help", "sft --help", "sweep dpo --help", "measure --help", "new --help"]
)
def test_help(capsys: pytest.CaptureFixture[str], line: str) -> None:
    code, out, err = temper(capsys, line)
    assert (code, err) == (0, "")
    assert "Usage: temper" in out


def test_the_help_of_a_recipe_has_groups_defaults_and_docs(capsys: pytest.CaptureFixture[str]) -> None:
    out = " ".join(temper(capsys, "run sft --help")[1].replace("│", " ").split())
    for part in ("Recipe sft", "Optimizer", "Schedule", "Training", "Budget", "This run", "--lr --optimizer.lr NUMBER", "[default: 0.0002]"):
        assert part in out
    assert "Learning rate per optimizer step, before the schedule." in out
    assert "which weights may move: full or lora." in out


def values(out: str) -> dict[str, Any]:
    return json.loads(out)["values"]


@pytest.mark.parametrize("line", ["run sft", "sft", "run recipe.py:mine", "recipe.py:mine", "run recipe.py:mine --seed 0"])
def test_the_ways_to_name_a_recipe(capsys: pytest.CaptureFixture[str], line: str) -> None:
    Path("recipe.py").write_text(MINE)
    code, out, _ = temper(capsys, f"{line} --dry-run")
    assert code == 0
    assert values(out)["seed"] == 0


def test_a_file_alone_means_the_function_of_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text(MINE)
    assert temper(capsys, "run mine.py --dry-run")[0] == 0


def test_flags_over_config_over_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.yaml").write_text("lr: 1e-3\nbatch-size: 4\ngate: ['keep >= 0.9']\n")
    code, out, _ = temper(capsys, "run sft --config c.yaml --lr 3e-4 --scope full --no-keep-best --new-tokens '<a>' --new-tokens '<b>' --dry-run")
    got = values(out)
    assert code == 0
    assert (got["optimizer"]["lr"], got["training"]["batch_size"], got["training"]["steps"]) == (3e-4, 4, None)
    assert got["scope"] == {"kind": "full", "only": None}
    assert (got["budget"]["gate"], got["new_tokens"], got["training"]["keep_best"]) == (["keep >= 0.9"], ["<a>", "<b>"], False)


def test_underscores_and_hyphens_and_long_spellings_are_alike(capsys: pytest.CaptureFixture[str]) -> None:
    spelled = ["--batch-size 3", "--batch_size 3", "--training.batch-size 3", "--training.batch_size=3"]
    assert {values(temper(capsys, f"run sft --dry-run {flag}")[1])["training"]["batch_size"] for flag in spelled} == {3}


def test_a_dry_run_is_a_config_file(capsys: pytest.CaptureFixture[str]) -> None:
    out = temper(capsys, "run dpo --beta 0.3 --scope.options.use_dora true --dry-run")[1]
    Path("c.json").write_text(out)
    assert temper(capsys, "run dpo --config c.json --dry-run")[1] == out


def test_the_schema_takes_what_the_command_takes(capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(temper(capsys, "schema sft")[1])
    names = schema["properties"]
    assert {"model", "optimizer", "lr", "batch_size"} <= set(names)
    assert {"full", "lora", "stacked"} <= {kind for one in names["scope"]["anyOf"] for kind in one.get("enum", ())}
    assert schema["$defs"]["Training"]["properties"]["steps"]["description"] == "Optimizer steps."
    assert schema["additionalProperties"] is False


# -------------------------------------------------------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("fail", "code", "message"),
    [
        ("", 0, ""),
        ("user", 2, "temper: line one with \\x1b[31mcolour"),
        ("gate", 3, "temper: keep is 0.5"),
        ("stop", 130, "temper: stopped; go on with: temper run mine.py --resume runs/x"),
        (
            "full",
            2,
            "temper: the disk is full: cannot write /somewhere/file; free some space or choose another folder with --out, then go on with --resume",
        ),
    ],
)
def test_failures_of_a_recipe(capsys: pytest.CaptureFixture[str], fail: str, code: int, message: str) -> None:
    Path("mine.py").write_text(MINE)
    got, _, err = temper(capsys, f"run mine.py --lr 0.25 --seed 4 --fail '{fail}'")
    assert (got, err.strip()) == (code, message)
    assert Path("ran.txt").read_text() == "0.25 4"


def test_a_fault_of_ours_leaves_its_traceback_in_a_file(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    Path("mine.py").write_text(MINE)
    code, _, err = temper(capsys, "run mine.py --fail bug")
    assert code == 1
    assert "KeyError: 'what'" in err
    assert "Traceback" not in err
    (written,) = tmp_path.glob("tempering-error-*.txt")
    assert str(written) in err
    assert "Traceback (most recent call last)" in written.read_text()


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    Path("mine.py").write_text(MINE)
    if how == "environment":
        monkeypatch.setenv("TEMPERING_DEBUG", "1")
    code, _, err = temper(capsys, "run mine.py --fail user" + (" --debug" if how == "flag" else ""))
    assert code == 2
    assert "Traceback" in err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("x"), 2, "x"),
        (GateFailed("y"), 3, "y"),
        (Interrupted("z"), 130, "z"),
        (KeyboardInterrupt(), 130, "stopped"),
        (OSError(errno.ENOSPC, "full", "/a"), 2, "the disk is full: cannot write /a"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), 2, "no permission to use /a"),
        (OSError(errno.EROFS, "Read-only file system", "/a"), 2, "read-only file system"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/a"), 2, "/a: no such file or directory; check the path"),
        (MemoryError(), 1, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "out of memory"),
        (RecursionError(), 2, "nested too deeply"),
        (OSError("no number"), 1, "a fault in tempering"),
        (ZeroDivisionError("a\nb"), 1, "ZeroDivisionError: a b"),
    ],
)
def test_explain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException, code: int, words: str) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    got, sentence = explain(error)
    assert got == code
    assert words in sentence


def test_a_reader_that_leaves_is_no_error() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = f"{shlex.quote(sys.executable)} -m tempering run sft --dry-run | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")


def test_python_m_and_its_exit_code() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tempering", "run", "sft", "--lr", "x"], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "temper: --lr: expected a number greater than 0, got 'x'\n"


# ---------------------------------------------------------------------------------------------------------------------------------- the index


def test_methods_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = temper(capsys, "methods dpo recipe")
    assert code == 0
    assert "recipe" in out
    code, out, _ = temper(capsys, "show objective/dpo")
    assert code == 0
    for part in ("DPO (objective)", "beta", "0.1", "https://arxiv.org/abs/2305.18290", "recipe   dpo", "temper show recipe/dpo"):
        assert part in out


def test_new_writes_files_that_pass_their_own_tests_and_overwrites_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    kinds = ("objective", "recipe", "probe")
    assert [temper(capsys, f"new {kind} my_{kind}")[0] for kind in kinds] == [0, 0, 0]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"test_my_{kind}.py" for kind in kinds)]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stdout
    before = {path: path.read_bytes() for path in tmp_path.glob("*.py")}
    for kind in kinds:
        code, _, err = temper(capsys, f"new {kind} my_{kind}")
        assert code == 2
        assert f"my_{kind}.py exists already" in err
    assert {path: path.read_bytes() for path in tmp_path.glob("*.py")} == before


@pytest.mark.parametrize("name", ["../x", "My", "a-b", "1a", "a.b", ""])
def test_new_refuses_names_that_are_no_module(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    code, _, err = temper(capsys, f"new probe '{name}'")
    assert code == 2
    assert "lower-case letters" in err
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------------------------------------- wrong commands


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("compare r --html no/out.html", "--html no/out.html: there is no folder no"),
        ("compare r --alpha 2", "--alpha: expected a number between 0 and 1, got 2.0"),
        ("compare only", "needs two models or more"),
        ("measure", "needs a model"),
        ("chat m --top-p 0", "--top-p above 0"),
        ("chat", "temper chat needs MODEL"),
        ("runs nowhere", "nowhere: there is no such folder"),
        ("report r", "r: has no config.json"),
        ("lost nowhere", "nowhere: there is no such folder"),
        ("methods nothing-like-this", "nothing matches"),
        ("runs a b", "temper runs: unexpected argument 'b'"),
        ("chat m --tempratur 1", "there is no flag --tempratur; did you mean '--temperature'?"),
        ("chat m --seed x", "--seed: expected a whole number, got 'x'"),
        ("new thing x", "expected one of objective, recipe, probe, got 'thing'"),
        ("mesure m", "there is no command 'mesure'; did you mean 'measure'?"),
        ("--hlp", "there is no flag '--hlp'; did you mean '--help'?"),
        ("run --lr 3", "the recipe comes first"),
        ("run sft --lr 1 --lr 2", "--lr is given twice; keep one"),
        ("sweep sft --resume x", "a sweep is resumed by typing it again"),
        ("sweep sft --lr 1,,2", "an empty value between commas"),
        ("sweep sft --lr 1,1", "a value is given twice"),
        ("sweep sft --lr 1,x", "--lr: expected a number greater than 0, got 'x'"),
    ],
)
def test_wrong_commands(capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    Path("r").mkdir()
    write_ledger(Path("r"))
    before = sorted(Path().rglob("*"))
    code, out, err = temper(capsys, line)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("temper: ")
    assert err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


# ----------------------------------------------------------------------------------------------------------------------------------------- Python


def test_run_from_python(tmp_path: Path) -> None:
    import tempering as tp

    Path("mine.py").write_text(MINE)
    tp.run("mine.py", lr=0.125, seed=3)
    assert Path("ran.txt").read_text() == "0.125 3"
    with pytest.raises(tp.UserError, match="has no argument 'sede'; did you mean 'seed'"):
        tp.run("mine.py", sede=3)


def test_resume_refuses_other_values(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text(MINE)
    out = temper(capsys, "run mine.py --lr 0.25 --dry-run")[1]
    folder = run_folder(Path("runs/x"), config=out, status={"state": "interrupted"})
    for resume in (f"--resume {folder}", "--resume"):
        code, _, err = temper(capsys, f"run mine.py --lr 0.5 {resume}")
        assert code == 2
        assert "the run was started with optimizer.lr = 0.25, not 0.5" in err
        assert temper(capsys, f"run mine.py {resume}")[0] == 0
        assert Path("ran.txt").read_text() == "0.25 0"
    code, _, err = temper(capsys, "run sft --resume runs/x")
    assert code == 2
    assert "is a run of recipe mine, not of sft" in err
