"""All roads lead to likelihood (S111): with every policy and every reward allowed, preferences have one optimum, by DPO, by a reward model, by
reinforcement with that.

Two questions with three answers each, one token long: a bandit. In the graph of who beat whom every answer can be reached from every other, else the
optimum lies at infinity.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from tempering.fit import Means
from tempering.layout import collate
from tempering.methods.objectives.bradley_terry import BradleyTerry
from tempering.methods.objectives.dpo import DPO
from tempering.reduce import count, reduce
from tempering.types import Context, Objective, Segment

BETA = 0.3
REFERENCE = torch.tensor([[0.2, -0.5, 1.0], [0.0, 0.7, -1.2]], dtype=torch.float64).log_softmax(-1)
WINS = torch.tensor([(0, 0, 1), (0, 0, 1), (0, 1, 2), (0, 2, 0), (0, 2, 1), (1, 1, 0), (1, 0, 1), (1, 0, 2), (1, 2, 0), (1, 1, 2), (1, 2, 1)])
"""(question, chosen, rejected) of each pair."""


def loss_of(objective: Objective, signals: Callable[[Tensor, Tensor], dict[str, Tensor]], wins: Tensor = WINS) -> Tensor:
    """The step's loss, each pair's answers as segments of one token."""
    segment = Segment(torch.zeros(1).numpy(), torch.ones(1).numpy())
    parts = collate([{"chosen": (segment,), "rejected": (segment,)} for _ in wins])
    q, chosen, rejected = wins.T
    given = {"chosen": signals(q, chosen), "rejected": signals(q, rejected)}
    losses = objective(parts, given, Context(0, {}, Means()))
    return reduce(losses, objective, parts[objective.part], count(objective.norm, parts[objective.part]))


def least(loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Where a convex loss of a table is least, to rounding: Newton's method, halved where it overshoots; a direction without slope is not gone."""
    table = torch.zeros(2, 3, dtype=torch.float64)
    for _ in range(60):
        slope = torch.autograd.functional.jacobian(loss, table).flatten()  # type: ignore[no-untyped-call]
        bend = torch.autograd.functional.hessian(loss, table).reshape(6, 6)  # type: ignore[no-untyped-call]
        step = (torch.linalg.pinv(bend, rtol=1e-9, hermitian=True) @ slope).reshape(2, 3)
        while step.abs().max() > 1e-14 and loss(table - step) > loss(table):
            step = step / 2
        table = table - step
    return table


def strongly_connected(wins: Tensor, question: int) -> bool:
    """Whether every answer to a question beats every other one, directly or through others."""
    beats = np.zeros((3, 3))
    for q, chosen, rejected in wins.tolist():
        beats[chosen, rejected] += q == question
    return connected_components(beats, connection="strong")[0] == 1


def tilted(reward: Tensor) -> Tensor:
    """The policy that maximises reward less beta KL: the reference times exp(reward / beta), normalised, as log-probs."""
    return (REFERENCE + reward / BETA).log_softmax(-1)


def test_the_optimum_of_dpo_is_the_policy_that_the_fitted_reward_asks_for() -> None:
    assert all(strongly_connected(WINS, question) for question in (0, 1))
    reward = least(lambda table: loss_of(BradleyTerry(), lambda q, a: {"reward": table[q, a]}))
    policy = least(
        lambda table: loss_of(DPO(beta=BETA), lambda q, a: {"logp": table.log_softmax(-1)[q, a], "reference.logp": REFERENCE[q, a]})
    ).log_softmax(-1)
    torch.testing.assert_close(policy, tilted(reward), atol=1e-10, rtol=0)
    assert (policy - REFERENCE).abs().max() > 0.1


def test_reinforcement_with_the_fitted_reward_stands_still_there() -> None:
    """The gradient of the expected reward less beta KL is 0 at the optimum, and not at the reference."""
    reward = least(lambda table: loss_of(BradleyTerry(), lambda q, a: {"reward": table[q, a]}))

    def slope(policy: Tensor) -> float:
        logits = policy.clone().requires_grad_()
        logp = logits.log_softmax(-1)
        (logp.exp() * (reward - BETA * (logp - REFERENCE))).sum().backward()
        assert logits.grad is not None
        return float(logits.grad.abs().max())

    assert slope(tilted(reward)) < 1e-12 < 1e-2 < slope(REFERENCE)


def test_an_answer_that_never_loses_has_no_best_reward() -> None:
    """Without a way back the graph falls apart, and the likelihood grows for ever: the loss falls wherever the winner's reward rises."""
    wins = WINS[(WINS[:, 0] == 0) & (WINS[:, 2] != 0)]
    assert not strongly_connected(wins, 0)
    losses = []
    for height in (0.0, 5.0, 10.0, 20.0):
        table = torch.tensor([[height, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
        losses.append(float(loss_of(BradleyTerry(), lambda q, a, table=table: {"reward": table[q, a]}, wins)))
    assert losses == sorted(losses, reverse=True) and len(set(losses)) == 4
