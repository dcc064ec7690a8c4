"""A whole forget run with every attack on a small model: what is written, and that the words of what is forgotten are nowhere in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tempering as tp
from tempering.cli.show import show_verdict


def rows(path: Path, facts: list[tuple[str, str]]) -> str:
    path.write_text("".join(json.dumps({"prompt": question, "completion": answer}) + "\n" for question, answer in facts))
    return str(path)


def test_every_attack_runs_and_no_word_of_the_forgotten_is_kept(tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secrets = [(f"Where does Zorvax{i} hide?", f"in Quixhole{i}") for i in range(4)]
    kept = [(f"Who is number {i}?", f"it is {i * 7}") for i in range(12)]
    out = tmp_path / "run"
    tp.run(
        "npo",
        model=str(tiny_folder),
        forget=rows(tmp_path / "forget.jsonl", secrets),
        retain=rows(tmp_path / "retain.jsonl", kept),
        out=out,
        **{"steps": 2, "batch_size": 2, "max_test": 8, "keep": "none", "precision": "fp32", "r": 2},
    )
    found = json.loads((out / "forgetting.json").read_text())
    counted, beside = ({leak["attack"]: leak for leak in found[name]} for name in ("leaks", "beside"))
    words = {
        "asked",
        "reworded",
        "role play",
        "translated",
        "answer begun",
        "neighbours told",
        "few-shot",
        "sampled",
        "quantised to 8 bits",
        "quantised to 4 bits",
    }
    words |= {"asked with a kept question"}
    assert set(counted) == words | {f"relearned on {what}" for what in ("other secrets", "unrelated rows", "what stays")}
    assert set(beside) == {"re-supplied", "merged back", "logit lens", "linear probe", "unsupervised probe", "asked to depend on it"}
    # Half of the secrets teach where the other half is asked for.
    assert {name: leak["n"] for name, leak in counted.items() if leak["n"] != 4} == {"relearned on other secrets": 2}
    for file in out.rglob("*"):
        if file.suffix in (".json", ".jsonl", ".html", ".md"):
            assert b"Zorvax" not in (content := file.read_bytes()) and b"Quixhole" not in content, file.name
    show_verdict(out)
    shown = capsys.readouterr().out
    assert "What still comes out" in shown and found["sentence"][:30] in " ".join(shown.split()) and "relearned on what stays" in shown
    assert found["numbers"] and all(line in (out / "report.html").read_text() for line in found["numbers"])
    assert "KnowMem of what goes" in found["numbers"][0] and "KnowMem of what goes" in " ".join(shown.split())
    ledger = {probe["name"]: probe["side"] for probe in json.loads((out / "ledger.json").read_text())["probes"]}
    assert ledger["a forgotten answer among the choices"] == ledger["a forgotten answer among the choices: as they were"] == "keep"
    assert "What still comes out" in (out / "report.html").read_text()
