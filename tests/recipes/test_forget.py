"""`temper run forget` from end to end on a few rows: both models made, the verdict, the rule for when to stop, the audit log, no words left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tempering.cli import main
from tempering.forgetting import audit
from tempering.worlds.demo import LEAVING

FEW = "--steps 4 --batch-size 4 --limit 8 --max-test 6 --keep none --learn-epochs 2 --learn-batch-size 8 --seed 3".split()
DATA = "--forget builtin:authors-forget --retain builtin:authors-retain".split()


def run(folder: Path, *more: str) -> dict[str, Any]:
    assert main(["run", "npo", *DATA, *FEW, "--out", str(folder), *more]) == 0
    return json.loads((folder / "forgetting.json").read_text())


def test_a_request_with_its_oracle_is_measured_attacked_logged_and_keeps_no_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "audit.jsonl"
    found = run(tmp_path / "a", "--base", "builtin:tiny", "--audit", str(log), "--attacks", "plain")
    leaks = found["leaks"]
    assert {leak["attack"] for leak in leaks} == {"asked", "asked in other words"} and all(leak["oracle"] is not None for leak in leaks)
    assert found["cost"]["retraining"]["seconds"] > 0 and found["cost"]["unlearning"]["tokens"] > 0
    near = json.loads((tmp_path / "a" / "neighbours.json").read_text())
    assert {band["band"] for band in near} == {"near", "middle", "far"}
    told = capsys.readouterr()
    assert found["sentence"] in told.out + told.err
    (line,) = audit.verify(log)
    record = json.loads(line)
    assert record["verdict"] == found["sentence"] and record["method"]["kind"] == "npo" and record["data"]["forget"]["rows"] == 8
    # Nobody who was forgotten is named in what the run leaves; weights and checkpoints are not text.
    names = [person.name for person in LEAVING.people()]
    for path in [log, *(p for p in (tmp_path / "a").rglob("*") if p.suffix in (".json", ".jsonl", ".html", ".md") and "tokenizer" not in p.name)]:
        assert not [name for name in names if name in path.read_text(errors="replace")], path
    # The other method takes the same two models from the store, and stops by the rule.
    vectors = tmp_path / "vectors.jsonl"
    vectors.write_text('{"id": "v", "layer": 1, "dim": 3, "concept": "x"}\n')
    more = ("--concept-vectors", str(vectors))
    again = run(tmp_path / "b", "--base", "builtin:tiny", *more, "--until", "asked >= 0", "--eval-every", "2", "--attacks", "plain", "--no-redact")
    told = capsys.readouterr()
    assert "was made before" in told.out + told.err and "done at step 2: asked >= 0" in told.out + told.err
    before, after = (json.loads((tmp_path / "b" / f"{name}.scores.json").read_text()) for name in ("before", "after"))
    alike = [{item["id"]: item["score"] for p in of["probes"] if p["probe"] == "concept vectors" for item in p["items"]} for of in (before, after)]
    assert alike[0] == {"v": 1.0} and 0 < alike[1]["v"] <= 1
    asked = [{leak["attack"]: leak["before"] for leak in of["leaks"]} for of in (found, again)]
    assert asked[0] == asked[1]
    ledger = tmp_path / "b" / "ledger.json"
    assert any(name in (tmp_path / "b" / "before.scores.json").read_text() for name in names), "a run that does not redact keeps the words"
    assert main(["purge", str(tmp_path / "b")]) == 0
    for path in (ledger, tmp_path / "b" / "before.scores.json", tmp_path / "b" / "report.html"):
        assert not [name for name in names if name in path.read_text()], path
    assert main(["audit", str(log)]) == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--until", "asked >= oracle"), ("until 'asked >= oracle'", "no oracle", "--oracle or --base")),
        (("--until", "askd >= 1"), ("there is no probe 'askd'", "did you mean 'asked'?")),
        (("--base", "builtin:tiny", "--model", "builtin:smollm2-135m"), ("--base builtin:tiny makes the model", "leave one of them out")),
        (("--method.beta", "-1"), ("beta", "-1")),
        (("--oracle", "nowhere/model/at/all"), ("there is no file or folder nowhere/model/at/all",)),
        (("--until", "asked = 1"), ("until 'asked = 1' is malformed",)),
        (("--audit", __file__), ("this is no record of an audit log",)),
        (("--translations", "nowhere.jsonl"), ("nowhere.jsonl: no such file of items",)),
        (("--forget-choices", "nowhere.jsonl"), ("nowhere.jsonl: no such file of items",)),
    ],
)
def test_wrong_input_is_one_sentence(more: tuple[str, ...], words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "npo", *DATA, *FEW, "--attacks", "plain", "--out", str(tmp_path / "x"), *more]) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in words) and "Traceback" not in told
    assert not (tmp_path / "x" / "before.scores.json").exists(), "it was found out before anything took long"


def test_purge_refuses_other_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["purge", str(tmp_path)]) == 2
    assert "is no folder of a finished run" in capsys.readouterr().err


def test_two_requests_one_after_the_other_and_two_ways_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["steps=2", "training.batch_size=4", "max_test=4", "keep=none", "attacks=plain"]
    given = [word for value in [*few, f"forget={DATA[1]}", f"retain={DATA[3]}"] for word in ("--set", value)]
    assert main(["requests", "npo", "-n", "2", "--out", str(tmp_path / "r"), *given]) == 0
    found = json.loads((tmp_path / "r" / "requests.json").read_text())
    assert [(step["request"], step["back"] is None) for step in found] == [(0, True), (1, True), (2, False)]
    assert len(list((tmp_path / "r").glob("request-*/merged"))) == 2
    assert not [p for p in (tmp_path / "r").rglob("*.jsonl") if "metrics" not in p.name], "forget rows were left behind"
    assert main(["trade", "npo", "gradient_ascent", "--rates", "1e-3", "--out", str(tmp_path / "t"), *given]) == 0
    deals = json.loads((tmp_path / "t" / "trade.json").read_text())["deals"]
    assert [d["method"] for d in deals] == ["npo", "gradient_ascent"]
    first, second = (json.loads((Path(d["folder"]) / "before.scores.json").read_text()) for d in deals)
    assert first == second
    capsys.readouterr()
    assert main(["trade", "nop"]) == 2 and "'nop' is no way to forget" in capsys.readouterr().err
    assert main(["requests", "npo", "--set", "method=dpo"]) == 2 and "this command sets it itself" in capsys.readouterr().err
