"""Losses of whole distributions without [tokens, vocabulary]: logits come into being for some tokens at a time, inside of the loss.

An objective that says `by_token = True` promises that its loss at a token depends on what is known at that token alone. It reads "logits" (and those
of other roles) like any signal, but is called for one chunk of scored tokens after the other: the engine kept only the states that the output layers
read, so memory does not grow with the vocabulary times the tokens, and the logits of a chunk are computed again in the backward pass. Parts that are
compared token by token have as many scored tokens, in the same order.

Where weights lie in pieces on several processes, an output layer cannot be called outside of its own forward pass: there the logits are whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tempering import fused
from tempering.models.heads import body_and_head
from tempering.signals import STATE, Engine, Live, entered, owner
from tempering.types import Batch, Context, Objective, Parts, Signals


def needs(terms: Iterable[Objective], engine: Engine) -> Mapping[str, frozenset[str]]:
    """What the engine is to compute for the terms of an objective: states in the place of logits that a term takes late."""
    found: dict[str, frozenset[str]] = {}
    for term in terms:
        for part, names in term.needs.items():
            late = {_state(name) if _is_late(term, name, engine) else name for name in names}
            found[part] = found.get(part, frozenset()) | late
    return found


def losses(term: Objective, parts: Parts, signals: Signals, ctx: Context, roles: Mapping[str, Live], engine: Engine) -> Tensor:
    """`term(parts, signals, ctx)`, some tokens at a time where it takes its logits late."""
    late = {(part, name) for part, names in term.needs.items() for name in names if _is_late(term, name, engine)}
    if not late:
        return term(parts, signals, ctx)
    rows = {part: (parts[part].weight_T != 0).nonzero().squeeze(-1) for part in term.needs}
    count = len(rows[term.part])
    if any(len(rows_N) != count for rows_N in rows.values()):
        raise ValueError(f"{type(term).__name__}: its parts have {[len(r) for r in rows.values()]} scored tokens; it compares them one by one")
    told: set[int] = set()

    def chunk(start: int, size: int) -> Tensor:
        here = {part: rows_N[start : start + size] for part, rows_N in rows.items()}
        some = {part: _tokens(parts[part], here_N) for part, here_N in here.items()}
        given = {part: {name: _read(part, name, here_N) for name in term.needs[part]} for part, here_N in here.items()}
        # The backward pass comes by here again, and what is logged counts once.
        log = ctx.log if start not in told else _silent
        told.add(start)
        return term(some, {part: _cut(values) for part, values in given.items()}, replace(ctx, log=log))

    def _read(part: str, name: str, here_N: Tensor) -> Tensor:
        if (part, name) in late:
            return _logits(roles, owner(name)[0], signals[part][_state(name)].index_select(0, here_N), engine)
        value = signals[part][name]
        return value.index_select(0, here_N) if value.shape[0] == parts[part].num_tokens else value

    with torch.no_grad():
        width = sum(_logits(roles, owner(name)[0], signals[part][_state(name)][:1], engine).shape[-1] for part, name in late)
    size = max(1, fused.CHUNK_ELEMENTS // (2 * width))
    run: Callable[..., Any] = (lambda *a: checkpoint(chunk, *a, use_reentrant=False)) if torch.is_grad_enabled() else chunk
    pieces = [run(start, size) for start in range(0, count, size)]
    # Every state takes part, with a zero where nothing is scored.
    zeros_T = torch.zeros(parts[term.part].num_tokens, device=parts[term.part].ids_T.device)
    zeros_T = zeros_T + sum(0.0 * signals[part][_state(name)].sum() for part, name in late)
    return zeros_T.index_copy(0, rows[term.part], torch.cat(pieces).to(zeros_T.dtype)) if pieces else zeros_T


def _is_late(term: Objective, name: str, engine: Engine) -> bool:
    return term.by_token and term.couples == "none" and engine.late and owner(name)[1] == "logits"


def _state(name: str) -> str:
    return name.removesuffix("logits") + STATE


def _silent(**values: Tensor) -> None:
    pass


def _tokens(batch: Batch, here_N: Tensor) -> Batch:
    """Some tokens of a batch; all of its segments stay."""
    extras = {name: x.index_select(0, here_N) if x.shape[0] == batch.num_tokens else x for name, x in batch.extras.items()}
    return Batch(batch.ids_T[here_N], batch.segment_T[here_N], batch.weight_T[here_N], batch.group_S, extras)


def _logits(roles: Mapping[str, Live], role: str, state_ND: Tensor, engine: Engine) -> Tensor:
    with ExitStack() as stack:
        model = stack.enter_context(entered(roles, role))
        stack.enter_context(engine.autocast())
        split = body_and_head(model)
        return (split.head if split is not None else nn.Identity())(state_ND).float()


def _cut(values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Logits of one part as wide as the narrowest: what stands beyond is the filling of a larger output layer, and no token."""
    width = min((x.shape[-1] for name, x in values.items() if owner(name)[1] == "logits"), default=0)
    return {name: x[..., :width] if owner(name)[1] == "logits" else x for name, x in values.items()}
