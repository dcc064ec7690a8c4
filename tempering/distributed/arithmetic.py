"""What a sharded run needs of each GPU: bytes held and bytes sent, from the sizes of a model. docs/scaling.md is made from this.

The state is what `fit` keeps (float32 weights, gradients and two Adam moments for what trains) cut into N pieces. The rest is whole: one block's
weights while it computes, the next one's on their way, its gradient before and while it is summed; embeddings and head, in float32; and activations,
of which only each block's input is kept where they are recomputed (`--checkpointing`).
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama-like model."""

    layers: int
    width: int
    inner: int
    key_width: int
    """Width of all key heads together."""
    vocabulary: int
    tied: bool
    """Whether the output layer is the embedding."""

    @property
    def block(self) -> int:
        """Parameters of one block: query and output, key and value, the gated MLP, two norms."""
        return 2 * self.width**2 + 2 * self.width * self.key_width + 3 * self.width * self.inner + 2 * self.width

    @property
    def root(self) -> int:
        """Parameters outside of the blocks: embedding, output layer, last norm."""
        return (1 if self.tied else 2) * self.vocabulary * self.width + self.width

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.layers * self.block + self.root


@dataclass(frozen=True)
class Need:
    """Bytes of one GPU."""

    state: float
    """Its piece of weights, gradients and moments."""
    gathered: float
    """Weights and gradients that are whole for a while."""
    activations: float
    """Of one micro-batch, recomputed block by block."""
    sent: float
    """For one micro-batch: two gathers of all weights and, of what trains, one sum of gradients."""

    @property
    def memory(self) -> float:
        """All that is held at the peak."""
        return self.state + self.gathered + self.activations


def need(shape: Shape, gpus: int, tokens: int, trained: int | None = None) -> Need:
    """What one of `gpus` needs, with matmuls in bfloat16.

    Args:
        tokens: of one micro-batch on one GPU.
        trained: parameters that train; None trains all. An adapter's are counted as part of the model's.
    """
    all_of_it = shape.parameters
    moving = all_of_it if trained is None else trained
    low, full = 2, 4
    state = (full * all_of_it + (full + 2 * full) * moving) / gpus
    whole = (2 * low * shape.block + full * shape.root) if gpus > 1 else 0
    # A block's gradient as autograd leaves it, and in float32 while it is summed; the root's in float32.
    share = moving / all_of_it
    gradients = share * ((low + full) * shape.block + full * shape.root) if gpus > 1 else 0
    # The float32 input of every block, and inside of one block: norms, queries to outputs, and three widths of the MLP, in bfloat16 and once more as
    # gradients.
    inside = 2 * low * (4 * shape.width + 2 * shape.key_width + 3 * shape.inner)
    activations = tokens * (full * shape.layers * shape.width + inside)
    others = (gpus - 1) / gpus
    gather = low * shape.layers * shape.block + full * shape.root
    sent = others * (2 * gather + full * moving)
    return Need(state, whole + gradients, activations, sent)
