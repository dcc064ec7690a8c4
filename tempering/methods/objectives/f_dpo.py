"""DPO under another f-divergence: what keeps the policy near the reference is no longer the reverse KL.

    loss = - log sigmoid( beta * [ f'(t_w) - f'(t_l) ] ),   t = pi / pi_ref
    f'(t) = log t (reverse KL, DPO),  1 - 1/t (forward KL),  log(2t / (1 + t)) (Jensen-Shannon),  (t^(a-1) - 1) / (a - 1) (alpha)

Wang et al. 2023, arXiv 2309.16240, equation 8 and table 1; Jensen-Shannon did best of the new ones. The alpha divergence is written as in TRL, whose
limit a -> 1 is the log-ratio; the paper's own exponent is 1 - a, up to factors. Every `Contrast` loss takes these by its field `divergence`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tempering.cases import Case
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, Divergence, softplus
from tempering.methods.objectives.dpo import DPO

FAMILY = "pairs"
PAPER = {"optimizer.lr": "5e-7 (not stated; TRL's examples)"}


@dataclass(frozen=True)
class FDPO(DPO):
    """Sigmoid loss on the difference of two scores f'(pi / pi_ref)."""

    divergence: Divergence = "js_divergence"


def _js(ratio: float) -> float:
    return math.log(2 / (1 + math.exp(-ratio)))


CASES = (
    Case(
        "Jensen-Shannon",
        FDPO(beta=0.5),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(softplus(-0.5 * (_js(0.5) - _js(-1.0))) + softplus(-0.5 * (_js(-0.4) - _js(0.8)))) / 2,
    ),
    Case(
        "forward KL",
        FDPO(beta=0.5, divergence="forward_kl"),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(softplus(-0.5 * (math.exp(1.0) - math.exp(-0.5))) + softplus(-0.5 * (math.exp(-0.8) - math.exp(0.4)))) / 2,
    ),
    Case(
        "alpha = 3: f'(t) = (t^2 - 1) / 2",
        FDPO(beta=0.5, divergence="alpha_divergence", divergence_alpha=3.0),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(softplus(-0.25 * (math.exp(1.0) - math.exp(-2.0))) + softplus(-0.25 * (math.exp(-0.8) - math.exp(1.6)))) / 2,
    ),
    Case(
        "alpha = 1 is the reverse KL",
        FDPO(beta=0.5, divergence="alpha_divergence", divergence_alpha=1.0),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(softplus(-0.75) + softplus(0.6)) / 2,
    ),
    Case(
        "e^100 is cut to e^80, so that no score is infinite",
        FDPO(beta=1e-34, divergence="alpha_divergence", divergence_alpha=3.0),
        {"chosen": {"logp": [[-1.0]], "reference.logp": [[-1.0]]}, "rejected": {"logp": [[-1.0]], "reference.logp": [[-51.0]]}},
        loss=softplus(1e-34 * math.expm1(80) / 2),
        gradient={"rejected/logp": [[0.0]]},
    ),
)
