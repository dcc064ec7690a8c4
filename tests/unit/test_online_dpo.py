"""Online DPO on given pairs is DPO (S191), and a single answer gives no pair."""

from __future__ import annotations

import numpy as np
import torch

from tempering.fit import Means
from tempering.layout import collate
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.online_dpo import OnlineDPO
from tempering.reduce import count, reduce
from tempering.types import Context, Objective, Parts, Segment, Signals

LENGTHS = [(2, 3), (1, 4), (3, 3)]
"""Tokens of the chosen and the rejected answer of three pairs."""


def segment(length: int) -> Segment:
    return Segment(np.zeros(length, np.int32), np.ones(length, np.float32))


def reduced(objective: Objective, parts: Parts, signals: Signals) -> torch.Tensor:
    return reduce(objective(parts, signals, Context(0, {}, Means())), objective, parts[objective.part], count(objective.norm, parts[objective.part]))


def test_on_one_round_of_given_pairs_it_is_dpo_with_its_gradient() -> None:
    source = torch.Generator().manual_seed(0)
    policy, reference = ([[torch.randn(n, generator=source, dtype=torch.float64) for n in pair] for pair in LENGTHS] for _ in range(2))
    found = []
    for online in (False, True):
        leaves = [[x.clone().requires_grad_() for x in pair] for pair in policy]
        if online:
            parts = collate([{"rollout": tuple(segment(n) for n in pair)} for pair in LENGTHS])
            logp_T, advantage = torch.cat([x for pair in leaves for x in pair]), torch.tensor([1.0, -1.0] * len(LENGTHS))
            given = {"logp": logp_T, "old_logp": logp_T.detach(), "reference.logp": torch.cat([x for pair in reference for x in pair])}
            signals = {"rollout": {**given, "advantage": advantage[parts["rollout"].segment_T]}}
            loss = reduced(OnlineDPO(beta=0.3), parts, signals)
        else:
            parts = collate([{side: (segment(pair[i]),) for i, side in enumerate(("chosen", "rejected"))} for pair in LENGTHS])
            signals = {
                side: {"logp": torch.cat([pair[i] for pair in leaves]), "reference.logp": torch.cat([pair[i] for pair in reference])}
                for i, side in enumerate(("chosen", "rejected"))
            }
            loss = reduced(DPO(beta=0.3), parts, signals)
        loss.backward()
        found.append((float(loss.detach()), [x.grad for pair in leaves for x in pair]))
    (offline, theirs), (online_, ours) = found
    assert abs(offline - online_) < 1e-12 and offline > 0
    for one, other in zip(theirs, ours, strict=True):
        assert one is not None and other is not None
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_one_answer_gives_no_pair() -> None:
    parts = collate([{"rollout": (segment(2),)}])
    logp_T = torch.tensor([-1.0, -2.0], requires_grad=True)
    signals = {"rollout": {"logp": logp_T, "old_logp": logp_T.detach(), "reference.logp": torch.zeros(2), "advantage": torch.ones(2)}}
    loss = reduced(OnlineDPO(), parts, signals)
    loss.backward()
    assert float(loss.detach()) == 0 and logp_T.grad is not None and not logp_T.grad.any()
