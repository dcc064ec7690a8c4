"""Toy models and rows for tests: a random two-layer Llama and random ragged rows, all by seed."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tempering.types import Row, Segment

VOCAB = 61


def toy_llama(seed: int = 0, hidden: int = 32, layers: int = 2) -> LlamaForCausalLM:
    """A random float32 Llama with a vocabulary of 61 and spread-out logits."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.1,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def toy_segment(rng: np.random.Generator, low: int = 4, high: int = 17, **extras: float) -> Segment:
    """Random ids; a random context of at least one token has weight 0, the rest 1."""
    n = int(rng.integers(low, high))
    weight = np.ones(n, dtype=np.float32)
    weight[: int(rng.integers(1, n - 1))] = 0
    return Segment(rng.integers(3, VOCAB, n).astype(np.int32), weight, dict(extras))


def toy_rows(num: int, parts: tuple[str, ...] = ("train",), seed: int = 0) -> list[Row]:
    """`num` rows with one random segment in every part."""
    rng = np.random.default_rng(seed)
    return [{part: (toy_segment(rng),) for part in parts} for _ in range(num)]
