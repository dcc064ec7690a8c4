"""The Bradley-Terry objective equals TRL 1.16.0's RewardTrainer on its own rows: loss, gradient of every parameter, logged numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForSequenceClassification

from tempering.methods.objectives.bradley_terry import BradleyTerry
from tempering.models.value import ValueModel
from tests.conftest import make_llama
from tests.peers.harness import assert_same, our_step, rewarded, trainer_step, trl_trainer

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]

METRICS = {"margin": "margin", "accuracy": "accuracy"}


def classifier() -> Any:
    """A sequence classifier with one label, whose rewards are spread out."""
    body = make_llama(seed=1)
    config = body.config
    config.num_labels, config.pad_token_id = 1, 0
    torch.manual_seed(5)
    made = LlamaForSequenceClassification(config).eval()
    made.model.load_state_dict(body.model.state_dict())
    torch.nn.init.normal_(made.score.weight, std=0.5)
    return made


@pytest.mark.parametrize("layout", ["segments", "padded"])
@pytest.mark.parametrize("centre", [0.0, 0.1])
def test_bradley_terry_is_reward_trainer(layout: str, centre: float, tmp_path: Path) -> None:
    """With margins of 0 to 0.9, which TRL takes from a column. Parameters bear other names there: "model" and "score"."""
    model = classifier()
    theirs = trainer_step(trl_trainer("reward", tmp_path, model, center_rewards_coefficient=centre or None), rewarded)
    assert len({row["chosen"][0].extras["margin"] for row in theirs.rows}) > 1
    names = {name: name.replace("model.", "backbone.", 1).replace("score.", "value_head.") for name in theirs.gradients}
    theirs = replace(theirs, gradients={names[name]: gradient for name, gradient in theirs.gradients.items()})
    ours = our_step(BradleyTerry(margin=1.0, centre=centre), theirs.rows, ValueModel.of(model), layout=layout, micro=40)
    assert_same(ours, theirs, METRICS)
    assert (ours.metrics["chosen_reward"] + ours.metrics["rejected_reward"]) / 2 == pytest.approx(theirs.metrics["mean_reward"], abs=1e-4)
