"""What a sharded run needs of each GPU: bytes held and bytes sent, from the sizes of a model. docs/scaling.md is made from this.

The state is what `fit` keeps (float32 weights, gradients and two Adam moments for what trains) cut into N pieces. The rest is whole: one block's
weights while it computes, the next one's on their way, its gradient before and while it is summed; embeddings and head, in float32; and activations,
of which only each block's input is kept where they are recomputed (`--checkpointing`).

Where processes side by side share each matrix (tensor parallelism), what is whole of a block is whole for its share of the block alone, and states
travel between them: two sums in the forward pass of a block, two where it is recomputed, two in the backward pass. Embeddings, head and the input of
each block are whole on every side.
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
    beside: float = 0.0
    """For one micro-batch, to the processes that share its matrices: sums of states."""

    @property
    def memory(self) -> float:
        """All that is held at the peak."""
        return self.state + self.gathered + self.activations


def need(shape: Shape, gpus: int, tokens: int, trained: int | None = None, tensor: int = 1) -> Need:
    """What one of `gpus` needs, with matmuls in bfloat16.

    Args:
        tokens: of one micro-batch on one GPU, or on `tensor` of them side by side.
        trained: parameters that train; None trains all. An adapter's are counted as part of the model's.
        tensor: how many share each matrix.
    """
    all_of_it = shape.parameters
    moving = all_of_it if trained is None else trained
    low, full = 2, 4
    state = (full * all_of_it + (full + 2 * full) * moving) / gpus
    block = shape.block / tensor
    whole = (2 * low * block + full * shape.root) if gpus > 1 else 0
    # A block's gradient as autograd leaves it, and in float32 while it is summed; the root's in float32.
    share = moving / all_of_it
    gradients = share * ((low + full) * block + full * shape.root) if gpus > 1 else 0
    # The float32 input of every block, and inside of one block: norms, queries to outputs, and three widths of the MLP, in bfloat16 and once more as
    # gradients.
    inside = 2 * low * (2 * shape.width + (2 * shape.width + 2 * shape.key_width + 3 * shape.inner) / tensor)
    activations = tokens * (full * shape.layers * shape.width + inside)
    hands = gpus // tensor
    blocks = (hands - 1) / hands * shape.layers * block * (2 * low + full * share)
    root = (gpus - 1) / gpus * full * shape.root * (2 + share)
    # Sending a sum around a ring: each of n sends 2 (n - 1) / n of it.
    beside = 6 * shape.layers * 2 * (tensor - 1) / tensor * tokens * shape.width * low
    return Need(state, whole + gradients, activations, blocks + root, beside)
