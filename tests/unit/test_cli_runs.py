"""What the program says of runs: nothing untrusted reaches the terminal, and what was left behind is listed, shown and read again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tempering.cli.runs import find_runs, headline, read_run
from tempering.cli.show import clean, one_line, strip
from tests.unit.cli_cases import run_folder, temper, write_ledger

pytestmark = pytest.mark.usefixtures("empty_folder")


# ------------------------------------------------------------------------------------------------------------------------------ untrusted text


@pytest.mark.parametrize(
    ("text", "shown", "streamed"),
    [
        ("plain ü 漢 🙂", "plain ü 漢 🙂", "plain ü 漢 🙂"),
        ("a\x1b[31mb", "a\\x1b[31mb", "a[31mb"),
        ("a\x9b2Jb", "a\\x9b2Jb", "a2Jb"),
        ("a\rb\x07\x00", "a\\rb\\x07\\x00", "ab"),
        ("a\u202eb\u2066", "a\\u202eb\\u2066", "ab"),
        ("a\nb\tc", "a\nb\tc", "a\nb\tc"),
        ("\ud800", "\\ud800", ""),
    ],
)
def test_control_characters_never_reach_the_terminal(text: str, shown: str, streamed: str) -> None:
    assert clean(text) == shown
    assert strip(text) == streamed


def test_one_line() -> None:
    assert one_line("a\n  b\x1b]0;x\x07") == "a b\\x1b]0;x\\x07"


def test_runs_lists_newest_first_and_shows_markup_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    old = run_folder(
        Path("runs/a"),
        config={"recipe": "sft", "values": {"model": "[red]m[/red]\x1b[2J"}},
        status={"state": "done", "message": "kept all"},
        ledger={
            "keep": {"point": 0.75},
            "gain": {"point": 0.125},
            "gates": [{"gate": "keep >= 0.9", "passed": False}, {"gate": "x", "passed": True}],
        },
    )
    new = run_folder(Path("runs/sweep/b"), config={"recipe": "dpo", "values": {}}, status={"state": "interrupted", "message": "by Ctrl-C"})
    run_folder(Path("runs/not-a-run"), config={})
    for i, folder in enumerate((old, new)):
        for file in folder.iterdir():
            os.utime(file, (1e9 + i, 1e9 + i))
    code, out, err = temper(capsys, "runs")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["runs/sweep/b", "runs/a"]
    assert "\x1b" not in out
    assert "0.750" in out
    assert "+0.125" in out
    assert "failed: keep >= 0.9" in " ".join(out.split())
    assert "by Ctrl-C" in out
    assert "kept all" not in out
    assert "[red]m[/red]\\x1b[2J" in out.replace("\n", "")
    assert [run["recipe"] for run in json.loads(temper(capsys, "runs runs --json")[1])] == ["dpo", "sft"]


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"state": 7}', "[" * 100_000, '{"state": "running", "pid": 4194399}'])
def test_a_broken_run_folder_is_listed_as_it_is(content: str) -> None:
    folder = run_folder(Path("runs/x"), status=content, config=content, ledger=content)
    (run,) = find_runs(Path("runs"))
    assert run.folder == folder
    assert run.state == ("killed" if "pid" in content else "unknown")


def test_a_running_run_is_running() -> None:
    import socket

    folder = run_folder(Path("r"), status={"state": "running", "pid": os.getpid(), "host": socket.gethostname()})
    assert read_run(folder).state == "running"
    (folder / "status.json").write_text(json.dumps({"state": "running", "pid": 4194399, "host": "another"}))
    assert read_run(folder).state == "running", "another machine's process cannot be asked"


@pytest.mark.parametrize(
    ("ledger", "found"),
    [
        ({}, (None, None)),
        ({"keep": {"point": 0.5}, "gain": None}, (0.5, None)),
        ({"keep": {"point": "x"}, "gain": {"point": True}}, (None, None)),
        ({"keep": 3}, (None, None)),
    ],
)
def test_headline(ledger: dict[str, Any], found: tuple[Any, Any]) -> None:
    assert headline(ledger) == found


# --------------------------------------------------------------------------------------------------------------------------------------- ledgers


def test_lost_items_are_rows_that_can_be_read_again(capsys: pytest.CaptureFixture[str]) -> None:
    run = run_folder(Path("r"), config={})
    write_ledger(run)
    code, out, err = temper(capsys, "lost r")
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["prompt"], row["completion"]) for row in rows] == [("Question 0?", "answer 0"), ("Question 1?", "answer 1")]
    assert temper(capsys, "lost r --side target")[1] == ""
    assert temper(capsys, "lost r/ledger.json")[1] == out


def test_compare_shows_a_finished_run_and_writes_html_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    run = run_folder(Path("r"), config={})
    write_ledger(run)
    code, out, _ = temper(capsys, "compare r --html out.html --json out.json")
    assert code == 0
    assert "quiz" in out
    assert "[bold]tuned" in out
    assert "[bold]tuned" in Path("out.html").read_text()
    assert json.loads(Path("out.json").read_text())[0]["keep"]["point"] == pytest.approx(1 / 3)
