"""Every loss by its own name, for two steps: the index is walked, so a new file of methods/objectives is run here without being named."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tempering as tp
from tempering import choices, index, models
from tempering.config import Training
from tempering.data import Mismatched, Numbered, changed_row, labelled_row, listed_row, quality_row, rewarded_row, scored_pair_row
from tempering.data.place import DataError
from tempering.errors import UserError
from tempering.held import own_probes
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.kto import KTO
from tempering.methods.objectives.pl_dpo import PLDPO
from tempering.methods.probes.held_score import area, match, ordered
from tempering.scored import Rewards, scored
from tempering.types import Message, Policy, Record, Response, Row, Segment
from tests.conftest import make_llama, make_tokenizer

LOG2 = math.log(2)
AT_START: Mapping[str, float] = {
    **dict.fromkeys(("dpo", "f_dpo", "ld_dpo", "ln_dpo", "robust_dpo", "dpop", "aot", "dense_dpo", "pl_dpo"), LOG2),
    **{"bco_pair": 2 * LOG2, "nca": 2 * LOG2, "hinge": 1.0, "ipo": 25.0, "sppo": 2 * 500.0**2, "apo": 1.0, "kto": 0.5},
    **{"discopop": 0.5 * LOG2 + 0.5, "bradley_terry": LOG2},
}
"""A loss of log-ratios that are all 0, worked out by hand from its formula."""
ELSEWHERE = ("forget", "policy_gradient", "offline")
"""Families whose recipes take other settings; they have test files of their own."""
LOSSES = {name: entry for name, entry in index.aliases().items() if entry.kind == "objective" and entry.family not in ELSEWHERE} | {
    "dpo": index.find("dpo", "objective")
}


def _kind(entry: index.Entry) -> tuple[str, frozenset[str]]:
    needs = index.load(entry)().needs
    return entry.family, frozenset().union(needs, *needs.values())


def _teacher(folder: Path) -> str:
    """builtin:tiny, moved a little."""
    found = models.load("builtin:tiny", say=lambda _: None)
    with torch.no_grad():
        for p in found.model.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    models.save(found, folder / "teacher")
    return str(folder / "teacher")


def _cases() -> list[Any]:
    """The first loss of each family and of each set of things asked for is quick to be met; the rest are run with the slow ones."""
    seen, found = set(), []
    for name, entry in sorted(LOSSES.items()):
        new = (kind := _kind(entry)) not in seen
        seen.add(kind)
        found.append(pytest.param(name, id=name, marks=() if new else pytest.mark.slow))
    return found


@pytest.mark.parametrize("name", _cases())
def test_every_loss_runs_by_its_name(name: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    small: dict[str, Any] = {"limit": 16, "steps": 2, "batch_size": 4, "max_test": 6, "keep": "none", "precision": "fp32", "r": 2}
    if _kind(LOSSES[name])[0] in ("pairs", "unpaired") and "score" not in _kind(LOSSES[name])[1]:
        # Few held-out rows: all of them are evaluated.
        rows = [{"prompt": f"Say {i}.", "chosen": f"{i}, gladly.", "rejected": f"No {i}."} for i in range(6)]
        (tmp_path / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        small["test"] = str(tmp_path / "held.jsonl")
    if _kind(LOSSES[name])[0] == "distil":
        small |= {"teacher": _teacher(tmp_path), **({"rule": "Be brief."} if name == "rule_distillation" else {})}
    report = tp.run(name, model="builtin:tiny", out=out, again=True, **small)
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 2 and all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in metrics)
    if name in AT_START:
        assert metrics[0]["loss"] == pytest.approx(AT_START[name], rel=1e-5)
    assert {"config.json", "lock.json", "ledger.json", "report.html", "model"} <= {p.name for p in out.iterdir()}
    assert (out / "model" / "policy.json").is_file()
    stored = json.loads((out / "config.json").read_text())
    assert stored["recipe"] in (name, index.recipe_of_family(LOSSES[name].family).name)
    assert report.ledger.probes and all(p.side == "target" for p in report.ledger.probes)
    asks = any("reference.logp" in names for names in index.load(LOSSES[name])().needs.values())
    own = [p for p in report.ledger.probes if p.name in ("held_margin", "held_reward", "held_order")]
    # Losses on tokens score no answer against another.
    assert not asks or LOSSES[name].family == "tokens" or [p.before.point for p in own] == [0.5]


# ------------------------------------------------------------------------------------------------------------------------------ the loss's own score

TOKENIZER = make_tokenizer()


def record(chosen: str, rejected: str, prompt: str = "hi", **scores: float) -> Record:
    """A pair; with `best` and `worst` a rated one."""
    responses = tuple(Response((Message("assistant", text),), score=scores.get(side)) for text, side in ((chosen, "best"), (rejected, "worst")))
    return Record((Message("user", prompt),), responses, better=() if scores else ((0, 1),), source=f"{prompt}:{chosen}")


def rows_of(make: Any, *records: Record) -> list[Row]:
    """Rows of the records."""
    return [row for one in records if (row := make(one, TOKENIZER)) is not None]


PAIRS = (record("the red fox", "no"), record("yes", "the blue bird", "what"), record("and", "is he", "who is"))


def with_reference(rows: list[Row], shift: float) -> list[Row]:
    """The rows with a reference that gives every token `shift`."""

    def shifted(s: Segment) -> Segment:
        return replace(s, extras={**s.extras, "reference.logp": np.full(len(s.ids), shift, np.float32)})

    return [{part: tuple(map(shifted, segments)) for part, segments in row.items()} for row in rows]


def logps(model: torch.nn.Module, segment: Segment) -> float:
    """The sum of log-probs of a segment's scored tokens, in one plain forward pass."""
    ids = torch.tensor(segment.ids)[None]
    with torch.no_grad():
        found = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return float((found * torch.tensor(segment.weight[1:])).sum())


