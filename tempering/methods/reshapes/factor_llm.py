"""FactorLLM: the MLP of every block is cut into experts of which a router takes some; a dense model becomes a mixture of experts, weights untouched.

    y = N sum_(i in top k) g_i E_i(x),   E_i the i-th of N slices of the neurons,   g = softmax over the k chosen of W_r x

Zhao et al. 2024 (FactorLLM); equal shares give the paper's factor N / k. The whole MLP is the sum of its experts, so with k = N and a router that
says nothing it computes what it did. What is written is a Mixtral, which transformers opens: its router divides the chosen shares by their sum, so
the factor N stands in the experts' outgoing weights. The router begins at small random numbers; the recipe `factor_llm` teaches it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from tempering.errors import UserError
from tempering.reshapes import Body, Seen

if TYPE_CHECKING:
    from torch import Tensor

CATALOGUE = ("S107",)
_MLP = ("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight")


@dataclass(frozen=True)
class FactorLLM:
    """A mixture of experts out of a dense Llama or Mistral."""

    preserves: ClassVar[bool] = False
    looks: ClassVar[bool] = False
    experts: Annotated[int, Field(ge=1)] = 4
    """N: how many experts each MLP is cut into (4 in the released code)."""
    active: Annotated[int, Field(ge=1)] = 2
    """k: how many of them a token goes through (2 there)."""
    spread: Annotated[float, Field(ge=0)] = 0.02
    """Standard deviation of the router's weights; 0 takes the first experts, all alike."""
    seed: int = 0
    """Of the router."""

    def __call__(self, body: Body, seen: Seen | None) -> Body:
        import torch

        config, n = body.config, self.experts
        if config["model_type"] not in ("llama", "mistral") or config.get("attention_bias") or config.get("mlp_bias"):
            raise UserError("factor_llm makes a Mixtral, which is a Llama or Mistral without biases but for its experts; give one of these")
        if body.sizes["neuron"] % n or self.active > n:
            raise UserError(
                f"--experts {n} --active {self.active}: the {body.sizes['neuron']} neurons must divide by the experts, and no more be active"
            )
        draw = torch.Generator().manual_seed(self.seed)

        def cut(block: dict[str, Tensor]) -> dict[str, Tensor]:
            gate, up, down = (block.pop(name) for name in _MLP)
            router = torch.randn(n, down.shape[0], generator=draw) * self.spread
            block["mlp.gate.weight"] = router.to(down.device, down.dtype)
            pairs = zip(gate.chunk(n), up.chunk(n), strict=True)
            block["mlp.experts.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in pairs])
            block["mlp.experts.down_proj"] = torch.stack([part * n for part in down.chunk(n, 1)])
            return block

        more = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": n, "num_experts_per_tok": self.active}
        kept = {key: value for key, value in config.items() if key not in ("attention_bias", "mlp_bias", "pretraining_tp")}
        changed = {**kept, **more, "intermediate_size": body.sizes["neuron"] // n}
        return replace(body, config=changed, blocks=tuple(cut(dict(block)) for block in body.blocks))
