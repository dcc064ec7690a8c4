"""S051 on games of three answers: the mixture, the gradient of the regularised game, and where Nash-MD's iterates end."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from tempering.cases import Case
from tempering.errors import UserError
from tempering.methods.decodes.geometric import Geometric
from tempering.methods.objectives.nash_md import NashMD
from tempering.methods.rewards.preference_model import PreferenceModel
from tempering.models.value import ValueModel
from tempering.proof import hand
from tempering.types import Policy
from tests.conftest import make_llama, make_tokenizer

# Row beats column: a over b and b over c nine times in ten, c over a eight times.
CYCLE = np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.9], [0.8, 0.1, 0.5]])
ROCK = np.array([[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]])
MU = np.array([0.5, 0.3, 0.2])


def mixture(pi: np.ndarray, mu: np.ndarray, weight: float) -> np.ndarray:
    """What `Geometric` samples from."""
    logits = {"policy": torch.tensor(np.log(pi))[None], "reference": torch.tensor(np.log(mu))[None]}
    return Geometric(weight)(torch.zeros(1, 0), logits).exp()[0].numpy()


def softmax(z: np.ndarray) -> np.ndarray:
    p = np.exp(z - z.max())
    return p / p.sum()


def nash_md(game: np.ndarray, mu: np.ndarray, tau: float, eta: float, steps: int = 40_000) -> tuple[np.ndarray, np.ndarray]:
    """(last iterate, last mixture) of pi <- m exp(eta P(y > m)), m ~ pi^(1 - eta tau) mu^(eta tau)."""
    pi, log_mu, w = np.ones(3) / 3, np.log(mu), eta * tau
    for _ in range(steps):
        m = softmax((1 - w) * np.log(pi) + w * log_mu)
        pi = softmax(np.log(m) + eta * game @ m)
    return pi, mixture(pi, mu, w)


def best_reply(game: np.ndarray, mu: np.ndarray, tau: float, m: np.ndarray) -> np.ndarray:
    return softmax(np.log(mu) + game @ m / tau)


def regularised_nash(game: np.ndarray, mu: np.ndarray, tau: float) -> np.ndarray:
    """The policy that is its own best reply: fixed point of a damped iteration."""
    pi = np.ones(3) / 3
    for _ in range(60_000):
        pi = softmax(np.log(pi) + 0.02 * (np.log(best_reply(game, mu, tau, pi)) - np.log(pi)))
    return pi


def test_the_mixture_is_geometric_and_has_its_ends() -> None:
    pi = np.array([0.2, 0.2, 0.6])
    by_hand = np.sqrt(pi * MU) / np.sqrt(pi * MU).sum()
    assert mixture(pi, MU, 0.5) == pytest.approx(by_hand) and mixture(pi, MU, 0.0) == pytest.approx(pi) and mixture(pi, MU, 1.0) == pytest.approx(MU)
    assert mixture(pi, pi, 0.3) == pytest.approx(pi)
    none = {"policy": torch.tensor([[0.0, -torch.inf]]), "reference": torch.tensor([[0.0, 0.0]])}
    assert Geometric(0.0)(torch.zeros(1, 0), none)[0].tolist() == [0.0, -torch.inf]
    with pytest.raises(UserError, match="Geometric weight is 2"):
        Geometric(2.0)


def test_iterates_end_where_a_policy_is_the_best_reply_to_its_mixture() -> None:
    """Checked without averaging; the distance to the game's own equilibrium is of the order of eta."""
    tau, truth, gaps = 0.5, regularised_nash(CYCLE, MU, 0.5), []
    assert np.abs(truth - best_reply(CYCLE, MU, tau, truth)).max() < 1e-12
    for eta in (0.1, 0.05, 0.025):
        pi, m = nash_md(CYCLE, MU, tau, eta, steps=4000)
        assert np.abs(pi - best_reply(CYCLE, MU, tau, m)).max() < 1e-12
        gaps.append(float(np.abs(pi - truth).max()))
    assert [a / b for a, b in pairwise(gaps)] == pytest.approx([2.0, 2.0], abs=0.1) and gaps[0] < 1e-2


def test_rock_paper_scissors_is_uniform() -> None:
    pi, _ = nash_md(ROCK, np.ones(3) / 3, tau=0.3, eta=0.1, steps=50)
    assert pi == pytest.approx([1 / 3] * 3, abs=1e-12)
    assert regularised_nash(ROCK, np.ones(3) / 3, 0.3) == pytest.approx([1 / 3] * 3, abs=1e-12)