@pytest.mark.parametrize("micro_tokens", [16, 4096])
def test_margins_are_those_of_a_plain_forward_pass_whatever_the_micro_batches(micro_tokens: int) -> None:
    from tempering.data import pair_row

    policy = Policy(make_llama(), TOKENIZER)
    rows = with_reference(rows_of(pair_row, *PAIRS), -1.0)
    found = scored(policy, DPO(beta=0.5), rows, Training(precision="fp32", micro_tokens=micro_tokens), "margin")
    for row, (margin,) in zip(rows, found, strict=True):
        ratio = {side: logps(policy.model, row[side][0]) + float(row[side][0].weight.sum()) for side in ("chosen", "rejected")}
        assert margin == pytest.approx(0.5 * (ratio["chosen"] - ratio["rejected"]), abs=1e-4)


def test_before_training_a_reference_decides_nothing_and_labels_and_lists_are_compared() -> None:
    policy, training = Policy(make_llama(), TOKENIZER), Training(precision="fp32")

    def probe(objective: Any, rows: list[Row], start: bool) -> Any:
        (made,) = own_probes(objective, rows, 10, training, start=start)
        return made(policy)

    labelled = with_reference(rows_of(labelled_row, *PAIRS), -1.0)
    seen = probe(KTO(), [{**row, "kl": row["train"]} for row in labelled], False)
    ratios = [[logps(policy.model, s) + float(s.weight.sum()) for s in row["train"]] for row in labelled]
    gaps = [good - bad for good, bad in ratios]
    assert [item.extra["gap"] for item in seen.items] == pytest.approx([0.1 * gap for gap in gaps], abs=1e-4)
    assert [item.score for item in seen.items] == [float(gap > 0) for gap in gaps] and 0 <= seen.summary["auroc"] <= 1
    lists = with_reference(rows_of(listed_row, *PAIRS), -1.0)
    assert [item.score for item in probe(PLDPO(), lists, True).items] == [0.5] * 3
    assert [item.score for item in probe(PLDPO(), lists, False).items] == [float(gap > 0) for gap in gaps]
    assert not own_probes(index.load(index.find("figa", "objective"))(), lists, 10, training, start=True)


def test_a_loss_that_logs_no_score_is_named() -> None:
    with pytest.raises(ValueError, match="KTO must log 'margin', one number for each segment of part 'train'"):
        rows = with_reference(rows_of(labelled_row, *PAIRS), -1.0)
        scored(Policy(make_llama(), TOKENIZER), KTO(), [{**row, "kl": row["train"]} for row in rows], Training(precision="fp32"), "margin")


