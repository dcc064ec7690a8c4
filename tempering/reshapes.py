"""The type of reshapes: a model that is made larger or smaller from its weights alone. Nothing here imports torch.

A model is taken apart into blocks and what stands around them (`Body`); for each tensor it is known what its dimensions count ("hidden", "neuron",
"group"), so that a method speaks of layers, neurons and heads, not of names of an architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Axis = Literal["hidden", "neuron", "group"]
"""What a dimension counts: the width of the stream between blocks; neurons of the MLP; heads, as groups of queries with one key and value."""
Change = Callable[[str, "Tensor", int, int], "Tensor"]
"""(tensor's name, tensor, dimension, block or -1 around them) -> the tensor with another size of that dimension."""


@dataclass(frozen=True)
class Body:
    """A decoder's weights, taken apart."""

    config: Mapping[str, Any]
    """As in config.json; it goes with every change."""
    outer: Mapping[str, Tensor]
    """Embedding, last norm and, where it is not the embedding, output layer."""
    blocks: tuple[Mapping[str, Tensor], ...]
    """A block's tensors by their name in it. Blocks may share tensors, so they are never written over."""
    axes: Mapping[str, tuple[Axis | None, ...]]
    """What a tensor's dimensions count."""
    sizes: Mapping[Axis, int]
    unit: float = 1.0
    """The weight of a norm that leaves things as they are: 0 where one is added to it (Gemma)."""
    scaled: bool = False
    """Whether the embedding is multiplied by the root of the width (Gemma)."""

    def arranged(self, order: Sequence[int]) -> Body:
        """The blocks of these numbers in this order; what the config says of every layer in turn goes with them."""
        n = len(self.blocks)
        by_layer = {key: [v[i] for i in order] for key, v in self.config.items() if "layer" in key and isinstance(v, list) and len(v) == n}
        return replace(self, config={**self.config, **by_layer, "num_hidden_layers": len(order)}, blocks=tuple(self.blocks[i] for i in order))

    def writes(self, name: str) -> bool:
        """Whether a tensor of a block belongs to a projection whose output is added to the stream."""
        axes = self.axes[name.removesuffix(".bias") + ".weight" if name.endswith(".bias") else name]
        return len(axes) == 2 and axes[0] == "hidden"

    def silent(self, which: Sequence[int]) -> Body:
        """With blocks that add nothing to the stream: their output projections are 0."""
        blocks = list(self.blocks)
        for i in which:
            blocks[i] = {name: tensor.new_zeros(tensor.shape) if self.writes(name) else tensor for name, tensor in blocks[i].items()}
        return replace(self, blocks=tuple(blocks))

    def resized(self, axis: Axis, size: int, change: Change) -> Body:
        """Another width: `change` is asked for every tensor that has the axis, and the config says so."""
        config = dict(self.config)
        if axis == "neuron":
            config["intermediate_size"] = size
        elif axis == "hidden":
            config["hidden_size"] = size
        else:
            config["num_attention_heads"] = config["num_attention_heads"] // self.sizes["group"] * size
            if "num_key_value_heads" in config:
                config["num_key_value_heads"] = size
        if axis != "neuron":
            config["head_dim"] = config.get("head_dim") or self.config["hidden_size"] // self.config["num_attention_heads"]

        def changed(tensors: Mapping[str, Tensor], block: int) -> dict[str, Tensor]:
            found = dict(tensors)
            for name in tensors:
                for dim, counts in enumerate(self.axes[name]):
                    if counts == axis:
                        found[name] = change(name, found[name], dim, block)
            return found

        blocks = tuple(changed(block, i) for i, block in enumerate(self.blocks))
        return replace(self, config=config, outer=changed(self.outer, -1), blocks=blocks, sizes={**self.sizes, axis: size})

    def stride(self, tensor: Tensor, dim: int, axis: Axis) -> int:
        """How many entries of a dimension belong to one of what it counts: a group of heads has several."""
        return tensor.shape[dim] // self.sizes[axis]

    def kept(self, axis: Axis, which: Sequence[Sequence[int]]) -> Body:
        """Only these of an axis, in this order: for each block its own; of "hidden" all the same."""

        def pick(name: str, tensor: Tensor, dim: int, block: int) -> Tensor:
            stride = self.stride(tensor, dim, axis)
            entries = [i * stride + j for i in which[block] for j in range(stride)]
            return tensor[entries] if dim == 0 else tensor[:, entries]

        return self.resized(axis, len(which[0]), pick)


@dataclass(frozen=True)
class Seen:
    """What went through a model on some rows: what importance is judged by."""

    inputs: tuple[Mapping[str, Tensor], ...]
    """Block by block, a linear layer's name -> the norm of each of its inputs over all tokens [in], float64."""
    stream: Tensor
    """The norm of each channel of the stream behind the blocks' norms, over all tokens and norms [hidden]."""
    turned: tuple[float, ...]
    """Block influence: 1 - the mean cosine of what goes in and what comes out."""


class Reshape(Protocol):
    """Weights to weights. Frozen dataclasses under methods/reshapes, whose fields are settings."""

    preserves: ClassVar[bool]
    """Whether the new model computes what the old one did; it is then tried."""
    looks: ClassVar[bool]
    """Whether it wants to see what goes through the model on some rows."""

    def __call__(self, body: Body, seen: Seen | None) -> Body: ...
