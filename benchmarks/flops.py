"""The floating-point operations that a piece of work cannot do without, from the model's config and the lengths of its sequences.

Counted are matrix products alone, two operations for a multiplication with its addition: linear layers on every token, attention on every causal pair
of positions in one segment, the output head on scored tokens only. Norms, activations, softmax, casts and the optimizer are left out, so the ideal
time is a bound from below and a share of it is never flattered. A backward pass costs one product for the gradient of the input and one for that of
the weight; attention's costs twice its forward. Nothing is counted for recomputing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder with gated feed-forward layers (Llama's kind)."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @staticmethod
    def of(config: Any) -> Shape:
        """From a transformers config."""
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return Shape(
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            dim,
            config.vocab_size,
        )

    @property
    def matrices(self) -> tuple[tuple[str, int, int], ...]:
        """(name, inputs, outputs) of each linear layer of one block."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return (
            ("q", self.hidden, query),
            ("k", self.hidden, key),
            ("v", self.hidden, key),
            ("o", query, self.hidden),
            ("gate", self.hidden, self.inner),
            ("up", self.hidden, self.inner),
            ("down", self.inner, self.hidden),
        )

    @property
    def linear(self) -> int:
        """Weights of all linear layers in the blocks."""
        return self.layers * sum(i * o for _, i, o in self.matrices)

    @property
    def head(self) -> int:
        """Weights of the output layer."""
        return self.hidden * self.vocabulary

    def adapter(self, r: int) -> int:
        """Weights of rank-`r` adapters on all linear layers of the blocks."""
        return self.layers * sum(r * (i + o) for _, i, o in self.matrices)


SMOLLM2 = Shape(layers=30, hidden=576, inner=1536, heads=9, kv_heads=3, head_dim=64, vocabulary=49152)
"""SmolLM2-135M, the model of the benchmarks."""


@dataclass(frozen=True)
class Work:
    """What a pass has to touch: tokens through the layers, causal pairs of positions in attention, tokens at the head."""

    tokens: int = 0
    pairs: int = 0
    scored: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.pairs + other.pairs, self.scored + other.scored)


def segments(lengths: Iterable[int], scored: int) -> Work:
    """Sequences that share nothing."""
    lengths = list(lengths)
    return Work(sum(lengths), sum(n * (n + 1) // 2 for n in lengths), scored)


def shared(prefix: int, branches: Sequence[int], scored: int) -> Work:
    """One prefix and its continuations: the prefix goes through the layers once, every branch attends to it and to itself."""
    pairs = prefix * (prefix + 1) // 2 + sum(n * prefix + n * (n + 1) // 2 for n in branches)
    return Work(prefix + sum(branches), pairs, scored)


@dataclass(frozen=True)
class Flops:
    """Operations by the kind of product, because their speeds differ."""

    linear: float = 0.0
    attention: float = 0.0
    head: float = 0.0

    @property
    def total(self) -> float:
        return self.linear + self.attention + self.head

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.linear + other.linear, self.attention + other.attention, self.head + other.head)

    def __mul__(self, times: float) -> Flops:
        return Flops(self.linear * times, self.attention * times, self.head * times)


def forward(shape: Shape, work: Work) -> Flops:
    """One pass without gradient: a reference, a teacher, a prompt's prefill."""
    attention = 4 * shape.heads * shape.head_dim * shape.layers * work.pairs
    return Flops(2 * shape.linear * work.tokens, attention, 2 * shape.head * work.scored)


def full(shape: Shape, work: Work) -> Flops:
    """Forward and backward with every weight trained."""
    return forward(shape, work) * 3


def lora(shape: Shape, work: Work, r: int) -> Flops:
    """Forward and backward with adapters on all linear layers: the frozen weights' own gradients are never computed."""
    plain = forward(shape, work)
    return Flops(2 * plain.linear + 6 * shape.adapter(r) * work.tokens, 3 * plain.attention, 2 * plain.head)


def sample(shape: Shape, prompts: Sequence[int], new: Sequence[int], samples: int = 1) -> tuple[Flops, Flops]:
    """(prefill, decoding) of `samples` continuations each, prompts computed once; `new` has the new tokens of each prompt's every sample, in order.

    The last new token is never fed back, and the first comes out of the prefill.
    """
    prefill = Work(sum(prompts), sum(n * (n + 1) // 2 for n in prompts), len(prompts))
    decode = Work()
    for i, made in enumerate(new):
        fed, prompt = max(0, made - 1), prompts[i // samples]
        decode += Work(fed, fed * prompt + fed * (fed + 1) // 2, fed)
    return forward(shape, prefill), forward(shape, decode)