def test_a_reward_model_is_asked_for_rewards() -> None:
    from tempering.models import with_outputs

    policy = with_outputs(Policy(make_llama(), TOKENIZER, name="tiny"), 2)
    torch.nn.init.normal_(policy.model.value_head.weight)  # type: ignore[union-attr]
    rows = rows_of(rewarded_row, *PAIRS)
    assert [len(row["train"]) for row in rows] == [2, 2, 2]
    found = scored(policy, Rewards(), rows, Training(precision="fp32"), "margin")
    with torch.no_grad():
        for row, (margin,) in zip(rows, found, strict=True):
            ids = [(torch.tensor(row[side][0].ids)[None], int(np.flatnonzero(row[side][0].weight)[-1])) for side in ("chosen", "rejected")]
            chosen, rejected = (policy.model(input_ids=one)[0, end] for one, end in ids)
            assert margin == pytest.approx(float(policy.model.value_head(chosen - rejected).mean()), abs=1e-4)  # type: ignore[operator]
    assert with_outputs(policy, 2) is policy
    with pytest.raises(UserError, match="tiny is a reward model with 2 outputs, and 1 are asked for"):
        with_outputs(policy, 1)


def test_comparisons_are_independent_and_the_area_is_that_of_all() -> None:
    # Rows 0 and 2 hold one of each kind; of the rest the first go together, and what is left over is left out.
    assert match([0, 1, 2, 3], [0, 2, 4]) == [(0, 0), (1, 2), (2, 1)]
    assert match([5], [7, 8]) == [(0, 0)]
    with pytest.raises(UserError, match="all have the same label"):
        match([1], [])
    good, bad = [0.5, 1.0, 1.0], [1.0, 0.0]
    assert area(good, bad) == pytest.approx(np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a in good for b in bad]))
    segments = [Segment(np.arange(2), np.ones(2), {"score": score}) for score in (2.0, 1.0, 2.0)]
    assert ordered(segments, [0.25, 1.0, 3.0]) == [-0.75, 2.0]


# ------------------------------------------------------------------------------------------------------------------------------------- their rows


class Held(list[Row]):
    """Rows as a table gives them."""

    fingerprint = "f"
    indices = range(9)


def test_answers_to_other_prompts_do_not_depend_on_the_batch_and_cuts_are_counted() -> None:
    rows = Held(rows_of(labelled_row, record("a", "b", "one"), record("cc", "d", "one"), record("long long answer", "e", "two")))
    made = Mismatched(rows, 1000)
    # The first two have the same prompt, so both take the third's answers; the third takes the next around the end.
    assert made.partner == [2, 2, 0] and made.cut == 0 and len(made) == 3
    text = [TOKENIZER.decode(s.ids[s.weight != 0], skip_special_tokens=True).strip() for i in (2, 0, 1) for s in made[i]["kl"]]
    assert text == ["a", "b", "long long answer", "e", "long long answer", "e"]
    for i in range(3):
        for own, mixed in zip(rows[i]["train"], made[i]["kl"], strict=True):
            start = int(np.flatnonzero(own.weight)[0])
            assert np.array_equal(mixed.ids[:start], own.ids[:start]) and not mixed.weight[:start].any()
    longest = max(len(s.ids) for i in range(3) for s in made[i]["kl"])
    short = Mismatched(rows, longest - 1)
    assert short.cut == sum(len(s.ids) == longest for i in range(3) for s in made[i]["kl"]) > 0
    assert max(len(s.ids) for i in range(3) for s in short[i]["kl"]) == longest - 1 and f"{short.cut} of them cut" in short.sentence()
    same = Mismatched(Held(rows[:2]), 1000)
    assert same.partner == [0, 1] and "2 with their own" in same.sentence()


