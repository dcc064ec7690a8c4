"""Tiny random models of several families, each with what makes it special: windows, soft-capped logits, norms on queries and keys, partial rotary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

VOCAB = 41
WINDOW = 5
"""Tokens that a layer with a sliding window sees: fewer than most segments have."""

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED: dict[str, Any] = {"num_key_value_heads": 1, "head_dim": 8}

FAMILIES: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_SIZES, **_GROUPED, tie_word_embeddings=False),
    "qwen2": lambda: Qwen2Config(**_SIZES, num_key_value_heads=1, tie_word_embeddings=True),
    "qwen2-window": lambda: Qwen2Config(**_SIZES, num_key_value_heads=1, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "qwen3": lambda: Qwen3Config(**_SIZES, **_GROUPED),
    "gemma2": lambda: Gemma2Config(
        **_SIZES, **_GROUPED, sliding_window=WINDOW, attn_logit_softcapping=4.0, final_logit_softcapping=3.0, query_pre_attn_scalar=8
    ),
    "gemma3": lambda: Gemma3TextConfig(**_SIZES, **_GROUPED, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"]),
    "gpt-neox": lambda: GPTNeoXConfig(**_SIZES, rotary_pct=0.5, use_parallel_residual=True),
    "mistral": lambda: MistralConfig(**_SIZES, **_GROUPED, sliding_window=WINDOW),
}


def family(name: str, seed: int = 0) -> PreTrainedModel:
    """A float32 model in evaluation mode, the same for the same seed."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(FAMILIES[name]()).eval()
