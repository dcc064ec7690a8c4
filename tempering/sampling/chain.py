"""What a policy needs while it decodes: its models by role, the decode chain over their logits, what ends a turn, how long a sequence may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tempering.errors import UserError
from tempering.models.tokens import end_of_turn
from tempering.types import Policy

PAD = -1
"""What a decode sees in place of left padding."""


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """No gradient and eval mode inside; every submodule's own mode is put back after (frozen parts may have been in eval mode on purpose)."""
    training = [module for model in models for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def models_of(policy: Policy) -> dict[str, nn.Module]:
    """The models that the decode chain needs, by role; "policy" is first. Raises `UserError` when the policy lacks a role a decode asks for."""
    models: dict[str, nn.Module] = {"policy": policy.model}
    for decode in policy.decode:
        for role in decode.roles:
            if role != "policy" and role not in policy.roles:
                have = ", ".join(sorted(policy.roles)) or "none"
                raise UserError(f"{type(decode).__name__} asks for the logits of role '{role}', the policy has {have}: pass it in Policy(roles=...)")
            if role != "policy":
                models[role] = policy.roles[role]
    return models


def apply_decode(policy: Policy, tokens_RL: Tensor, logits: Mapping[str, Tensor]) -> Tensor:
    """Runs the chain: role -> [R, V] float32 logits in, the policy's final logits [R, V] out. Each decode sees its predecessor's as "policy"."""
    if any(x.shape != logits["policy"].shape for x in logits.values()):
        sizes = ", ".join(f"{role} {x.shape[-1]}" for role, x in logits.items())
        raise UserError(f"the decode chain mixes vocabularies of different sizes ({sizes}): use models that share a tokenizer")
    out = logits["policy"]
    for decode in policy.decode:
        out = decode(tokens_RL, {**logits, "policy": out})
    return out


def stop_ids(policy: Policy) -> frozenset[int]:
    """Ids that end a turn: the tokenizer's eos, the generation config's, and what the chat template writes after an assistant's answer."""
    found: set[int] = set()
    config_ids = getattr(getattr(policy.model, "generation_config", None), "eos_token_id", None)
    found.update(config_ids if isinstance(config_ids, (list, tuple)) else [config_ids] if config_ids is not None else [])
    tokenizer = policy.tokenizer
    if tokenizer is not None and tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    turn_end = end_of_turn(tokenizer)[0] if tokenizer is not None else None
    if turn_end is not None:
        found.add(turn_end)
    return frozenset(found)


def pad_left(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Tensor:
    """Rows of ids to [R, L] int64, padded on the left with `PAD`."""
    length = max(len(row) for row in rows)
    return torch.tensor([[PAD] * (length - len(row)) + list(row) for row in rows], device=device)


def config_of(model: nn.Module) -> Any:
    """The model's transformers config; torch types every attribute of a module as a tensor or a module."""
    return model.config


def max_positions(models: Mapping[str, nn.Module]) -> int | None:
    """The smallest number of positions that the models' configs state; None where none does."""
    limits = [getattr(config_of(model).get_text_config(), "max_position_embeddings", None) for model in models.values()]
    return min((limit for limit in limits if limit), default=None)


def vocabulary_size(models: Mapping[str, nn.Module]) -> int:
    """The smallest vocabulary among the models."""
    return min(config_of(model).get_text_config().vocab_size for model in models.values())
