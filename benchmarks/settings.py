"""What the contenders share: rates, clipping, sizes; the reward of the on-policy step."""

from __future__ import annotations

LR, LR_LORA, LR_DPO, LR_POLICY = 5e-5, 2e-4, 5e-6, 1e-6
"""Constant learning rates of AdamW without weight decay, by kind of work."""
CLIP = 1.0
"""Largest global norm of the gradient."""
RANK = 16
"""Of adapters; alpha is twice it, on all linear layers, no dropout."""
SAMPLES = 8
"""Of each prompt in the on-policy step."""


def reward(text: str) -> float:
    """The share of a text's characters that are vowels: cheap, and different between samples of one prompt."""
    return sum(c in "aeiou" for c in text) / max(1, len(text))
