"""One forward pass over rows of unequal length, for one model.

`Slots` runs all rows at once through any transformers causal model whose attention can be replaced (see cache.py). Whether that gives the model's own
logits is found out by trying, once for each model. `Alone` is for the others: row by row, with the model's own cache, or, if it has none that works,
over the whole sequence at every step. It is also the plain twin that tests compare with.

Shapes: T new tokens of all rows, N positions asked for, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from tempering.models.heads import body_and_head
from tempering.sampling.cache import NAME, Plan, Run, SlotCache, running
from tempering.sampling.chain import config_of, evaluating

_SLOTS = "_tempering_slots"
_CACHES = "_tempering_caches"
_LAYER_TYPES = {"full_attention", "sliding_attention"}
_REFUSALS = (TypeError, ValueError, AttributeError, RuntimeError, KeyError, IndexError, NotImplementedError, AssertionError)


class Row(Protocol):
    """What a pass needs to know of a request in flight."""

    ticket: int
    tokens: list[int]
    """Prompt and what was sampled so far."""
    cached: int
    """How many of them earlier passes have seen, or copies of another slot stand for."""


@dataclass(frozen=True)
class States:
    """The outcome of a pass: what the head turns into logits, for its T new tokens."""

    hidden_TD: Tensor
    head: Callable[[Tensor], Tensor]

    def logits(self, at_N: Tensor) -> Tensor:
        """Logits [N, V] after the tokens at these places of the pass, in the model's precision."""
        return self.head(self.hidden_TD[at_N])


class Runner(Protocol):
    """A model that decodes."""

    def forward(self, rows: Sequence[Row], plan: Plan) -> States:
        """Feeds every row's tokens that are new, in the order of the rows."""
        ...

    def release(self, ticket: int) -> None:
        """Forgets a row."""
        ...


class Slots:
    """All rows in one pass."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self.cache = SlotCache()
        self.split = body_and_head(model)
        self.configs = list(
            {id(c): c for m in model.modules() if isinstance(m, PreTrainedModel) for c in (m.config, m.config.get_text_config())}.values()
        )

    def forward(self, rows: Sequence[Row], plan: Plan) -> States:
        inputs = {"input_ids": plan.ids_T[None], "position_ids": plan.position_T[None], "past_key_values": self.cache, "use_cache": True}
        with self._attention(), running(self.cache, plan):
            if self.split is not None:
                return States(self.split.body(**inputs)[0], self.split.head)
            return States(self.model(**inputs).logits[0], nn.Identity())

    def release(self, ticket: int) -> None:
        """Slots are given and taken by the decoder."""

    @contextmanager
    def _attention(self) -> Iterator[None]:
        before = [config._attn_implementation_internal for config in self.configs]
        for config in self.configs:
            config._attn_implementation_internal = NAME
        try:
            yield
        finally:
            for config, name in zip(self.configs, before, strict=True):
                config._attn_implementation_internal = name


class Alone:
    """Row by row."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self.cached = _once(model, _CACHES, _caches)
        self.caches: dict[int, tuple[Any, int]] = {}

    def forward(self, rows: Sequence[Row], plan: Plan) -> States:
        return States(torch.cat([self._row(row, plan.ids_T.device)[row.cached - len(row.tokens) :] for row in rows]), nn.Identity())

    def _row(self, row: Row, device: torch.device) -> Tensor:
        """Logits of at least the row's new tokens, [.., V]."""
        ids = torch.tensor([row.tokens], device=device)
        if not self.cached:
            return _logits(self.model(input_ids=ids, use_cache=False))
        cache, seen = self.caches.get(row.ticket, (None, 0))
        cache = cache if cache is not None else DynamicCache(config=config_of(self.model))
        self.caches[row.ticket] = cache, len(row.tokens)
        return _logits(self.model(input_ids=ids[:, seen:], past_key_values=cache, use_cache=True))

    def release(self, ticket: int) -> None:
        self.caches.pop(ticket, None)


def runner_for(model: nn.Module) -> Runner:
    """The fastest way that gives the model's own logits."""
    return Slots(model) if fits_slots(model) else Alone(model)


