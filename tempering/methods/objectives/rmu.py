"""RMU, representation misdirection for unlearning: on forget rows the state after one layer is pushed to a fixed random point, on others it is held.

    loss = mean_t || h_l(x_f)_t - c u ||^2  +  alpha mean_t || h_l(x_r)_t - h_l_ref(x_r)_t ||^2

Li et al. 2024 (WMDP, arXiv 2403.03218, section 4): u is a unit vector with entries drawn from [0, 1), the same for the whole run. For Zephyr-7B c is
6.5, alpha 1200 and l the layer of index 7 of 32; only the MLPs of layers l - 2 to l train there. Here every weight of the scope up to layer l may
move: `--scope full --only "layers\\.[5-7]\\.mlp\\.down_proj"` trains what the released code does, and with LoRA
`--scope.options '{"layers_to_transform": [5, 6, 7]}'` the same layers. Rows of questions and answers are steered at the answers' tokens, plain texts
at all but their first.

What to look at: "forget_length", the mean length of the forget states, rises to c while "steering", their mean cosine with u, rises to 1. If the
states are much longer than c from the start, c is too small (see adaptive_rmu).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._forgetting import Forgetting
from tempering.methods.objectives.hidden_reference import HiddenReference
from tempering.reduce import scored
from tempering.types import Context, Norm, Objective, Parts, Signals

FAMILY = "forget"
CATALOGUE = ("S010",)
CONFUSED_WITH = {"adaptive_rmu": "the same, with a length that follows each token's state at the start"}
PAPER = {"optimizer.lr": "5e-5, AdamW, 150 steps of 4 texts, MLP weights of three layers (Zephyr-7B, section 4 and the released code)"}


@dataclass(frozen=True)
class RMU(Forgetting):
    """Squared distance of the forget rows' hidden states from c u."""

    layer: Annotated[int, Field(ge=0)] = 3
    """After how many layers the states are steered. The paper's is about a quarter of the way up: 8 of Zephyr's 32."""
    steering: Annotated[float, Field(gt=0)] = 6.5
    """c, the length of the point that states are pushed to."""
    vector_seed: int = 0
    """Of the direction u."""
    retain_loss: Literal["hidden", "none", "nll", "kl"] = "hidden"  # pyright: ignore[reportIncompatibleVariableOverride]
    """What holds the rest: the states after the same layer, or one of the others' retain terms."""
    retain_weight: Annotated[float, Field(ge=0)] = 1200.0
    """alpha."""
    retain_norm: Norm = "segment_mean"
    """What the retain term is divided by."""
    norm = "segment_mean"
    per = "token"

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        return {"forget": frozenset({f"hidden.{self.layer}"})}

    def keeping(self) -> Objective | None:
        return HiddenReference("retain", self.layer, self.retain_norm) if self.retain_loss == "hidden" else super().keeping()

    def lengths(self, signals: Signals) -> float | Tensor:
        """How long the target is: a number, or one for each token [T, 1]."""
        return self.steering

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        hidden_TD = signals["forget"][f"hidden.{self.layer}"]
        drawn = random.Random(self.vector_seed)
        u_D = F.normalize(hidden_TD.new_tensor([drawn.random() for _ in range(hidden_TD.shape[1])]), dim=0)
        scored_ND = scored(hidden_TD, parts["forget"])
        ctx.log(forget_length=scored_ND.norm(dim=-1), steering=F.normalize(scored_ND, dim=-1) @ u_D)
        return (hidden_TD - self.lengths(signals) * u_D).square().sum(-1)


# Python promises that this generator gives the same numbers everywhere.
_DRAWN = [random.Random(3), random.Random(4)]
_A, _B = ([a / (a * a + b * b) ** 0.5, b / (a * a + b * b) ** 0.5] for a, b in [(g.random(), g.random()) for g in _DRAWN])
_FORGET = [[[1.0, 0.0], [0.0, -2.0], [7.0, 7.0]], [[3.0, 4.0]]]
_WEIGHTS = [[1.0, 3.0, 0.0], [0.5]]


def _to(point: list[float], state: list[float]) -> float:
    return (state[0] - point[0]) ** 2 + (state[1] - point[1]) ** 2


CASES = (
    Case(
        "a token counts by its weight within its row, rows alike; the point is 2 u",
        RMU(layer=1, steering=2.0, vector_seed=3, retain_loss="none"),
        {"forget": {"hidden.1": _FORGET}},
        weights={"forget": _WEIGHTS},
        loss=((_to([2 * _A[0], 2 * _A[1]], [1, 0]) + 3 * _to([2 * _A[0], 2 * _A[1]], [0, -2])) / 4 + _to([2 * _A[0], 2 * _A[1]], [3, 4])) / 2,
        gradient={
            "forget/hidden.1": [
                [[2 * (1 - 2 * _A[0]) / 8, -2 * 2 * _A[1] / 8], [-3 * 2 * 2 * _A[0] / 8, 3 * 2 * (-2 - 2 * _A[1]) / 8], [0, 0]],
                [[(3 - 2 * _A[0]), (4 - 2 * _A[1])]],
            ]
        },
        logs={"forget_length": (1 + 2 + 5) / 3, "steering": (_A[0] - _A[1] + 0.6 * _A[0] + 0.8 * _A[1]) / 3},
    ),
    Case(
        "states of one dimension: u is 1; other rows held where they were",
        RMU(layer=1, weight=0.5, retain_weight=10.0),
        {
            "forget": {"hidden.1": [[[6.0]], [[7.5]]]},
            "retain": {"hidden.1": [[[1.0], [2.0]], [[3.0]]], "reference.hidden.1": [[[1.0], [4.0]], [[2.0]]]},
        },
        loss=0.5 * (0.25 + 1) / 2 + 10 * ((0 + 4) / 2 + 1) / 2,
    ),
    Case(
        "another seed, another direction; the rest kept likely",
        RMU(layer=0, steering=1.0, vector_seed=4, retain_loss="nll", retain_weight=1.0, retain_norm="tokens"),
        {"forget": {"hidden.0": [[[1.0, 0.0]], [[0.0, 1.0]]]}, "retain": {"logp": [[-1.0, -2.0], [-4.0]]}},
        loss=(_to(_B, [1, 0]) + _to(_B, [0, 1])) / 2 + 7 / 3,
    ),
)
