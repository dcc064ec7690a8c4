"""Reward models: trained through the loop, saved as transformers' sequence classifiers, loaded again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tempering.config import Optimizer, Training
from tempering.data.streams import Shuffled
from tempering.errors import UserError
from tempering.fit import fit
from tempering.layout import collate
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.models import load, save
from tempering.models.value import ValueModel
from tempering.reduce import last
from tempering.signals import Engine, Live, compute
from tempering.types import Context, Objective, Parts, Policy, Role, Segment, Signals
from tests.conftest import make_llama, make_tokenizer
from tests.toy import toy_rows


@dataclass(frozen=True)
class BradleyTerry(Objective):
    """- log sigmoid(r chosen - r rejected), the reward being the sum of all outputs at the last token."""

    norm = "segments"
    part = "chosen"
    per = "segment"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {part: frozenset({"rewards"}) for part in ("chosen", "rejected")}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        chosen, rejected = (last(signals[part]["rewards"], parts[part]).sum(-1) for part in ("chosen", "rejected"))
        return -F.logsigmoid(chosen - rejected)


@pytest.mark.parametrize(("scope", "outputs"), [(Full(only="layers.1"), 1), (LoRA(r=2), 1), (LoRA(r=2), 3)])
def test_it_trains_is_saved_and_scores_the_same_in_transformers_and_when_loaded(tmp_path: Path, scope: Full | LoRA, outputs: int) -> None:
    from transformers import AutoModelForSequenceClassification

    tokenizer = make_tokenizer()
    model = ValueModel(make_llama(), outputs)
    losses: list[float] = []
    fitted = fit(
        {"policy": Role(model, scope)}, BradleyTerry(), Shuffled(toy_rows(4, ("chosen", "rejected")), 4), steps=12, optimizer=Optimizer(lr=1e-2),
        training=Training(precision="fp32", micro_tokens=40), say=lambda _: None, on_metrics=lambda m: losses.append(m["loss"]),
    )  # fmt: skip
    # A new head gives every answer 0.
    assert losses[0] == pytest.approx(0.6931472, abs=1e-6) and losses[-1] < 0.3
    live = fitted.roles["policy"]
    assert model.value_head.weight.abs().min() > 0
    save(Policy(live.model, tokenizer, handle=live.handle), tmp_path / "m")
    ids = torch.tensor(tokenizer.encode("the red fox"))
    segment = Segment(ids.numpy(), (torch.arange(len(ids)) > 0).float().numpy())
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")
    assert theirs.config.num_labels == outputs and theirs.config.pad_token_id == tokenizer.pad_token_id
    with torch.no_grad():
        score = theirs(input_ids=F.pad(ids, (0, 3), value=tokenizer.pad_token_id)[None]).logits[0]
        for ours in (live.model, load(tmp_path / "m", say=lambda _: None).model):
            assert isinstance(ours, ValueModel)
            parts = collate([{"train": (segment,)}])
            mine = last(compute({"policy": Live(ours)}, parts, {"train": frozenset({"rewards"})}, Engine())["train"]["rewards"], parts["train"])
            torch.testing.assert_close(mine[0], score, atol=1e-5, rtol=1e-5)
    assert float(score.abs().max()) > 1e-2


def test_off_is_the_start_with_its_head() -> None:
    model = ValueModel(make_llama())
    handle = LoRA(r=2).attach(model)
    for p in handle.params.values():
        nn.init.normal_(p)
    now = model.value_head.weight.clone()
    with handle.off() as start:
        assert not start.value_head.weight.any()
    assert torch.equal(model.value_head.weight, now)


def test_a_head_with_a_bias_is_not_a_classifier() -> None:
    with pytest.raises(UserError, match="no sequence classifier of model type llama with a head like this"):
        ValueModel(make_llama(), bias=True).classifier(3)
