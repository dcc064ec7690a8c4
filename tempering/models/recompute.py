"""Activations kept for so many tokens of a pass, whatever its length.

Micro-batches are cut to `--micro-tokens`, but a sequence is not, nor are the answers that share a prompt, so the longest of them decide what memory a
run takes. With `--recompute-over N` a pass of more than N tokens keeps only the input of its first blocks, of as many as it takes for the others to
keep no more than a pass of N tokens does, and computes those blocks again when the backward pass comes to them. Same operations on the same numbers:
same bits.

The first blocks, because a backward pass begins with the last: by the time that one is computed again, others have let go of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def _uncached() -> Iterator[None]:
    """Autocast keeps its copies of weights in half precision until it ends; what is computed again makes them again, so nobody would read them."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return _uncached(), nullcontext()


HOW: dict[str, Any] = {"use_reentrant": False, "context_fn": _contexts}
"""How `torch.utils.checkpoint` is asked for a block."""


def recomputed(blocks: int, tokens: int, kept: int) -> int:
    """How many of the blocks a pass computes again: the least that leaves the others with the activations of `kept` tokens in all blocks.

    Args:
        tokens: of the pass.
        kept: tokens whose activations may be kept; 0 keeps all.
    """
    return -(-blocks * (tokens - kept) // tokens) if 0 < kept < tokens else 0


def blocks(model: nn.Module) -> list[nn.Module]:
    """Blocks of a transformers model that can be computed again, in the order of the forward pass."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextmanager
def recomputing(model: nn.Module, tokens: int, kept: int) -> Iterator[None]:
    """Around one forward pass of so many tokens, see `recomputed`. Blocks that are computed again anyway (`--checkpointing`) stay so."""
    if kept >= tokens or kept == 0 or not (torch.is_grad_enabled() and model.training):
        yield
        return
    every = blocks(model)
    again = [block for block in every[: recomputed(len(every), tokens, kept)] if not block.gradient_checkpointing]
    for block in again:
        block._gradient_checkpointing_func = partial(checkpoint, **HOW)  # type: ignore[assignment]
        block.gradient_checkpointing = True  # type: ignore[assignment]
    try:
        yield
    finally:
        for block in again:
            del block.gradient_checkpointing, block._gradient_checkpointing_func
