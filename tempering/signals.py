"""Models and parts -> the named tensors that objectives ask for, each computed once.

The engine takes the union of what all objectives need, runs each role once per part, and scores only the tokens that carry weight: hidden states of
the other positions never meet the output head, and the [tokens, vocabulary] logits exist for one chunk at a time (recomputed in the backward pass).
Signals are exactly 0 outside the mask. Log-probs are float32 whatever the matmuls are.

A signal is taken, in this order, from a column of the batch (cached "reference.logp"), from a role of that name, or, for "reference", from the
policy with its scope switched off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tempering.config import Training
from tempering.layout import LayoutKind, arrange
from tempering.models.heads import body_and_head, packs
from tempering.models.value import ValueModel
from tempering.types import Batch, Handle, Parts, Role, Signals

CHUNK = 1024
"""Scored tokens whose logits exist at the same time."""

FROM_HEAD = frozenset({"logp", "entropy", "logsumexp", "logits"})
KNOWN = FROM_HEAD | {"value"}


@dataclass(frozen=True)
class Engine:
    """How forward passes are run. Nothing here changes a result beyond rounding.

    `layout` rows of one segment ("padded") or several ("packed"); `dtype` bfloat16 runs matmuls under autocast; `run` does something with a model
    while its weights are there, which matters where they lie in pieces on several processes.
    """

    layout: LayoutKind = "packed"
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    run: Callable[[nn.Module, Callable[[], dict[str, Tensor]]], dict[str, Tensor]] = lambda model, action: action()


def engine_for(training: Training) -> Engine:
    """The engine that this machine and the settings give: a GPU if there is one; bfloat16 matmuls where "auto" finds them fast."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fast = training.precision == "bf16" or (training.precision == "auto" and fast_bf16(device))
    return Engine(training.layout, torch.bfloat16 if fast else torch.float32, device)


def fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 matmuls beat float32 ones here: a GPU that supports them, or a CPU with AVX-512 BF16 or AMX tiles."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.backends.cpu.get_cpu_capability()
    return capabilities.startswith("AVX512") and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass
class Live:
    """A role inside a run: its model with the scope attached (handle None = frozen)."""

    model: nn.Module
    handle: Handle | None = None

    @staticmethod
    def attach(role: Role) -> Live:
        if role.scope is None:
            return Live(role.model.requires_grad_(False).eval())
        handle = role.scope.attach(role.model)
        return Live(handle.model, handle)


def owner(signal: str) -> tuple[str, str]:
    """ "reference.logp" -> ("reference", "logp"); "logp" -> ("policy", "logp")."""
    role, _, name = signal.rpartition(".")
    return role or "policy", name


def compute(roles: Mapping[str, Live], parts: Parts, needs: Mapping[str, frozenset[str]], engine: Engine) -> Signals:
    """Run every role once per part and return the signals asked for.

    Args:
        roles: live models by name.
        parts: flat batches on the engine's device.
        needs: part -> signal names.

    Raises:
        ValueError: a part, a role or a signal that does not exist.
    """
    result: dict[str, dict[str, Tensor]] = {}
    for part, names in sorted(needs.items()):
        if part not in parts:
            raise ValueError(f"the objective needs part {part!r}; the stream yields {sorted(parts)}")
        batch = parts[part]
        result[part] = {name: batch.extras[name] for name in names if name in batch.extras}
        asked: dict[str, set[str]] = {}
        for name in sorted(names - result[part].keys()):
            role, signal = owner(name)
            if signal not in KNOWN:
                raise ValueError(
                    f"unknown signal {name!r}; signals are {', '.join(sorted(KNOWN))}, with a role's name and a dot in front for another role"
                )
            asked.setdefault(role, set()).add(signal)
        for role, signals in sorted(asked.items()):
            prefix = "" if role == "policy" else f"{role}."
            for signal, value in _of_role(roles, role, batch, frozenset(signals), engine).items():
                result[part][prefix + signal] = value
    return result


