"""Losses of distillation equal TRL 1.16.0's: GKD's generalised Jensen-Shannon divergence, and with it both KLs. TRL does not multiply by T^2."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tempering.fit import Means
from tempering.layout import collate
from tempering.methods.objectives.forward_kl import ForwardKL
from tempering.methods.objectives.gkd import GKD
from tempering.methods.objectives.reverse_kl import ReverseKL
from tempering.reduce import count, reduce
from tempering.types import Context, Objective
from tests.toy import VOCAB, toy_rows

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize(
    ("objective", "beta"),
    [(ForwardKL, 0.0), (ReverseKL, 1.0), *[(GKD, beta) for beta in (0.0, 0.1, 0.5, 0.9, 1.0)]],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_generalised_jsd(objective: Any, beta: float, temperature: float) -> None:
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    batch = collate(toy_rows(5))["train"]
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(batch.num_tokens, VOCAB, generator=generator) for _ in range(2))
    labels = torch.where(batch.weight_T != 0, batch.ids_T, -100)
    theirs_in, ours_in = student.clone().requires_grad_(), student.clone().requires_grad_()
    theirs = GKDTrainer.generalized_jsd_loss(theirs_in[None], teacher[None], labels[None], beta=beta, temperature=temperature)
    ours: Objective = objective(temperature=temperature, **({"beta": beta} if objective is GKD else {}))
    losses = ours({"train": batch}, {"train": {"logits": ours_in, "teacher.logits": teacher}}, Context(0, {}, Means()))
    loss = reduce(losses, ours, batch, count(ours.norm, batch)) / temperature**2
    theirs.backward()
    loss.backward()
    torch.testing.assert_close(loss, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, rtol=1e-4, atol=1e-6)
