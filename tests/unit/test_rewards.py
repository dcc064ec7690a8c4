"""Rewards: reward models as functions of text, ensembles of them, and how far best-of-n can be pushed against a proxy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from tempering.data import pair_row
from tempering.errors import UserError
from tempering.layout import collate
from tempering.methods.rewards.ensemble import Ensemble, How
from tempering.methods.rewards.reward_model import RewardModel
from tempering.models import save
from tempering.models.value import ValueModel
from tempering.reduce import last
from tempering.signals import Engine, Live, compute
from tempering.types import Message, Policy, Prompt, Record, Response
from tests.conftest import make_llama, make_tokenizer

# ------------------------------------------------------------------------------------------------------------------------------------ reward models


def value_policy(outputs: int = 1, seed: int = 0) -> Policy:
    """A random reward model whose outputs are spread out."""
    model = ValueModel(make_llama(seed=seed), outputs)
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.value_head.weight, std=0.5)
    return Policy(model, make_tokenizer())


PROMPTS = ("the red fox", "rain?", "the red fox")
ANSWERS = ("runs", "an old house where nine men sing", "")


def test_a_reward_model_gives_what_training_saw_at_the_last_scored_token(tmp_path: Path) -> None:
    policy = value_policy()
    record = Record(
        (Message("user", PROMPTS[0]),), (Response((Message("assistant", ANSWERS[0]),)), Response((Message("assistant", ANSWERS[1]),))), ((0, 1),)
    )
    row = pair_row(record, policy.tokenizer)
    assert row is not None
    parts = collate([row])
    signals = compute({"policy": Live(policy.model)}, parts, {part: frozenset({"reward"}) for part in parts}, Engine())
    expected = [float(last(signals[part]["reward"], parts[part])) for part in ("chosen", "rejected")]
    got = RewardModel(policy)([PROMPTS[0], (Message("user", PROMPTS[0]),)], ANSWERS[:2])
    assert got.dtype == np.float64 and got == pytest.approx(expected, abs=1e-5) and abs(got[0] - got[1]) > 1e-2
    save(policy, tmp_path / "rm")
    assert RewardModel(str(tmp_path / "rm"))([PROMPTS[0]] * 2, ANSWERS[:2]) == pytest.approx(expected, abs=1e-5)


def test_batches_and_neighbours_change_nothing_and_a_direction_is_a_product() -> None:
    policy = value_policy(outputs=2)
    whole = RewardModel(policy, direction=(0.6, -0.8))
    alone = RewardModel(policy, direction=(0.6, -0.8), batch_tokens=1)
    scores = whole(PROMPTS, ANSWERS)
    assert scores.shape == (3,) and alone(PROMPTS, ANSWERS) == pytest.approx(scores, abs=1e-5)
    assert whole.outputs(PROMPTS, ANSWERS) @ np.array([0.6, -0.8]) == pytest.approx(scores)
    # DPA: scaling a direction, or an attribute that it leaves out, picks no other answer.
    one = RewardModel(policy, direction=(1.0, 0.0))(PROMPTS, ANSWERS)
    assert np.argsort(RewardModel(policy, direction=(7.0, 0.0))(PROMPTS, ANSWERS)).tolist() == np.argsort(one).tolist()
    assert one == pytest.approx(whole.outputs(PROMPTS, ANSWERS)[:, 0]) and whole([], []).shape == (0,)


def test_what_is_no_reward_model_is_refused() -> None:
    with pytest.raises(UserError, match="has a vocabulary, not a score"):
        RewardModel(Policy(make_llama(), make_tokenizer(), name="plain"))(PROMPTS, ANSWERS)
    with pytest.raises(UserError, match="direction has 3 numbers, the model 2 outputs"):
        RewardModel(value_policy(2), direction=(1.0, 0.0, 0.0))(PROMPTS, ANSWERS)


# ---------------------------------------------------------------------------------------------------------------------------------------- ensembles


def fixed(*scores: float):  # type: ignore[no-untyped-def]
    """A reward that knows the answers in advance."""

    def reward(prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        return np.array(scores[: len(answers)])

    return reward


MEMBERS = (fixed(1.0, 4.0, 0.0), fixed(3.0, -2.0, 0.0), fixed(2.0, 1.0, 3.0))


def test_ensembles_by_hand() -> None:
    """Means 2, 1, 1; variances 2/3, 6, 2 (S207)."""
    assert Ensemble(MEMBERS, "mean")(PROMPTS, ANSWERS).tolist() == [2.0, 1.0, 1.0]
    assert Ensemble(MEMBERS, "worst")(PROMPTS, ANSWERS).tolist() == [1.0, -2.0, 0.0]
    assert Ensemble(MEMBERS, "uncertainty")(PROMPTS, ANSWERS) == pytest.approx([2 - 1 / 3, 1 - 3, 1 - 1])


def test_ensembles_have_the_limits_of_the_paper() -> None:
    """Penalty 0 is the mean; one member is itself; worst and uncertainty are never above the mean; a constant added to all is added to the result."""
    mean, worst, careful = (Ensemble(MEMBERS, how)(PROMPTS, ANSWERS) for how in get_args(How))
    assert Ensemble(MEMBERS, "uncertainty", penalty=0.0)(PROMPTS, ANSWERS).tolist() == mean.tolist()
    assert (worst <= mean).all() and (careful <= mean).all()
    moved = tuple(lambda p, a, member=member: member(p, a) + 5.0 for member in MEMBERS)
    for how, plain in zip(get_args(How), (mean, worst, careful), strict=True):
        assert Ensemble(MEMBERS[:1], how)(PROMPTS, ANSWERS).tolist() == [1.0, 4.0, 0.0]
        assert Ensemble(moved, how)(PROMPTS, ANSWERS) == pytest.approx(plain + 5.0)
    nested = Ensemble((Ensemble(MEMBERS[:2], "worst"), MEMBERS[2]), "worst")
    assert nested(PROMPTS, ANSWERS).tolist() == worst.tolist()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"members": ()}, "members is empty"), ({"how": "median"}, "how is 'median'; it is one of mean, worst"), ({"penalty": -1.0}, "penalty is -1.0")],
)
def test_bad_ensembles_are_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Ensemble(**{"members": MEMBERS, **settings})  # type: ignore[arg-type]