def fits_slots(model: nn.Module) -> bool:
    """Whether the model's logits from slots are its own: prompts, decoding, and a shared beginning. Cheap after the first call for a model."""
    return _once(model, _SLOTS, _slots_agree)


def carry(model: nn.Module, twin: nn.Module) -> None:
    """What was found out about a model holds for a copy of it too."""
    twin.__dict__.update({name: model.__dict__[name] for name in (_SLOTS, _CACHES) if name in model.__dict__})


def _once(model: nn.Module, name: str, check: Callable[[nn.Module], bool]) -> bool:
    # kept on the model, as `models.heads` keeps its verdicts: a copy for decoding has them too
    if name not in model.__dict__:
        with evaluating(model), torch.autocast(next(model.parameters()).device.type, enabled=False):
            try:
                model.__dict__[name] = check(model)
            except _REFUSALS:
                model.__dict__[name] = False
    return model.__dict__[name]


def _logits(out: Any) -> Tensor:
    return out.logits[0]


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether two sets of logits are the same but for rounding."""
    gap = (a.float() - b.float()).abs()
    if a.dtype in (torch.float32, torch.float64):
        return bool((gap.max() <= 1e-4 * a.abs().max().clamp(min=1.0)).item())
    # In half precision the two take different kernels, and a few tokens may be far off; a wrong attention is off everywhere by the logits' own size.
    return bool((gap.median() <= 0.1 * a.float().std()).item())


def _caches(model: nn.Module) -> bool:
    ids = torch.arange(3, 12, device=next(model.parameters()).device)[None]
    cache, causal = DynamicCache(config=config_of(model)), model
    first = _logits(causal(input_ids=ids[:, :8], past_key_values=cache, use_cache=True))
    then = _logits(causal(input_ids=ids[:, 8:], past_key_values=cache, use_cache=True))
    return _close(_logits(causal(input_ids=ids, use_cache=False)), torch.cat([first, then]))


def _slots_agree(model: nn.Module) -> bool:
    config = config_of(model).get_text_config()
    if not set(getattr(config, "layer_types", None) or ()) <= _LAYER_TYPES:
        return False
    window = getattr(config, "sliding_window", None) or 0
    vocabulary, device = config.vocab_size, next(model.parameters()).device
    # long enough to leave a short window; a window of thousands is taken on trust, as the attention is told of it
    long, short = ([(1000 + seed + 7919 * i) % vocabulary for i in range(n)] for seed, n in ((1, window + 4 if 0 < window <= 64 else 9), (2, 4)))
    third = long[:5] + [(1003 + 7919 * i) % vocabulary for i in range(3)]
    slots = Slots(model)
    slots.cache.reserve(3, len(long) + 1)

    def plan(
        pieces: Sequence[tuple[list[int], int, int]], lengths: Sequence[int], runs: Sequence[Run], copies: Sequence[tuple[int, int, int]]
    ) -> Plan:
        flat = [(t, start + i, slot) for tokens, slot, start in pieces for i, t in enumerate(tokens)]
        ids, positions, where = zip(*flat, strict=True)
        return Plan(ids, positions, where, lengths, runs, copies, device)

    prompts = plan([(long[:-1], 0, 0), (short[:-1], 1, 0)], [], [Run(0, len(long) - 1, 0, 0), Run(len(long) - 1, 3, 1, 0)], [])
    slots.forward([], prompts)
    pieces = [(long[-1:], 0, len(long) - 1), (short[-1:], 1, 3), (third[5:], 2, 5)]
    states = slots.forward([], plan(pieces, [len(long), 4], [Run(2, 3, 2, 5)], [(0, 2, 5)]))
    have = states.head(states.hidden_TD)
    want = [_logits(model(input_ids=torch.tensor([ids], device=device), use_cache=False)) for ids in (long, short, third)]
    return all(_close(*pair) for pair in ((want[0][-1:], have[:1]), (want[1][-1:], have[1:2]), (want[2][5:], have[2:])))
