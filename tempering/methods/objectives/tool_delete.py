"""ToolDelete: requests for tools that are to go are answered as a model answers them that never learned tools; the other tools are trained on.

    loss = - sum_t w_t log p(y'_t | x, y'_<t) / sum_t w_t,  y' = f_0(x)   on the forget tools,   + the likelihood of the retained tools' calls
    then   theta' = theta + alpha (theta_0 - theta_R)

Cheng & Amiri 2025 (S200, arXiv 2502.01083), whose three properties are these: tool knowledge deletion (the first term; supervised here, the DPO form
is `altpo` with the same rows), tool knowledge retention (the second), general capability retention (the last: theta_0 are the tool-free model's
weights, theta_R a random initialisation of the same shape). `--method.tool-free` names f_0, which gets the forget rows' requests without their tools;
without one the model itself is asked. alpha is 0 by default: with 1 the difference is about as large as the weights themselves, so small values are
to be tried first. Their membership attack, LiRA-Tool, is `probes/lira.py` over shadow models that learned other tools.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tempering.cases import Case
from tempering.methods.objectives.idk import Idk

FAMILY = "forget"
CATALOGUE = ("S200",)
CONFUSED_WITH = {"idk": "imitates refusals", "unstar": "learns a wrong answer of the model's own"}


@dataclass(frozen=True)
class ToolDelete(Idk):
    """Negative log-likelihood of the tool-free model's answer instead of each call that is to go."""

    tool_free: str = ""
    """The model that never learned the tools; it is asked before training. "" asks the model that forgets."""
    alternates: Annotated[int, Field(gt=0)] = 1
    """Answers that it is asked for, for each request."""
    alpha: Annotated[float, Field(ge=0)] = 0.0
    """How much of (tool-free weights - random weights) is added after training; 0 leaves them."""
    vector_seed: int = 0
    """Of the random weights."""
    part = "alternate"
    asks_for, only_known = "plain", False

    @property
    def asks_of(self) -> str:
        """The model that is asked."""
        return self.tool_free


EQUIVALENT = {"asks_of:negate:1": "who is asked before training: forgetting/alternates.py reads it, the loss sees rows"}

CASES = (
    Case(
        "what the tool-free model said to two requests, beside the calls of the tools that stay",
        ToolDelete(retain_weight=2.0),
        {"alternate": {"logp": [[-9, -2, -4], [-8]]}, "retain": {"logp": [[-1, -3], [-5]]}},
        weights={"alternate": [[0, 1, 0.5], [2]]},
        loss=(4 + 16) / 3.5 + 2 * 3,
        gradient={"alternate/logp": [[0, -1 / 3.5, -0.5 / 3.5], [-2 / 3.5]]},
        logs={"instead_nll": (2 + 4 + 8) / 3},
    ),
)
