"""Keys and values in preallocated slots, and the attention that reads them.

A request has a slot: a stretch of memory for its keys and values in every layer, allocated ahead and grown in blocks, so that a step writes one token
a row and copies nothing. All tokens of a pass, of however many requests and whatever lengths, stand in one row of ids; linear layers see no padding.
Attention is then of two kinds: a row with one new token against all it has seen (decoding), and a run of new tokens against itself and what stands
before it (a prompt). Rows whose slots are neighbours and whose lengths are alike form a *span* and share one batched product.

Decoding with grouped queries is a product of [length, head] by [head, group] for each key-value head. Written in this order (keys first), it runs 2.8
times faster in bfloat16 than queries first, and twice as fast as scaled_dot_product_attention, which also copies the keys where heads are grouped
(one AVX-512 core, 64 rows of 200 tokens, 3 key-value heads of 64, a layer: 0.50 + 0.45 ms for the two products; 1.38 + 0.45; 2.28; grouped 9.3).

A slot's keys may be copied from another slot inside the same pass, layer by layer: requests with a common beginning compute it once.

Shapes: T new tokens of all rows, S slots, K key-value heads, G query heads of each, L tokens so far, D head size, N rows of a span.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

NAME = "tempering_slots"
"""What the attention is called in a transformers config."""
BLOCK = 64
"""Tokens by which slots grow; whole strides."""
STRIDE = 32
"""Spans read whole strides of tokens: every new shape costs oneDNN half a millisecond of code generation, and lengths change at every step."""
SPAN_COST = 1500
"""What one more span costs, in tokens read: a dozen small kernels, about 120 microseconds."""


@dataclass(frozen=True)
class Span:
    """Rows with one new token each, in neighbouring slots: tokens `first`.. of the pass, slots `slot`.., `lengths` with the new token."""

    first: int
    slot: int
    lengths: tuple[int, ...]

    @property
    def width(self) -> int:
        """Tokens read of each slot."""
        return strides(max(self.lengths))


@dataclass(frozen=True)
class Run:
    """A row with several new tokens: tokens `first` to `first + count` of the pass, behind `start` tokens that stand in the slot already."""

    first: int
    count: int
    slot: int
    start: int


@dataclass
class Plan:
    """What one pass does, for all layers. `copies` are (from slot, to slot, tokens), in order, made once the pass's own keys are written."""

    ids_T: Tensor
    position_T: Tensor
    slot_T: Tensor
    spans: Sequence[Span]
    runs: Sequence[Run]
    copies: Sequence[tuple[int, int, int]] = ()
    _masks: dict[tuple[int, int | None, torch.dtype], Tensor | None] = field(default_factory=dict)

    def span_mask(self, span: Span, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Added to the scores [N, K, L, G]: -inf past a row's length and before its window; None where nothing is hidden."""
        key = (span.first, window, dtype)
        if key not in self._masks:
            device = self.ids_T.device
            at_L, length_N1 = torch.arange(span.width, device=device), torch.tensor(span.lengths, device=device)[:, None]
            hidden_NL = at_L >= length_N1 if window is None else (at_L >= length_N1) | (at_L < length_N1 - window)
            found = torch.zeros(hidden_NL.shape, dtype=dtype, device=device).masked_fill(hidden_NL, -torch.inf)[:, None, :, None]
            self._masks[key] = found if bool(hidden_NL.any()) else None
        return self._masks[key]


def strides(length: int) -> int:
    """Tokens that are read of a row of this length."""
    return -(-length // STRIDE) * STRIDE


def cut(slots: Sequence[int], lengths: Sequence[int]) -> tuple[float, list[tuple[int, int]]]:
    """Rows, ordered by slot, into spans [start, end) of neighbouring slots, the cheapest way; with what it costs, in tokens read."""
    best, before = [0.0] + [torch.inf] * len(slots), [0] * (len(slots) + 1)
    for end in range(1, len(slots) + 1):
        longest = 0
        # more rows in one product gain nothing, and the search stays linear
        for start in range(end - 1, max(-1, end - 129), -1):
            if start + 1 < end and slots[start] + 1 != slots[start + 1]:
                break
            longest = max(longest, lengths[start])
            cost = best[start] + SPAN_COST + (end - start) * strides(longest)
            if cost < best[end]:
                best[end], before[end] = cost, start
    spans, end = list[tuple[int, int]](), len(slots)
    while end:
        spans.append((before[end], end))
        end = before[end]
    return best[-1], spans[::-1]


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, [S, K, capacity, D] each."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing yet: how many slots there are is the cache's business, see `fit`."""

    def fit(self, slots: int, capacity: int, key: Tensor, value: Tensor) -> None:
        """Makes room, of the kind of `key` and `value` [1, K, T, D], keeping what is there."""
        old = (self.keys, self.values) if self.is_initialized else (None, None)
        self.keys, self.values = (_grown(x, slots, capacity, like) for x, like in zip(old, (key, value), strict=True))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Only a `SlotCache` knows where tokens belong."""
        raise NotImplementedError

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """No mask is made for this attention."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Rows have lengths, the layer has none."""
        return 0

    def get_max_length(self) -> int:
        """Slots grow."""
        return -1


def _grown(old: Tensor | None, slots: int, capacity: int, like: Tensor) -> Tensor:
    # zeros, not empty: what is masked still takes part in a product, and 0 times a leftover NaN is NaN
    new = torch.zeros((slots, like.shape[1], capacity, like.shape[3]), dtype=like.dtype, device=like.device)
    if old is not None:
        new[: old.shape[0], :, : old.shape[2]] = old
    return new


class SlotCache(Cache):
    """A transformers cache whose rows are slots of different lengths; `plan` says where the tokens of the pass in progress belong."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=SlotLayer)
        self.slots = 0
        self.capacity = 0
        self.plan: Plan | None = None

    def reserve(self, slots: int, tokens: int, most: int) -> None:
        """Room for `tokens` tokens in each of `slots` slots; in blocks, by half as much again, but not for more than `most` tokens."""
        self.slots = max(self.slots, slots)
        if tokens > self.capacity:
            wanted = max(tokens, min(most, self.capacity * 3 // 2))
            self.capacity = -(-wanted // BLOCK) * BLOCK

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes the pass's keys and values [1, K, T, D], makes its copies, and returns the layer's whole [S, K, capacity, D]."""
        plan = self.plan
        assert plan is not None, "a SlotCache is used inside `running`"
        while len(self.layers) <= layer_idx:
            self.layers.append(SlotLayer())
        layer: Any = self.layers[layer_idx]
        if not layer.is_initialized or layer.keys.shape[0] < self.slots or layer.keys.shape[2] < self.capacity:
            layer.fit(self.slots, self.capacity, key_states, value_states)
        for stored, new in ((layer.keys, key_states), (layer.values, value_states)):
            stored[plan.slot_T, :, plan.position_T] = new[0].transpose(0, 1)
            for source, target, count in plan.copies:
                stored[target, :, :count] = stored[source, :, :count]
        return layer.keys, layer.values

    def move(self, sources: Sequence[int], tokens: int) -> None:
        """Slot i takes the first `tokens` tokens of slot sources[i]; slots past the last keep what they have."""
        first = next((i for i, source in enumerate(sources) if i != source), len(sources))
        for layer in self.layers:
            for stored in (layer.keys, layer.values):
                if stored is not None and first < len(sources):
                    stored[first : len(sources), :, :tokens] = stored[list(sources[first:]), :, :tokens]


_PLAN: list[Plan] = []
"""The plan of the pass in progress, last; transformers hands an attention function its tensors only."""


@contextmanager
def running(cache: SlotCache, plan: Plan) -> Iterator[None]:
    """Inside, a model whose config names this attention reads and writes `cache` as `plan` says."""
    cache.plan = plan
    _PLAN.append(plan)
    try:
        yield
    finally:
        _PLAN.pop()
        cache.plan = None


def slot_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface over slots: query [1, K*G, T, D], key and value [S, K, capacity, D] -> [1, T, K*G, D].

    What else a model passes is ignored; whether its logits come out right all the same is found out by trying (see `passes.fits_slots`).
    """
    plan, (_, heads, tokens, size), groups = _PLAN[-1], query.shape, query.shape[1] // key.shape[1]
    query = query * (size**-0.5 if scaling is None else scaling)
    out_TKGD = query.new_empty((tokens, key.shape[1], groups, value.shape[3]))
    q_TKDG = query[0].unflatten(0, (key.shape[1], groups)).permute(2, 0, 3, 1)
    for span in plan.spans:
        where, slots = slice(span.first, span.first + len(span.lengths)), slice(span.slot, span.slot + len(span.lengths))
        k, v = (x[slots, :, : span.width].flatten(0, 1) for x in (key, value))
        scores = _capped(torch.bmm(k, q_TKDG[where].flatten(0, 1)), softcap).unflatten(0, (len(span.lengths), -1))
        mask = plan.span_mask(span, sliding_window, scores.dtype)
        probs = (scores if mask is None else scores + mask).flatten(0, 1).transpose(1, 2).softmax(-1)
        out_TKGD[where] = torch.bmm(probs, v).unflatten(0, (len(span.lengths), -1))
    for run in plan.runs:
        where = slice(run.first, run.first + run.count)
        k, v = (x[run.slot : run.slot + 1, :, : run.start + run.count] for x in (key, value))
        out = _run(query[:, :, where], k, v, groups, softcap, sliding_window)
        out_TKGD[where] = out[0].transpose(0, 1).unflatten(1, (key.shape[1], groups))
    return out_TKGD.flatten(1, 2)[None], None


def _capped(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def _run(q: Tensor, k: Tensor, v: Tensor, groups: int, softcap: float | None, window: int | None) -> Tensor:
    """Causal attention of one row's new tokens, [1, K*G, T, D] and [1, K, L, D]; the queries are scaled already."""
    count, length = q.shape[2], k.shape[2]
    k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
    if softcap is None and count == length and (window is None or window >= length):
        return scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
    at_L, at_T1 = torch.arange(length, device=q.device), torch.arange(length - count, length, device=q.device)[:, None]
    seen_TL = at_L <= at_T1 if window is None else (at_L <= at_T1) & (at_L > at_T1 - window)
    if softcap is None:
        return scaled_dot_product_attention(q, k, v, attn_mask=seen_TL, scale=1.0)
    scores = _capped(q @ k.transpose(2, 3), softcap).masked_fill(~seen_TL, -torch.inf)
    return scores.float().softmax(-1).to(v.dtype) @ v


AttentionInterface.register(NAME, slot_attention)
