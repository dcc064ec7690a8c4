"""ULD, unlearning from logit difference: a small assistant learns the reverse (what is to go, and nothing else), and its logits are subtracted.

    loss = CE(forget) + c KL( uniform || p )  on retain        then        logits = logits_target - a logits_assistant

Ji et al. 2024 (S001, arXiv 2406.08607, section 3, equations 3 to 5): the target's weights never change. The assistant is made of the target's first
layers and trained in the scope of the run; the paper takes 8 of 32 and LoRA of rank 16. Here the KL term leaves out its constant -log V, so that at
best it is log V, and runs over the retain rows' scored tokens (the released code's over the prompts' too). What is kept is the start model with the
assistant beside it and `decodes/logit_difference.py` as its decode chain: whoever holds the weights alone holds the start model, and an attack on
the weights gets everything. It is a method for models behind an interface.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._forgetting import Forgetting
from tempering.reduce import scored
from tempering.types import Context, Norm, Objective, Parts, Signals

FAMILY = "forget"
CATALOGUE = ("S001",)
PAPER = {"optimizer.lr": "1e-3 on TOFU with LoRA of rank 16 on 8 layers of Llama-2-7B-chat (released configuration, as the catalogue says)"}


@dataclass(frozen=True)
class _ToUniform(Objective):
    """Cross-entropy with the uniform distribution on the retain rows: KL(uniform || p) + log V."""

    norm: Norm
    part = "retain"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"retain": frozenset({"mean_logp"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        return -signals["retain"]["mean_logp"]


@dataclass(frozen=True)
class ULD(Forgetting):
    """The assistant's loss: the likelihood of the forget rows, and no opinion on the retain rows."""

    layers: Annotated[int, Field(ge=0)] = 0
    """How many of the target's first layers the assistant has; 0 takes a quarter of them, as the paper does, at least 1."""
    subtract: Annotated[float, Field(ge=0)] = 0.8
    """a, how much of the assistant's logits is subtracted; 0.8 on TOFU, 0.5 on the text of a book."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Tokens less likely to the target than this share of its likeliest one are left as they are and stay behind the others."""
    retain_loss: Literal["uniform", "none"] = "uniform"  # pyright: ignore[reportIncompatibleVariableOverride]
    """What the assistant learns of the retain rows: to know nothing, or nothing is asked of it."""
    retain_weight: Annotated[float, Field(ge=0)] = 5.0
    """c, the weight of the uniform term."""
    norm: Norm = "tokens"
    """What the likelihood of the forget rows is divided by."""
    per = "token"
    decodes = True

    def keeping(self) -> Objective | None:
        return _ToUniform(self.retain_norm) if self.retain_loss == "uniform" else None

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        logp_T = signals["forget"]["logp"]
        ctx.log(forget_nll=-scored(logp_T, parts["forget"]))
        return -logp_T


_FORGET = {"logp": [[-1, -2, -4], [-8]]}
_WEIGHTS = [[0, 1, 0.5], [2]]

CASES = (
    Case(
        "learns what is to go, and to say nothing of the rest",
        ULD(weight=0.5),
        {"forget": _FORGET, "retain": {"mean_logp": [[-3, -5], [-7]]}},
        weights={"forget": _WEIGHTS, "retain": [[1, 0], [0.5]]},
        loss=0.5 * (2 + 2 + 16) / 3.5 + 5 * (3 + 3.5) / 1.5,
        gradient={"forget/logp": [[0, -0.5 / 3.5, -0.25 / 3.5], [-1 / 3.5]], "retain/mean_logp": [[-5 / 1.5, 0], [-2.5 / 1.5]]},
        logs={"forget_nll": (2 + 4 + 8) / 3},
    ),
    Case(
        "retain rows each alike",
        ULD(retain_norm="segment_mean", retain_weight=2.0),
        {"forget": _FORGET, "retain": {"mean_logp": [[-3, -5], [-7]]}},
        weights={"forget": _WEIGHTS},
        loss=20 / 3.5 + 2 * (4 + 7) / 2,
    ),
    Case("the forget rows alone", ULD(retain_loss="none"), {"forget": _FORGET}, loss=15 / 4),
)