def _of_role(roles: Mapping[str, Live], name: str, batch: Batch, signals: frozenset[str], engine: Engine) -> dict[str, Tensor]:
    if name in roles:
        live = roles[name]
        with nullcontext() if live.handle is not None else torch.no_grad():
            return forward(live.model, batch, signals, engine)
    policy = roles["policy"]
    if name != "reference" or policy.handle is None:
        raise ValueError(f"no role {name!r} in this run; roles are {sorted(roles)}")
    with torch.no_grad(), policy.handle.off() as model:
        was_training = model.training
        model.eval()
        try:
            return forward(model, batch, signals, engine)
        finally:
            model.train(was_training)


def forward(model: nn.Module, batch: Batch, signals: frozenset[str], engine: Engine) -> dict[str, Tensor]:
    """One model on one batch: signals per token, 0 outside the mask; "logits" are [T, V]."""
    scored_N = (batch.weight_T != 0).nonzero().squeeze(-1)
    if scored_N.numel() == 0:
        # The model still takes part (with a zero): every parameter has a gradient, and no other process waits for this one's part in a sharded layer.
        nothing = sum(value.sum() for value in forward(model, _placeholder(batch.ids_T.device), signals, engine).values()) * 0.0
        zero = torch.zeros(batch.num_tokens, device=batch.ids_T.device) + nothing
        return {signal: zero for signal in signals}
    return engine.run(model, lambda: _forward(model, batch, scored_N, signals, engine))


def _placeholder(device: torch.device) -> Batch:
    """One segment of two tokens, the second scored."""
    two = torch.zeros(2, dtype=torch.long, device=device)
    return Batch(two, two, torch.tensor([0.0, 1.0], device=device), two[:1])


def _forward(model: nn.Module, batch: Batch, scored_N: Tensor, signals: frozenset[str], engine: Engine) -> dict[str, Tensor]:
    kind: LayoutKind = engine.layout if engine.layout == "padded" or packs(model) else "padded"
    layout = arrange(batch, kind)
    autocast = torch.autocast(engine.device.type, engine.dtype) if engine.dtype != torch.float32 else nullcontext()
    inputs = {"input_ids": layout.ids_RL, "position_ids": layout.position_RL, "use_cache": False}
    # Position t is predicted from the state at t - 1, which stands in the same segment because a segment's first token has no weight.
    before_N = layout.slot_T[scored_N - 1]
    target_N = batch.ids_T[scored_N]
    with autocast:
        if isinstance(model, ValueModel):
            hidden_ND = model(**inputs).flatten(0, 1)[before_N]
            found = {"value": model.value_head(hidden_ND).squeeze(-1).float()}
        elif (split := body_and_head(model)) is not None:
            hidden_ND = split.body(**inputs).flatten(0, 1)[before_N]
            found = _from_head(split.head, hidden_ND, target_N, signals)
        else:
            logits_NV = model(**inputs).logits.flatten(0, 1)[before_N]
            found = _from_head(nn.Identity(), logits_NV, target_N, signals)
    return {signal: _scatter(found[signal], scored_N, batch.num_tokens) for signal in signals}


def _scatter(value_N: Tensor, scored_N: Tensor, num_tokens: int) -> Tensor:
    return torch.zeros((num_tokens, *value_N.shape[1:]), dtype=value_N.dtype, device=value_N.device).index_copy(0, scored_N, value_N)


def _from_head(head: Any, hidden_ND: Tensor, target_N: Tensor, signals: frozenset[str]) -> dict[str, Tensor]:
    def chunk(hidden: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        logits = head(hidden).float()
        logsumexp = torch.logsumexp(logits, -1)
        entropy = logsumexp - (torch.softmax(logits, -1) * logits).sum(-1) if "entropy" in signals else logsumexp
        return (logits.gather(-1, target.unsqueeze(-1)).squeeze(-1) - logsumexp, entropy, logsumexp, *([logits] if "logits" in signals else []))

    pieces = []
    for hidden, target in zip(hidden_ND.split(CHUNK), target_N.split(CHUNK), strict=True):
        pieces.append(checkpoint(chunk, hidden, target, use_reentrant=False) if torch.is_grad_enabled() else chunk(hidden, target))
    columns = [torch.cat(column) for column in zip(*pieces, strict=True)]
    return dict(zip(("logp", "entropy", "logsumexp", "logits"), columns, strict=False))
