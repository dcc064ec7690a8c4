"""`temper run forget --shadow-models N` from end to end on a random model of a few thousand weights, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tempering.cli import main
from tests.recipes.test_forget_attacked import rows

FEW = "--steps 2 --batch-size 4 --keep none --attacks plain --precision fp32 --r 2 --learn-lr 1e-2 --learn-batch-size 8 --max-test 8".split()


def facts(of: str, n: int) -> list[tuple[str, str]]:
    return [(f"Where is {of} {i}?", f"at {of} {7 * i}") for i in range(n)]


def command(tmp_path: Path, base: Path, *more: str, epochs: str = "20") -> list[str]:
    forget, retain, unseen = (rows(tmp_path / f"{of}.jsonl", facts(of, 10)) for of in ("Ann", "Bo", "Cy"))
    data = ["--forget", forget, "--retain", retain, "--holdout", unseen, "--base", str(base)]
    return ["run", "npo", *data, *FEW, "--learn-epochs", epochs, *more]


def test_what_was_learned_is_told_from_what_was_not_and_shadow_models_are_made_once(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = command(tmp_path, tiny_folder, "--shadow-models", "4")
    assert main([*asked, "--out", str(tmp_path / "a")]) == 0
    found, told = json.loads((tmp_path / "a" / "lira.json").read_text()), capsys.readouterr()
    assert (found["shadow_models"], found["members"], found["others"]) == (4, 10, 10)
    assert {form for name in ("before", "after", "oracle") for form in found[name]} == {"online", "offline"}
    # 20 passes learn ten rows by heart; the oracle saw none of them.
    assert found["before"]["online"]["auc"]["point"] > 0.9 > found["oracle"]["online"]["auc"]["point"]
    assert "LiRA with 4 shadow models" in " ".join(told.err.split()) and "shadow model 4 of 4" in told.err
    ledger = json.loads((tmp_path / "a" / "ledger.json").read_text())
    assert {"forget_lira", "forget_lira.offline"} <= {probe["name"] for probe in ledger["probes"]}
    for file in (tmp_path / "a").rglob("*.json"):
        assert "Where is Ann" not in file.read_text(), file.name
    # Another rate of forgetting is judged by the same shadow models.
    assert main([*asked, "--lr", "1e-4", "--out", str(tmp_path / "b")]) == 0
    told = capsys.readouterr()
    assert "training the shadow model" not in told.out + told.err
    assert json.loads((tmp_path / "b" / "lira.json").read_text())["before"] == found["before"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--shadow-models", "3"), ("--shadow-models 3: at least 4 are needed",)),
        (("--shadow-models", "4", "--limit", "7"), ("7 forget rows", "at least 8 of each")),
        (("--shadow-models", "4", "--shadow-base", "builtin:tiny"), ("--shadow-base builtin:tiny", "leave one of them out")),
        (("--shadow-models", "-1"), ("shadow", "-1")),
    ],
)
def test_wrong_input_is_one_sentence(
    more: tuple[str, ...], words: tuple[str, ...], tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command(tmp_path, tiny_folder, *more, epochs="1"), "--out", str(tmp_path / "x")]) == 2
    told = capsys.readouterr().err
    assert all(word in " ".join(told.split()) for word in words) and "Traceback" not in told


def test_what_it_was_made_from_must_be_known(tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = command(tmp_path, tiny_folder, "--shadow-models", "4", epochs="1")
    at = asked.index("--base")
    alone = [*asked[:at], "--model", str(tiny_folder), *asked[at + 2 :]]
    assert main([*alone, "--out", str(tmp_path / "x")]) == 2
    assert "--base MODEL, or --shadow-base MODEL" in " ".join(capsys.readouterr().err.split())
    assert main([*alone, "--shadow-base", "builtin:tiny", "--out", str(tmp_path / "y")]) == 2
    assert "it has other tokens than the model that forgets" in " ".join(capsys.readouterr().err.split())
    without = [word for word in asked if word not in ("--holdout", str(tmp_path / "Cy.jsonl"))]
    assert main([*without, "--out", str(tmp_path / "z")]) == 2
    assert "name them with --holdout" in " ".join(capsys.readouterr().err.split())
    assert main([*alone, "--shadow-base", str(tiny_folder), "--out", str(tmp_path / "w")]) == 0
    assert json.loads((tmp_path / "w" / "lira.json").read_text())["shadow_models"] == 4