def test_rows_have_what_their_losses_ask_for() -> None:
    (quality,) = rows_of(quality_row, PAIRS[0])
    assert set(quality) == {"chosen", "rejected", "chosen_quality", "rejected_quality"}
    assert "helpful, correct" in TOKENIZER.decode(quality["chosen_quality"][0].ids)
    answer = [quality[part][0].ids[quality[part][0].weight != 0] for part in ("chosen", "chosen_quality")]
    assert np.array_equal(*answer)
    (changed,) = rows_of(changed_row, PAIRS[0])
    assert len(changed["train"]) == 2 and set(changed["train"][0].extras) == {"revised"}
    with pytest.raises(DataError, match="the answers have no scores, which this loss needs"):
        scored_pair_row(PAIRS[0], TOKENIZER)
    (rated,) = rows_of(scored_pair_row, record("a", "b", best=2.0, worst=0.5))
    assert [float(rated[side][0].extras["score"]) for side in ("chosen", "rejected")] == [2.0, 0.5]
    assert [float(s.extras["score"]) for s in rows_of(listed_row, PAIRS[0])[0]["responses"]] == [1.0, 0.0]
    numbered = Numbered(rows_of(rewarded_row, *PAIRS), held=False)
    assert [float(row["chosen"][0].extras["index"]) for row in numbered] == [0.0, 1.0, 2.0]
    assert float(Numbered(numbered.rows, held=True)[1]["chosen"][0].extras["index"]) == -1.0


# --------------------------------------------------------------------------------------------------------------------------------- what is shown


@pytest.mark.parametrize("entry", [e for e in index.methods("objective") if e.family], ids=lambda e: e.name)
def test_no_file_sets_a_learning_rate_that_was_meant_for_all_weights_of_a_large_model(entry: index.Entry) -> None:
    assert "optimizer.lr" not in choices.choice(entry.name).overrides, 'write PAPER = {"optimizer.lr": "5e-7 (section 4)"}: it is shown, not applied'


def test_the_paper_s_setting_is_shown_and_not_applied(capsys: pytest.CaptureFixture[str]) -> None:
    from tempering.cli import main

    assert index.find("rpo", "objective").paper == (("optimizer.lr", "7e-7 (section 3; recalled, not checked)"),)
    assert "The paper, not applied here: optimizer.lr = 7e-7 (section 3" in (index.load_recipe("rpo").__doc__ or "")
    assert main(["show", "rpo"]) == 0 and "theirs   optimizer.lr = 7e-7 (section 3" in capsys.readouterr().out


def test_a_loss_s_own_fields_come_first() -> None:
    assert list(choices.choice("cpo").model_fields)[:5] == ["kind", "reference_free", "sft", "label_smoothing", "form"]
    assert list(choices.choice("simpo").model_fields)[:3] == ["kind", "beta", "gamma_beta_ratio"]
    assert {"ld_alpha", "weighting", "sft_norm"} <= set(choices.choice("simpo").model_fields)


def test_a_reward_model_opens_in_transformers_and_scores_as_it_was_measured(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    if not any(entry.family == "reward" for entry in index.methods("objective")):
        pytest.skip("no loss of the family reward is there yet")
    report = tp.run("reward", model="builtin:tiny", limit=16, steps=2, batch_size=4, max_test=6, precision="fp32", lr=1e-2, out=tmp_path / "run")
    (probe,) = report.ledger.probes
    assert (probe.name, probe.before.point, probe.n) == ("held_reward", 0.5, 6)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model").eval()
    ours = tp.load(str(tmp_path / "run")).model
    rows = rows_of(rewarded_row, *PAIRS)
    with torch.no_grad():
        for segment in rows[0]["train"]:
            ids = torch.tensor(segment.ids)[None]
            assert float(theirs(ids).logits[0, 0]) == pytest.approx(float(ours.value_head(ours(input_ids=ids)[0, -1])[0]), abs=1e-5)  # type: ignore[operator]
        assert float(theirs.score.weight.abs().max()) > 0
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card and "library_name: transformers" in card


def test_a_family_without_losses_is_there_and_says_so() -> None:
    assert choices.family("nothing") is choices.Choice
    with pytest.raises(UserError, match="there is no loss of this family yet"):
        choices.default("nothing", "bradley_terry").build()
    assert choices.default("pairs", "gone").entry.family == "pairs" and choices.default("pairs", "ipo") == choices.choice("ipo")()
