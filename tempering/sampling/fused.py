"""Llama's attention and feed-forward blocks with fewer, larger operations, for the copy of a model that decodes.

With a few rows in a pass the small operations of a layer cost as much as its products. So the weights of queries, keys and values are one matrix, and
those of the two branches of the feed-forward block; the rotary embedding of queries and keys is three operations without a concatenation, where
transformers takes twelve and two concatenations; activations are written in place.

A block is replaced by what it is made of, not by its name: exactly the projections below and no attribute that is not known here. Whether the model
still gives its own logits is then tried, one block of a kind in float32 and the whole, see `weights.decoding_copy`.

Shapes: T tokens of the pass, E hidden size, H query heads, K key heads, D head size, I size of the feed-forward block.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_FEED = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_KNOWN = {"config", "layer_idx", "head_dim", "num_key_value_groups", "scaling", "attention_dropout", "is_causal", "training"}
_REQUIRED = {"config", "layer_idx", "head_dim", "num_key_value_groups", "scaling"}


class FusedAttention(nn.Module):
    """Takes the place of an attention block, and is called like it."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.config, self.layer_idx, self.head_dim, self.scaling = block.config, block.layer_idx, block.head_dim, block.scaling
        self.num_key_value_groups, self.is_causal = block.num_key_value_groups, True
        self.qkv_proj, self.o_proj = _stacked(block.q_proj, block.k_proj, block.v_proj), block.o_proj
        self.rotated = (block.q_proj.out_features + block.k_proj.out_features) // self.head_dim
        self.heads = block.q_proj.out_features // self.head_dim

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **keywords: Any,
    ) -> tuple[Tensor, Any]:
        """[.., T, E] -> [.., T, E] and what the attention function gives besides."""
        all_THD = self.qkv_proj(hidden_states).unflatten(-1, (-1, self.head_dim))
        turned_THD = rotated(all_THD[..., : self.rotated, :], *position_embeddings).transpose(1, 2)
        q, k, v = turned_THD[:, : self.heads], turned_THD[:, self.heads :], all_THD[..., self.rotated :, :].transpose(1, 2)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        out, weights = attention(self, q, k, v, attention_mask, dropout=0.0, scaling=self.scaling, **keywords)
        return self.o_proj(out.flatten(-2)), weights


class FusedFeed(nn.Module):
    """Takes the place of a gated feed-forward block."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = _stacked(block.gate_proj, block.up_proj), block.down_proj

    def forward(self, x: Tensor) -> Tensor:
        """[.., T, E] -> [.., T, E]."""
        gate_TI, up_TI = self.gate_up_proj(x).chunk(2, -1)
        return self.down_proj(F.silu(gate_TI, inplace=True) * up_TI)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in halves (Su et al. 2021, as Llama lays it out): x [.., T, H, D], cos and sin [.., T, D] -> [.., T, H, D]."""
    half, cos, sin = x.shape[-1] // 2, cos.unsqueeze(-2), sin.unsqueeze(-2)
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


def fuse(model: nn.Module, tried: dict[Any, bool] | None = None, finish: Callable[[nn.Module], None] = lambda block: None) -> None:
    """Replaces, in place, every block that can be. No gradient flows to its weights any more.

    Args:
        tried: which kinds of blocks agreed when they were tried; what is new is added.
        finish: called with each new block.
    """
    tried = {} if tried is None else tried
    for fused, fits in ((FusedAttention, lambda block: _plain(block, _ATTENTION) and _known(block)), (FusedFeed, lambda block: _plain(block, _FEED))):
        # where they stand, not the blocks: one that is replaced is let go at once
        for module, name in [(m, name) for m in model.modules() for name, child in m.named_children() if fits(child)]:
            child = getattr(module, name)
            made = fused(child)
            if type(child) not in tried:
                tried[type(child)] = _agree(child, made)
            if tried[type(child)]:
                setattr(module, name, made)
                finish(made)


def _agree(block: Any, made: Any) -> bool:
    """Whether the two give the same in float32, where a rotary embedding or activation of another kind shows."""
    block, made = copy.deepcopy(block).float(), copy.deepcopy(made).float()
    width = next(m.in_features for m in block.children() if isinstance(m, nn.Linear))
    device = next(block.parameters()).device
    x = torch.linspace(-30, 30, 5 * width, device=device).sin().view(1, 5, width)
    if isinstance(made, FusedFeed):
        return _near(block(x), made(x))
    angle = torch.linspace(0.1, 3, 5 * (block.head_dim // 2), device=device).view(1, 5, -1).repeat(1, 1, 2)
    given = {"position_embeddings": (angle.cos(), angle.sin()), "attention_mask": None}
    return _near(block(hidden_states=x, **given)[0], made(hidden_states=x, **given)[0])


def _near(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-4 * a.abs().max())


def _plain(block: nn.Module, names: set[str]) -> bool:
    """These children and no others, the projections being plain linear layers with or without a bias in each that are stacked."""
    children = dict(block.named_children())
    linears = [child for name, child in children.items() if name != "act_fn"]
    # a hook would not be called any more
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in block.modules())
    stacked = [child for name, child in children.items() if name not in ("o_proj", "down_proj", "act_fn")]
    return set(children) == names and all(type(m) is nn.Linear for m in linears) and len({m.bias is None for m in stacked}) == 1 and not hooked


def _known(block: Any) -> bool:
    """Nothing but what Llama's block has: a window, soft-capping or another norm is for the block itself to apply."""
    own = {name for name, value in vars(block).items() if not name.startswith("_") and value is not None}
    return own <= _KNOWN and own >= _REQUIRED and getattr(block.config, "sliding_window", None) is None


def _stacked(*linears: nn.Linear) -> nn.Linear:
    with torch.device("meta"):
        made = nn.Linear(linears[0].in_features, sum(m.out_features for m in linears), linears[0].bias is not None)
    made.weight = nn.Parameter(torch.cat([m.weight.detach() for m in linears]), requires_grad=False)
    if linears[0].bias is not None:
        made.bias = nn.Parameter(torch.cat([m.bias.detach() for m in linears]), requires_grad=False)
    return made
