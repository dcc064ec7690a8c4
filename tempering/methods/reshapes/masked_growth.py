"""Growth in every direction that changes nothing yet: more blocks, neurons, heads, and a wider stream (masked structural growth).

    new:  y = f(x) + 0 * g(x),    g the added neurons, heads or blocks

Yao et al. 2023, arXiv 2305.02869 (masked structural growth), as FLM-101B grows (Li et al. 2023, arXiv 2309.03852). What is added is drawn at
random, and what it would say is multiplied by a mask that is 0 at first. The paper raises the mask to 1 step by step; here it is part of the
outgoing weights, which begin at 0 and are learned from there, so that the result is a plain model. A wider stream has zeros in its new channels:
the root mean square shrinks by sqrt(d / d'), which the norms' weights and their epsilon take back exactly. That is for RMS norms; a LayerNorm's
mean cannot be taken back, so GPT-NeoX grows in neurons and blocks alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from tempering.errors import UserError
from tempering.reshapes import Axis, Body, Seen

if TYPE_CHECKING:
    from torch import Tensor

CATALOGUE = ("S180",)


@dataclass(frozen=True)
class MaskedGrowth:
    """To these sizes; None leaves one as it is."""

    preserves: ClassVar[bool] = True
    looks: ClassVar[bool] = False
    layers: Annotated[int, Field(ge=1)] | None = None
    """Blocks; the new ones, copies, stand behind the old ones they are spread over."""
    neurons: Annotated[int, Field(ge=1)] | None = None
    """Of each MLP."""
    heads: Annotated[int, Field(ge=1)] | None = None
    """Of queries; keys and values grow in proportion."""
    width: Annotated[int, Field(ge=1)] | None = None
    """Of the stream between the blocks (hidden size)."""
    seed: int = 0
    """Of the new weights."""

    def __call__(self, body: Body, seen: Seen | None) -> Body:
        now = {
            "layers": len(body.blocks),
            "neurons": body.sizes["neuron"],
            "heads": body.config["num_attention_heads"],
            "width": body.sizes["hidden"],
        }
        for name, size in now.items():
            if (getattr(self, name) or size) < size:
                raise UserError(f"--{name} {getattr(self, name)}: the model has {size} already; this only grows (temper methods reshape)")
        if self.neurons:
            body = _wider(body, "neuron", self.neurons, self.seed)
        if self.heads and self.heads != now["heads"]:
            each = now["heads"] // body.sizes["group"]
            _needs_rms(body, "heads")
            if self.heads % each:
                raise UserError(f"--heads {self.heads}: {each} heads share a key and a value; give a multiple of {each}")
            body = _wider(body, "group", self.heads // each, self.seed)
        if self.width and self.width != now["width"]:
            _needs_rms(body, "width")
            body = _wide_norms(_wider(body, "hidden", self.width, self.seed), now["width"] / self.width)
        return self._deeper(body, self.layers or now["layers"])

    def _deeper(self, body: Body, layers: int) -> Body:
        now = len(body.blocks)
        order = sorted(i % now for i in range(layers))
        return body.arranged(order).silent([i for i in range(1, layers) if order[i] == order[i - 1]])


def _needs_rms(body: Body, what: str) -> None:
    if "rms_norm_eps" not in body.config:
        raise UserError(f"--{what}: a {body.config['model_type']} can grow in neurons and layers alone without changing what it computes")


def _wider(body: Body, axis: Axis, size: int, seed: int) -> Body:
    import torch

    more, draw = size - body.sizes[axis], torch.Generator().manual_seed(seed)

    def pad(name: str, tensor: Tensor, dim: int, block: int) -> Tensor:
        shape = list(tensor.shape)
        shape[dim] = more * body.stride(tensor, dim, axis)
        new = tensor.new_zeros(shape)
        # What is read from the stream, or from new channels of it, is drawn; what is written to it, and biases, begin at 0.
        reads = len(shape) == 2 and body.axes[name] != (None, "hidden") and ((dim == 0) != (axis == "hidden"))
        if reads:
            new.copy_(torch.randn(shape, generator=draw) * body.config.get("initializer_range", 0.02))
        elif len(shape) == 1 and axis == "hidden" and not body.writes(name):
            new.fill_(body.unit)
        return torch.cat([tensor, new], dim)

    return body.resized(axis, size, pad)


def _wide_norms(body: Body, share: float) -> Body:
    """The norms over a stream of which only this share of channels is not 0, as they were over that share alone."""
    root = share**0.5
    tied = bool(body.config.get("tie_word_embeddings"))

    def norm(tensor: Tensor) -> Tensor:
        return (tensor + (1 - body.unit)) * root - (1 - body.unit)

    def is_norm(name: str) -> bool:
        return body.axes[name] == ("hidden",) and not name.endswith(".bias")

    outer = {name: norm(tensor) if is_norm(name) else tensor for name, tensor in body.outer.items()}
    if body.scaled:
        # The embedding's factor, the root of the width, has grown; a head that is the embedding shrinks with it, which the last norm makes good.
        first = next(iter(body.outer))
        outer[first] = outer[first] * root
        if tied:
            outer = {name: body.outer[name] if is_norm(name) else tensor for name, tensor in outer.items()}
    blocks = tuple({name: norm(t) if is_norm(name) else t for name, t in block.items()} for block in body.blocks)
    return replace(body, config={**body.config, "rms_norm_eps": body.config["rms_norm_eps"] * share}, outer=outer, blocks=blocks)
