"""Losses of forgetting equal OpenUnlearning's trainers: loss and gradient on the same logits, retain term and all; their numbers are stored
(open_unlearning.py says how they were made)."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from tempering.fit import Means
from tempering.methods.objectives.altpo import AltPO
from tempering.methods.objectives.ce_u import CEU
from tempering.methods.objectives.gradient_ascent import GradientAscent
from tempering.methods.objectives.idk_dpo import IdkDPO
from tempering.methods.objectives.npo import NPO
from tempering.methods.objectives.pdu import PDU
from tempering.methods.objectives.satimp import SatImp
from tempering.methods.objectives.simnpo import SimNPO
from tempering.methods.objectives.undial import UNDIAL
from tempering.methods.objectives.wga import WGA
from tempering.proof import hand
from tempering.types import Batch, Objective
from tests.peers.open_unlearning import NUMBERS, THEIRS, VOCABULARY, rows, table

MIXED: dict[str, Any] = {"weight": 0.5, "retain_weight": 2.0, "retain_loss": "nll"}
OURS: dict[str, Objective] = {
    "gradient_ascent": GradientAscent(),
    "graddiff": GradientAscent(**MIXED),
    "npo": NPO(beta=0.3, **MIXED),
    # Their delta is subtracted before beta is multiplied.
    "simnpo": SimNPO(beta=2.5, gamma=2.5 * 0.4, **MIXED),
    "dpo": AltPO(beta=0.3, **MIXED),
    "wga": WGA(alpha=1.5, **MIXED),
    "satimp": SatImp(**MIXED),
    "ce_u": CEU(),
    "ce_u_all": CEU(skip_first=0),
    "undial": UNDIAL(beta=3.0, **MIXED),
    "pdu": PDU(bound=0.4, dual_rate=0.3, **MIXED),
}


def step(objective: Objective, forget: str = "forget", *, later: bool = False) -> tuple[float, torch.Tensor, dict[str, float]]:
    """Our loss of their rows, its gradient [V, V] and logged means, through the engine's own reduction.

    Args:
        later: of the forget rows, score the token after each one that they score.
    """
    policy, reference = table("policy").requires_grad_(), table("reference")
    parts, signals = {}, {}
    for part, names in objective.needs.items():
        found = rows({"forget": forget, "refused": "instead", "alternate": "instead"}.get(part, part))
        if later and part == "forget":
            found = [([*ids, 0], [0, *scored]) for ids, scored in found]
        ids_T = torch.tensor([t for ids, _ in found for t in ids])
        segment_T = torch.tensor([i for i, (ids, _) in enumerate(found) for _ in ids])
        weight_T = torch.tensor([w for _, scored in found for w in scored], dtype=torch.float64)
        parts[part] = Batch(ids_T, segment_T, weight_T, torch.arange(len(found)))
        signals[part] = {}
        for name in names:
            logits_TV = (reference if name.startswith("reference.") else policy)[ids_T.roll(1)]
            logp_TV, name_of = logits_TV.log_softmax(-1), name.rpartition(".")[2]
            value = {
                "logits": logits_TV,
                "logp": logp_TV.gather(1, ids_T[:, None])[:, 0],
                "max_logp": logp_TV.amax(-1),
                "mean_logp": logp_TV.mean(-1),
            }[name_of]
            signals[part][name] = torch.where(weight_T.view(-1, *[1] * (value.dim() - 1)) != 0, value, 0.0)
    given = hand.Input(parts, signals, frozenset())
    log = Means()
    contexts = [hand.context(term, given, signals, log) for _, term in objective.terms()]
    loss = hand.loss(objective, given, signals, contexts)
    loss.backward()
    return loss.item(), policy.grad, dict(log.means())  # type: ignore[return-value]


@pytest.mark.parametrize("name", list(THEIRS))
def test_loss_and_gradient_are_theirs(name: str) -> None:
    theirs = json.loads(NUMBERS.read_text())[name]
    # PDU of theirs flattens the logits after each answer token.
    loss, gradient, logs = step(OURS[name], THEIRS[name].forget, later=name == "pdu")
    assert loss == pytest.approx(theirs["loss"], rel=1e-12)
    assert gradient.flatten().tolist() == pytest.approx(theirs["gradient"], abs=1e-12)
    assert name != "pdu" or logs["next_retain_weight"] == pytest.approx(theirs["next_retain_weight"], rel=1e-6)
    assert gradient.abs().sum() > 1e-3 and gradient.shape == (VOCABULARY, VOCABULARY)


def test_their_dpo_is_idk_dpo_of_scale_2() -> None:
    theirs = json.loads(NUMBERS.read_text())["dpo"]
    loss, gradient, _ = step(IdkDPO(beta=0.3, scale=2.0, **MIXED))
    assert loss == pytest.approx(theirs["loss"], rel=1e-12) and gradient.flatten().tolist() == pytest.approx(theirs["gradient"], abs=1e-12)