def weights_of(pi: np.ndarray, m: np.ndarray, tau: float) -> np.ndarray:
    """What the objective multiplies the slope of each answer's log-prob by."""
    signals = {"logp": np.log(pi)[:, None].tolist(), "reference.logp": np.log(MU)[:, None].tolist(), "score": (CYCLE @ m).tolist()}
    objective = NashMD(tau=tau, scores="preferences")
    return -3 * hand.run(objective, hand.tensors(Case("", objective, {"responses": signals}, 0.0))).gradient["responses/logp"].numpy()


@pytest.mark.parametrize("beta", [0.0, 0.125, 1.0])
def test_the_expected_gradient_is_that_of_the_regularised_game(beta: float) -> None:
    """Against any opponent, and so against the moving average of Nash-EMA too; 0 where the policy is the best reply."""
    pi, tau = np.array([0.2, 0.3, 0.5]), 0.4
    for m in (mixture(pi, MU, beta), np.array([0.7, 0.2, 0.1])):
        c = weights_of(pi, m, tau)
        # Log-probs' slopes in the logits are 1[a = k] - pi_k, so the mean over the policy's answers is pi (c - mean c).
        ours = pi * (c - pi @ c)
        logits = torch.tensor(np.log(pi), requires_grad=True)
        p = logits.softmax(-1)
        (p @ torch.tensor(CYCLE @ m) - tau * (p * (p.log() - torch.tensor(np.log(MU)))).sum()).backward()
        assert logits.grad is not None and ours == pytest.approx(logits.grad.numpy(), abs=1e-12)
        reply = best_reply(CYCLE, MU, tau, m)
        c = weights_of(reply, m, tau)
        assert np.abs(reply * (c - reply @ c)).max() < 1e-12 < np.abs(ours).max()


def test_rewards_become_preferences_by_bradley_terry() -> None:
    """A shift of all rewards changes nothing; against one other answer P is the sigmoid of the difference."""
    logp = {"logp": [[-1.0], [-2.0]], "reference.logp": [[-1.0], [-2.0]]}
    given = {"responses": logp | {"score": [2.0, 0.5]}}
    found = [
        hand.run(o, hand.tensors(Case("", o, {"responses": logp | {"score": score}}, 0.0, groups={"responses": [0, 0]})))
        for o, score in (
            (NashMD(), given["responses"]["score"]),
            (NashMD(), [102.0, 100.5]),
            (NashMD(scores="preferences"), [1 / (1 + np.exp(-1.5)), 1 / (1 + np.exp(1.5))]),
        )
    ]
    assert found[0].loss == pytest.approx(found[1].loss) == pytest.approx(found[2].loss)


# ------------------------------------------------------------------------------------------------------------------------------- preference models


def preference_policy() -> Policy:
    model = ValueModel(make_llama(), 1)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.value_head.weight, std=2.0)
    return Policy(model, make_tokenizer())


def test_a_preference_and_its_opposite_add_up_to_one() -> None:
    model = PreferenceModel(preference_policy())
    prompts, answers, others = ["rain?", "the red fox", "rain?"], ["yes", "runs", "no"], ["no", "an old house", "no"]
    p, q = model(prompts, answers, others), model(prompts, others, answers)
    assert p + q == pytest.approx(np.ones(3)) and p[2] == pytest.approx(0.5, abs=1e-5) and abs(p[0] - 0.5) > 1e-3 and ((p > 0) & (p < 1)).all()
    reward = model.against({"rain?": ["no", "what"], "the red fox": ["an old house"]})
    mean = [model(["rain?"] * 2, ["yes"] * 2, ["no", "what"]).mean(), model(["the red fox"], ["runs"], ["an old house"])[0]]
    assert reward(["rain?", "the red fox"], ["yes", "runs"]) == pytest.approx(mean)
    with pytest.raises(UserError, match="no opponent's answer to 'snow"):
        reward(["snow?"], ["yes"])
    with pytest.raises(UserError, match="1 prompts, 2 answers and 1 others"):
        model(["a"], ["b", "c"], ["d"])


def test_a_preference_model_scores_what_its_rows_are_trained_at() -> None:
    """The margin of the objective on a row is the log-odds of the function of text."""
    from tempering.config import Training
    from tempering.data import duel_row
    from tempering.methods.objectives.pair_preference import PairPreference
    from tempering.scored import scored
    from tempering.types import Message, Record, Response

    policy = preference_policy()
    record = Record(
        (Message("user", "rain?"),), (Response((Message("assistant", "yes"),)), Response((Message("assistant", "the red fox"),))), ((0, 1),)
    )
    row = duel_row(record, policy.tokenizer)
    assert row is not None
    ((margin,),) = scored(policy, PairPreference(), [row], Training(precision="fp32"), "margin")
    (p,) = PreferenceModel(policy)(["rain?"], ["yes"], ["the red fox"])
    assert np.log(p / (1 - p)) == pytest.approx(margin, abs=1e-4)
