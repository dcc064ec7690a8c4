"""All roads lead to likelihood (S111): with every policy and every reward allowed, preferences have one optimum, by DPO, by a reward model, by
reinforcement with that.

Two questions with three answers each; pairs are drawn so that every answer both wins and loses, else the optimum lies at infinity.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
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


def loss_of(objective: Objective, signals: Callable[[Tensor, Tensor], dict[str, Tensor]]) -> Tensor:
    """The step's loss, each pair's answers as segments of one token."""
    segment = Segment(torch.zeros(1).numpy(), torch.ones(1).numpy())
    parts = collate([{"chosen": (segment,), "rejected": (segment,)} for _ in WINS])
    q, chosen, rejected = WINS.T
    given = {"chosen": signals(q, chosen), "rejected": signals(q, rejected)}
    losses = objective(parts, given, Context(0, {}, Means()))
    return reduce(losses, objective, parts[objective.part], count(objective.norm, parts[objective.part]))


def least(loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Where a convex loss of a table is least."""
    table = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([table], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(table)
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    return table.detach()


def tilted(reward: Tensor) -> Tensor:
    """The policy that maximises reward less beta KL: the reference times exp(reward / beta), normalised, as log-probs."""
    return (REFERENCE + reward / BETA).log_softmax(-1)


def test_the_optimum_of_dpo_is_the_policy_that_the_fitted_reward_asks_for() -> None:
    reward = least(lambda table: loss_of(BradleyTerry(), lambda q, a: {"reward": table[q, a]}))
    policy = least(
        lambda table: loss_of(DPO(beta=BETA), lambda q, a: {"logp": table.log_softmax(-1)[q, a], "reference.logp": REFERENCE[q, a]})
    ).log_softmax(-1)
    torch.testing.assert_close(policy, tilted(reward), atol=1e-6, rtol=0)
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

    assert slope(tilted(reward)) < 1e-7 < 1e-2 < slope(REFERENCE)
