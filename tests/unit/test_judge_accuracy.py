"""`temper judge` on files, and the accuracy of rewards on pairs: a head set by hand, implicit rewards of a model against itself, real pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempering.cli.app import run_command
from tempering.errors import UserError
from tempering.judge.accuracy import implicit_reward, pair_accuracy, value_reward
from tempering.types import Policy, Row, Segment
from tests.conftest import SHARED


@pytest.fixture
def tiny_policy(tiny_llama: Any, tiny_tokenizer: Any) -> Policy:
    return Policy(tiny_llama, tiny_tokenizer, name="tiny")


def row(chosen: list[int], rejected: list[int]) -> Row:
    def segment(ids: list[int]) -> Segment:
        weight = np.ones(len(ids), np.float32)
        weight[:2] = 0
        return Segment(np.asarray(ids, np.int32), weight)

    return {"chosen": (segment(chosen),), "rejected": (segment(rejected),)}


def test_accuracy_is_the_mean_over_subsets_and_a_tie_is_wrong() -> None:
    rows = [row([1, 2, 9], [1, 2, 3]), row([1, 2, 3], [1, 2, 9]), row([1, 2, 5], [1, 2, 5])]
    found = pair_accuracy({"large": rows, "small": rows[:1]}, lambda segments: [float(s.ids[-1]) for s in segments])
    assert found.subsets["large"].point == pytest.approx(1 / 3) and found.mean == pytest.approx((1 / 3 + 1) / 2) and found.ties == 1
    with pytest.raises(UserError, match="subset 'b' has no pairs"):
        pair_accuracy({"a": rows, "b": []}, lambda _: [])
    with pytest.raises(UserError, match="no subsets"):
        pair_accuracy({}, lambda _: [])


def test_a_reward_model_is_read_at_the_last_token(tiny_llama: Any) -> None:
    from tempering.models.value import ValueModel

    model = ValueModel(tiny_llama).eval()
    torch.nn.init.normal_(model.value_head.weight, generator=torch.Generator().manual_seed(0))
    segments = [row([1, 2, 9], [1, 2, 3, 4])[part][0] for part in ("chosen", "rejected")]
    found = value_reward(model)(segments)
    for segment, value in zip(segments, found, strict=True):
        state = model(input_ids=torch.tensor(segment.ids[None].astype(np.int64)))[0, -1]
        assert value == pytest.approx((state @ model.value_head.weight[0]).item(), rel=1e-5)


def test_implicit_rewards_against_oneself_are_nothing(tiny_policy: Any) -> None:
    segments = [row([1, 2, 9], [1, 2, 3, 4])[part][0] for part in ("chosen", "rejected")]
    assert implicit_reward(tiny_policy, tiny_policy)(segments) == [0.0, 0.0]
    sums, means = implicit_reward(tiny_policy, None, beta=2.0)(segments), implicit_reward(tiny_policy, None, mean=True)(segments)
    assert [s / 2 / n for s, n in zip(sums, (1, 2), strict=True)] == pytest.approx(means)


def test_real_pairs_have_an_accuracy(tiny_policy: Any) -> None:
    folder = SHARED / "data" / "llmbar"
    if not folder.is_dir():
        pytest.skip(f"real data is not here: {folder} (set TEMPERING_SHARED)")
    from tempering.data import pair_row
    from tempering.types import Message, Record, Response

    subsets: dict[str, list[Row]] = {}
    for path in sorted(folder.glob("*.jsonl"))[:2]:
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines()[:6]:
            raw = json.loads(line)
            replies = tuple(Response((Message("assistant", raw[f"output_{i}"]),)) for i in (1, 2))
            record = Record((Message("user", raw["input"]),), replies, ((0, 1) if raw["label"] == 1 else (1, 0),), source=path.name)
            made = pair_row(record, tiny_policy.tokenizer, max_length=480)
            rows += [made] if made is not None else []
        if rows:
            subsets[path.stem] = rows
    found = pair_accuracy(subsets, implicit_reward(tiny_policy, None))
    mirrored = {name: [{"chosen": r["rejected"], "rejected": r["chosen"]} for r in rows] for name, rows in subsets.items()}
    assert found.mean + pair_accuracy(mirrored, implicit_reward(tiny_policy, None)).mean == pytest.approx(1.0)  # no ties


# -------------------------------------------------------------------------------------------------------------------------------- temper judge


def written(path: Path, answers: dict[str, str]) -> str:
    path.write_text("".join(json.dumps({"prompt": p, "completion": a}) + "\n" for p, a in answers.items()))
    return str(path)


ASKED = {f"Any tips for {topic} at home?": topic for topic in ("tea", "soup", "boots", "kites")}


def test_two_files_before_the_gold_reward(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = written(tmp_path / "a.jsonl", {p: f"Gladly! About {t}: be kind." for p, t in ASKED.items()})
    b = written(tmp_path / "b.jsonl", dict(reversed([(p, "Fine. My hat is small.") for p in ASKED])))
    assert run_command(["judge", a, b, "--json", str(tmp_path / "out.json")]) == 0
    said = capsys.readouterr().out
    assert "A wins 100.0%" in said and "4 won, 0 tied, 0 lost" in said and "both orders agree on 100%" in said and "not to be had" in said
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["win_rate"]["rate"]["point"] == 1.0 and told["items"][0]["verdicts"] == {"ab": "a", "ba": "a"}
    assert run_command(["judge", b, a]) == 0
    assert "A wins 0.0%" in capsys.readouterr().out


def test_files_that_do_not_fit_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = written(tmp_path / "a.jsonl", {"p": "x", "q": "y"})
    b = written(tmp_path / "b.jsonl", {"p": "x"})
    twice = tmp_path / "twice.jsonl"
    twice.write_text((tmp_path / "b.jsonl").read_text() * 2)
    for words, told in (
        ([a, b], "a.jsonl:2: its prompt has no answer"),
        ([a, str(tmp_path / "none.jsonl")], "there is no such file"),
        ([str(twice), a], "answers the same prompt as"),
        ([b, a, "--judge", "http://127.0.0.1:1/v1"], "--judge-model"),
    ):
        assert run_command(["judge", *words]) == 2
        assert told in capsys.readouterr().err


def test_a_local_model_judges_through_its_template(tiny_policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tempering.judge.judges import Local, ModelJudge
    from tempering.judge.verdicts import duel
    from tempering.types import Message

    monkeypatch.setenv("TEMPERING_HOME", str(tmp_path))
    asked = [(Message("user", "hi"),)]
    judge = ModelJudge(Local(tiny_policy), "tiny", max_new_tokens=3, form="{first} {second}?")
    played = duel(asked, ["a"], ["b"], judge)
    assert played.asked == 2 and played.unreadable == 2  # random weights say nothing that can be read
