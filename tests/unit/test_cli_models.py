"""Commands that load a model: measure, compare, chat, check, export, and a run from its first flag to its ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tempering.cli.probes import find_probes
from tempering.errors import UserError
from tests.unit.cli_cases import temper

ROWS = [{"messages": [{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": f"{i}."}]} for i in range(12)]
TEXTS = [{"id": f"t{i}", "text": f"Some text number {i} to be predicted."} for i in range(6)]


@pytest.fixture
def here(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model `tiny`, rows and items."""
    folder = tiny_folder.parent
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TEMPERING_HOME", str(tmp_path_factory.mktemp("store")))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TEXTS))
    return folder


def test_measure_prints_a_table_and_writes_items(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = temper(capsys, "measure tiny --probe perplexity:texts.jsonl,limit=4,name=mine --data rows.jsonl --json out.json")
    assert code == 0
    (scores,) = json.loads((here / "out.json").read_text())
    probes = {probe["probe"]: probe for probe in scores["probes"]}
    assert {"mine", "held_loss"} <= set(probes)
    assert [item["id"] for item in probes["mine"]["items"]] == ["t0", "t1", "t2", "t4"]
    mean = sum(item["score"] for item in probes["mine"]["items"]) / 4
    assert f"{mean:.3f}" in out


def test_compare_asks_every_model_what_the_base_was_asked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = temper(capsys, "compare tiny tiny ./tiny --probe perplexity:texts.jsonl --json out.json --html out.html")
    assert code == 0
    ledgers = json.loads((here / "out.json").read_text())
    assert [ledger["comparisons"] for ledger in ledgers] == [2, 2], "one multiplicity control over all models"
    assert [ledger["probes"][0]["difference"]["point"] for ledger in ledgers] == [0.0, 0.0]
    assert out.count("perplexity") >= 2
    assert "<script" not in (here / "out.html").read_text()


def test_a_run_from_its_flags_to_its_ledger_and_back(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "run sft --model tiny --data rows.jsonl --steps 2 --keep none --lr 1e-2 --out runs/a"
    code, out, err = temper(capsys, line)
    assert code == 0, err
    assert "held_loss" in out
    status = json.loads((here / "runs/a/status.json").read_text())
    assert status["state"] == "done"
    assert json.loads((here / "runs/a/config.json").read_text())["values"]["optimizer"]["lr"] == 1e-2
    code, out, err = temper(capsys, line.replace("runs/a", "runs/b"))
    assert code == 0
    assert "already done" in err
    assert "held_loss" in out
    assert not (here / "runs/b").exists()
    assert [run["state"] for run in json.loads(temper(capsys, "runs --json")[1])] == ["done"]
    assert temper(capsys, "chat runs/a --once hello --max-new-tokens 3")[0] == 0
    assert temper(capsys, "report runs/a")[0] == 0
    code, _, err = temper(capsys, line.replace("runs/a", "runs/c") + " --gate 'held_loss < 0.001'")
    assert code == 3
    assert "held_loss < 0.001" in err
    assert "runs/c" in err
    assert temper(capsys, "run sft --config runs/a --dry-run")[0] == 0


def test_a_run_s_model_is_exported_and_opens_elsewhere(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM

    assert temper(capsys, "run sft --model tiny --data rows.jsonl --steps 1 --keep none --out a")[0] == 0
    code, out, _ = temper(capsys, "export a --out merged --merged")
    assert code == 0
    assert "merged and saved-again: agree" in out
    assert AutoModelForCausalLM.from_pretrained(here / "merged").num_parameters() == 27_360


def test_chat_streams_and_strips_what_steers_a_terminal(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["hello", "/new", "again", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    seen: list[Any] = []

    def answer(policy: Any, messages: Any, write: Any, **options: Any) -> None:
        seen.append(list(messages))
        write("one \x1b[2J")
        write("two\x07")

    monkeypatch.setattr("tempering.cli.chat.answer", answer)
    code, out, _ = temper(capsys, "chat tiny --system 'Be kind.'")
    assert code == 0
    system = {"role": "system", "content": "Be kind."}
    assert seen == [[system, {"role": "user", "content": "hello"}], [system, {"role": "user", "content": "again"}]]
    assert out.count("one [2Jtwo\n") == 2
    assert "\x1b" not in out
    assert "\x07" not in out


def test_chat_writes_what_sample_samples(here: Path) -> None:
    from tempering.cli.chat import answer
    from tempering.items import prompt_ids
    from tempering.models import load
    from tempering.sample import sample

    policy = load("tiny", say=lambda _: None)
    messages = [{"role": "user", "content": "hello"}]
    pieces: list[str] = []
    answer(policy, messages, pieces.append, max_new_tokens=12, temperature=0.0, top_p=1.0, seed=0)
    expected = sample(policy, [prompt_ids(policy, messages)], max_new_tokens=12)[0][0].text
    assert "".join(pieces) == expected
    drawn = [[], []]  # type: list[list[str]]
    for i, seed in enumerate((1, 1)):
        answer(policy, messages, drawn[i].append, max_new_tokens=12, temperature=1.0, top_p=0.9, seed=seed)
    assert drawn[0] == drawn[1]


def test_chat_refuses_a_conversation_that_is_too_long(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = temper(capsys, f"chat tiny --once '{'a b ' * 400}'")
    assert code == 2
    assert "the model has 512 positions" in err


def test_check_finds_what_is_wrong_and_says_so_in_its_exit_code(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = temper(capsys, "check rows.jsonl --model tiny")
    assert code == 0
    assert "12 records" in out
    code, out, _ = temper(capsys, "check rows.jsonl --model tiny --against rows.jsonl --json out.json")
    assert code == 2
    findings = json.loads((here / "out.json").read_text())["findings"]
    assert [finding["code"] for finding in findings if finding["severity"] == "error"] == ["prompt_in_test"]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["perplexity:texts.jsonl"], [("perplexity", "texts.jsonl", None)]),
        (["perplexity:items=texts.jsonl,limit=3,name=x"], [("x", "texts.jsonl", 3)]),
        (["perplexity:keep:texts", "perplexity:texts.jsonl,name=y"], [("perplexity", "keep:texts", None), ("y", "texts.jsonl", None)]),
    ],
)
def test_probes_as_they_are_typed(names: list[str], found: list[tuple[str, str, int | None]]) -> None:
    probes: list[Any] = list(find_probes(names, None))
    assert [(probe.name, probe.items, probe.limit) for probe in probes] == found


def test_two_probes_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="another probe is called 'perplexity' already"):
        find_probes(["perplexity:a.jsonl", "perplexity:b.jsonl"], None)
    assert len(find_probes(["perplexity:a.jsonl", "perplexity:a.jsonl"], None)) == 1


def test_a_probe_of_the_battery_by_its_name() -> None:
    from tempering.measure import keep_battery

    first: Any = keep_battery(None)[0]
    assert find_probes([first.name.replace(" ", "-")], None) == (first,)
    assert len(find_probes([], None)) == len(keep_battery(None))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("perplexty", "did you mean 'perplexity'?"),
        ("perplexity", "perplexity needs items; give it as --probe perplexity:FILE.jsonl or keep:NAME"),
        ("perplexity:a.jsonl,limt=3", "has no field 'limt'; did you mean 'limit'?"),
        ("perplexity:a.jsonl,limit=0", "expected a whole number greater than 0, or none, got '0'"),
        ("perplexity:a.jsonl,b", "expected field=value after a comma, got 'b'"),
        ("lm-eval", "lm_eval_task needs task"),
    ],
)
def test_wrong_probes(name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        find_probes([name], None)
    assert message in str(error.value)
