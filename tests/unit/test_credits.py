"""Credit against closed forms and enumeration: groups, leave one out, generalised advantages; all on a softmax bandit of three actions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tempering import index
from tempering.fit import Means
from tempering.methods.credits.gae import GAE
from tempering.methods.credits.greedy_baseline import GreedyBaseline
from tempering.methods.credits.group_relative import GroupRelative
from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.credits.returns import Returns
from tempering.methods.credits.selected import Selected
from tempering.methods.objectives.cispo import CISPO
from tempering.methods.objectives.gmpo import GMPO
from tempering.methods.objectives.grpo import GRPO
from tempering.methods.objectives.gspo import GSPO
from tempering.methods.objectives.ppo import PPO
from tempering.methods.objectives.reinforce import Reinforce
from tempering.methods.objectives.rloo import RLOO
from tempering.methods.objectives.sapo import SAPO
from tempering.reduce import count, reduce
from tempering.rollouts.types import Credit, Earned
from tempering.types import Batch, Context, Objective

REWARD = np.array([0.2, 1.0, -0.5])
THETA = torch.tensor([0.3, -0.4, 0.8], dtype=torch.float64)


def earned(scores: Sequence[float], groups: Sequence[int], lengths: Sequence[int] | None = None, **more: Any) -> Earned:
    """Trajectories whose reward comes at their last token."""
    lengths = lengths or [1] * len(scores)
    trajectory_T = np.repeat(np.arange(len(scores)), lengths)
    reward_T = np.zeros(len(trajectory_T))
    reward_T[np.cumsum(lengths) - 1] = scores
    return Earned(reward_T, trajectory_T, np.array(groups), **more)


# ------------------------------------------------------------------------------------------------------------------------------------ closed forms


def test_group_relative_takes_mean_and_deviation_of_its_own_group_whatever_the_order_and_the_sizes() -> None:
    scores, groups, lengths = [1.0, 5.0, 0.0, 2.0, 7.0, 0.3], [4, 9, 4, 4, 9, 2], [2, 1, 3, 1, 2, 1]
    advantage = GroupRelative()(earned(scores, groups, lengths))["advantage"]
    by = {4: np.array([1.0, 0.0, 2.0]), 9: np.array([5.0, 7.0])}
    expected = [(x - by[g].mean()) / (by[g].std(ddof=1) + 1e-4) if g in by else 0.0 for x, g in zip(scores, groups, strict=True)]
    assert advantage == pytest.approx(np.repeat(expected, lengths))
    plain = GroupRelative(scale="none")(earned(scores, groups, lengths))["advantage"]
    assert plain == pytest.approx(np.repeat([x - by[g].mean() if g in by else 0.0 for x, g in zip(scores, groups, strict=True)], lengths))
    whole = GroupRelative(scale="batch")(earned(scores, groups, lengths))["advantage"]
    assert whole == pytest.approx(plain / (np.std(scores, ddof=1) + 1e-4))


def test_a_group_of_equal_rewards_teaches_exactly_nothing() -> None:
    for scale in ("group", "batch", "none"):
        assert not GroupRelative(scale=scale)(earned([0.1] * 3 + [0.7, 0.9], [0, 0, 0, 1, 1]))["advantage"][:3].any()


def test_selected_takes_the_best_of_each_group_and_nothing_of_the_rest() -> None:
    scores, groups, lengths = [1.0, 5.0, 0.0, 1.0, 7.0, -0.3], [4, 9, 4, 4, 9, 2], [2, 1, 3, 1, 2, 1]
    for credit, expected in (
        (Selected(), [1, 0, 0, 0, 1, 1]),
        (Selected(ties="all"), [1, 0, 0, 1, 1, 1]),
        (Selected(above=0.0, ties="all"), [1, 0, 0, 1, 1, 0]),
        (Selected(above=1.0), [0, 0, 0, 0, 1, 0]),
    ):
        assert credit(earned(scores, groups, lengths))["advantage"].tolist() == np.repeat(expected, lengths).tolist()


def test_leave_one_out_is_the_mean_of_the_others() -> None:
    advantage = LeaveOneOut()(earned([1.0, 4.0, 0.0, 3.0], [0, 0, 0, 1]))["advantage"]
    assert advantage == pytest.approx([1 - 2, 4 - 0.5, 0 - 2.5, 3])


def test_returns_sum_what_comes_after_a_token_in_its_own_trajectory() -> None:
    step = Earned(np.array([1.0, 0.0, 2.0, -1.0, 4.0]), np.array([0, 0, 0, 1, 1]), np.array([0, 0]))
    assert Returns(gamma=0.5)(step)["advantage"] == pytest.approx([1.5, 1.0, 2.0, 1.0, 4.0])
    white = Returns(whiten=True)(step)["advantage"]
    assert white.mean() == pytest.approx(0) and white.std() == pytest.approx(1)
    assert GreedyBaseline()(earned([1.0, 0.0], [0, 1], greedy_N=np.array([0.25, 0.5])))["advantage"] == pytest.approx([0.75, -0.5])


def test_gae_is_the_sum_of_decayed_errors_and_its_limits() -> None:
    """gamma 0.9, lambda 0.5 by hand; lambda 1 is the return less the value, lambda 0 one error; two trajectories do not touch."""
    value = np.array([0.5, 0.2, 0.4, 0.1, -0.3])
    step = Earned(np.array([0.0, 1.0, 2.0, 0.0, 1.0]), np.array([0, 0, 0, 1, 1]), np.array([0, 0]), value)
    errors = np.array([0.9 * 0.2 - 0.5, 1 + 0.9 * 0.4 - 0.2, 2 - 0.4, 0.9 * -0.3 - 0.1, 1 + 0.3])
    found = GAE(gamma=0.9, lambda_=0.5, whiten=False)(step)
    third, second = errors[2], errors[1] + 0.45 * errors[2]
    expected = np.array([errors[0] + 0.45 * second, second, third, errors[3] + 0.45 * errors[4], errors[4]])
    assert found["advantage"] == pytest.approx(expected)
    assert found["return"] == pytest.approx(expected + value) and found["old_value"] == pytest.approx(value)
    assert GAE(gamma=0.9, lambda_=0, whiten=False)(step)["advantage"] == pytest.approx(errors)
    assert GAE(lambda_=1, whiten=False)(step)["return"] == pytest.approx([3, 3, 2, 1, 1])
    white = GAE()(step)
    assert white["advantage"].mean() == pytest.approx(0) and white["advantage"].std() == pytest.approx(1)
    assert white["return"] == pytest.approx(GAE(whiten=False)(step)["return"])


# ---------------------------------------------------------------------------------------------------------------------------------- exact gradients


def loss_of(objective: Objective, theta: Tensor, actions: Sequence[int], columns: dict[str, np.ndarray], old: Tensor | None = None) -> Tensor:
    """The step's loss for one group of one-token answers."""
    k = len(actions)
    logp_K = theta.log_softmax(-1)[list(actions)]
    old_K = (theta if old is None else old).detach().log_softmax(-1)[list(actions)]

    def wide(x_K: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(x_K), x_K], 1).flatten()

    ids = torch.arange(2 * k)
    extras = {name: wide(torch.tensor(x)) for name, x in columns.items()}
    batch = Batch(ids, ids // 2, (ids % 2).double(), torch.zeros(k, dtype=torch.long), extras)
    signals = {"rollout": {**extras, "logp": wide(logp_K), "old_logp": wide(old_K), "critic.value": torch.zeros(2 * k).double()}}
    signals["rollout"] |= {"logits": theta.expand(2 * k, -1), "reference.logits": THETA.expand(2 * k, -1)}
    entropy = -(theta.softmax(-1) * theta.log_softmax(-1)).sum()
    signals["rollout"] |= {"entropy": wide(entropy.expand(k)), "turn": torch.zeros(2 * k)}
    signals["rollout"]["reference.logp"] = wide(THETA.log_softmax(-1)[list(actions)])
    losses = objective({"rollout": batch}, signals, Context(0, {}, Means()))
    return reduce(losses, objective, batch, count(objective.norm, batch))


def credited(credit: Credit, actions: Sequence[int], greedy: int, more: float = 0.0) -> dict[str, np.ndarray]:
    scores = (REWARD[list(actions)] + more).tolist()
    values = np.full(len(actions), 0.37)
    return dict(credit(earned(scores, [0] * len(actions), value_T=values, greedy_N=np.full(len(actions), REWARD[greedy]))))


def expected_gradient(objective: Objective, credit: Credit, k: int) -> Tensor:
    """The mean gradient over all groups of k answers, by enumeration."""
    total_A, pi_A = torch.zeros(3, dtype=torch.float64), THETA.softmax(-1)
    for actions in itertools.product(range(3), repeat=k):
        theta = THETA.clone().requires_grad_()
        loss_of(objective, theta, actions, credited(credit, actions, int(pi_A.argmax()))).backward()
        assert theta.grad is not None
        total_A += pi_A[list(actions)].prod() * theta.grad
    return total_A


def exact_gradient() -> Tensor:
    """Of minus the expected reward."""
    theta = THETA.clone().requires_grad_()
    (-(theta.softmax(-1) * torch.tensor(REWARD)).sum()).backward()
    assert theta.grad is not None
    return theta.grad


@pytest.mark.parametrize(
    ("objective", "credit", "factor"),
    [
        (Reinforce(), Returns(), 1),
        (Reinforce(), LeaveOneOut(), 1),
        (Reinforce(), GreedyBaseline(), 1),
        (RLOO(), LeaveOneOut(), 1),
        (GRPO(), LeaveOneOut(), 1),
        (GSPO(), LeaveOneOut(), 1),
        (GMPO(), LeaveOneOut(), 1),
        (CISPO(), LeaveOneOut(), 1),
        (SAPO(), LeaveOneOut(), 1),
        (PPO(), GAE(whiten=False), 1),
        (GRPO(), GroupRelative(scale="none"), 2 / 3),
    ],
    ids=lambda x: type(x).__name__ if not isinstance(x, int | float) else "",
)
def test_the_first_step_is_the_exact_policy_gradient_in_the_mean(objective: Objective, credit: Credit, factor: float) -> None:
    """Baselines that do not depend on the answer leave it unbiased; the group's own mean shrinks it by (k - 1) / k."""
    torch.testing.assert_close(expected_gradient(objective, credit, 3), factor * exact_gradient(), atol=1e-8, rtol=1e-6)


def test_leave_one_out_has_less_variance_than_plain_rewards() -> None:
    """Same mean, smaller second moment: what the baseline is for. Rewards that are all high say the same as others."""

    def second_moment(credit: Credit, more: float) -> float:
        total, pi_A = 0.0, THETA.softmax(-1)
        for actions in itertools.product(range(3), repeat=3):
            theta = THETA.clone().requires_grad_()
            loss_of(Reinforce(), theta, actions, credited(credit, actions, 0, more)).backward()
            assert theta.grad is not None
            total += float(pi_A[list(actions)].prod() * (theta.grad**2).sum())
        return total

    assert second_moment(LeaveOneOut(), 3.0) == pytest.approx(second_moment(LeaveOneOut(), 0.0))
    assert second_moment(LeaveOneOut(), 3.0) < 0.2 * second_moment(Returns(), 3.0)


@pytest.mark.parametrize("entry", [e for e in index.methods("objective") if e.family == "policy_gradient"], ids=lambda e: e.name)
def test_every_algorithm_finds_the_best_action(entry: index.Entry) -> None:
    """With the credit that its file names, from a policy that prefers the worst action."""
    from tempering import choices

    objective: Objective = index.load(entry)()
    credit = choices.over(GroupRelative(), "credit", choices.choice(entry.name).overrides)
    theta = torch.tensor([0.0, -1.0, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.1)
    rng = np.random.default_rng(0)
    for _ in range(80):
        pi_A = theta.detach().softmax(-1).numpy()
        actions = rng.choice(3, 16, p=pi_A)
        loss_of(objective, theta, actions.tolist(), credited(credit, actions.tolist(), int(pi_A.argmax()))).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(theta.detach().softmax(-1)[1]) > 0.8
