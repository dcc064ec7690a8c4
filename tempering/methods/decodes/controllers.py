"""Controllers: one model for each dimension of what is wanted, mixed into the policy's logits by weights that may change from sentence to sentence.

    logits = l_policy + sum_k w_k(sentence) * (l_k - l_policy)

Learning to generate research ideas with dynamic control (Li et al. 2024, arXiv 2412.14626, S182) trains a controller for each of novelty, feasibility
and effectiveness by reinforcement with that dimension's reward, and weighs them anew for each sentence while it writes. A controller here is a whole
model that was trained for one reward from the policy (`temper run ldc`), and works on logits as experts do in DExperts (Liu et al. 2021, arXiv
2105.03023); the paper's modules steer inside of the model, and its network that predicts a sentence's weights is not here: they are a table. With all
weights 0 the policy's logits come back exactly, with one weight 1 and the others 0 that controller's up to rounding, and the logits are linear in the
weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tempering.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

CATALOGUE = ("S182",)


@dataclass(frozen=True)
class Controllers:
    """The policy's logits moved towards each controller's, [R, V]."""

    names: tuple[str, ...] = ("controller",)
    """Roles of the controllers."""
    weights: tuple[tuple[float, ...], ...] = ((1.0,),)
    """For each sentence of an answer, a weight for each controller; sentences beyond the last have the last one's."""
    ends: tuple[int, ...] = ()
    """Token ids that end a sentence; needed where there is more than one row of weights."""
    header: tuple[int, ...] = ()
    """Token ids between a prompt and its answer: sentences are counted from the last of them on; without one, from the first token."""

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "names", tuple(map(str, self.names)))
            object.__setattr__(self, "weights", tuple(tuple(map(float, row)) for row in self.weights))
            object.__setattr__(self, "ends", tuple(map(int, self.ends)))
            object.__setattr__(self, "header", tuple(map(int, self.header)))
        except (TypeError, ValueError):
            raise UserError("Controllers: weights are rows of numbers, one row for each sentence; ends and header are lists of token ids") from None
        if not self.names or not self.weights:
            raise UserError("Controllers: give at least one controller and one row of weights")
        if strange := next((name for name in self.names if not name.isidentifier()), None):
            raise UserError(f"Controllers: {strange!r} is no name for a folder beside the weights; take letters, digits and underscores")
        if wrong := next((row for row in self.weights if len(row) != len(self.names)), None):
            raise UserError(f"Controllers: a row of weights has {len(wrong)} numbers for {len(self.names)} controllers; give one for each")
        if len(self.weights) > 1 and not self.ends:
            raise UserError("Controllers: weights change from sentence to sentence, and ends names no token that ends one")

    @property
    def roles(self) -> tuple[str, ...]:
        return self.names

    def __call__(self, tokens_RL: Tensor, logits: Mapping[str, Tensor]) -> Tensor:
        policy_RV = logits["policy"]
        weights_RK = self.weigh(tokens_RL).to(policy_RV)
        out_RV = policy_RV
        for k, name in enumerate(self.names):
            # A difference times 0 is 0, and x + 0 is x; but not where a logit is infinite.
            moved_RV = out_RV + weights_RK[:, k, None] * (logits[name] - policy_RV)
            out_RV = moved_RV.where(weights_RK[:, k, None] != 0, out_RV)
        return out_RV

    def weigh(self, tokens_RL: Tensor) -> Tensor:
        """The weights of the sentence that each row is in [R, K]; tokens [R, L] with -1 for padding."""
        import torch

        table: Any = torch.tensor(self.weights, device=tokens_RL.device)
        if len(self.weights) == 1:
            return table.expand(len(tokens_RL), -1)
        rows, length = tokens_RL.shape
        begins_R1, size = torch.zeros(rows, 1, dtype=torch.long, device=tokens_RL.device), len(self.header)
        if 0 < size <= length:
            here_RN = (tokens_RL.unfold(1, size, 1) == torch.tensor(self.header, device=tokens_RL.device)).all(-1)
            places = torch.arange(size, size + here_RN.shape[1], device=tokens_RL.device)
            begins_R1 = (here_RN * places).amax(1, keepdim=True)
        own_RL = torch.arange(length, device=tokens_RL.device) >= begins_R1
        ended_R = (torch.isin(tokens_RL, torch.tensor(self.ends, device=tokens_RL.device)) & own_RL).sum(1)
        return table[ended_R.clamp(max=len(self.weights) - 1)]
