"""Keys and values in slots and pages, and the attention that reads them.

A request has a slot. The memory of a layer is a list of pages, each holding 128 successive positions of every slot: a step writes one token a row and
copies nothing, and longer rows append a page for all. All tokens of a pass, of however many requests and whatever lengths, stand in one row of ids,
so linear layers see no padding. Attention is then of two kinds: rows with one new token against all they have seen (decoding), and runs of new tokens
against themselves and what stands before them (prompts).

Decoding goes page by page over the range of slots whose rows reach that far; the longest rows stand first, so what is read is little more than what
there is. How PyTorch multiplies on processors decides the form. Queries times a whole page of keys, transposed as they lie, takes 0.26 ms in half
precision, keys times queries 0.30 and a copy; but a transposed operand whose batches do not lie end to end is copied first (96 of 128 positions:
0.64), so only values are read in part (0.25; all 0.34). Reading a page takes 0.21, scaled_dot_product_attention with the values 1.9, with grouped
heads 10 (one AVX-512 core, 64 rows of 128 tokens, 3 key-value heads of 64).

A slot may take over the beginning of another inside a pass, layer by layer: requests with a common beginning compute it once.

Shapes: T new tokens of all rows, S slots, K key-value heads, G query heads of each, D head size, N slots from the first that decodes to the last, W
positions of all pages in use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

NAME = "tempering_slots"
"""What the attention is called in a transformers config."""
PAGE = 128
"""Positions of a page."""

STRIDE = 32
"""The last page is read by strides: each new shape of a product costs oneDNN half a millisecond of code generation, and lengths change at every
step."""

Pages = list[Tensor]
"""[S, K, PAGE, D] each, in the order of positions."""


@dataclass(frozen=True)
class Run:
    """A row with several new tokens: tokens `first` to `first + count` of the pass, behind `start` tokens that stand in the slot already."""

    first: int
    count: int
    slot: int
    start: int


def page_ranges(slots: Sequence[int], lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """For each page in use the slots [low, high) between which rows reach it, and how many of its positions are read."""
    reach = [[slot for slot, length in zip(slots, lengths, strict=True) if length > at] for at in range(0, max(lengths, default=0), PAGE)]
    width = -(-(max(lengths, default=0) - PAGE * (len(reach) - 1)) // STRIDE) * STRIDE
    return [(min(page), max(page) + 1, PAGE if i + 1 < len(reach) else width) for i, page in enumerate(reach)]


class Plan:
    """What one pass does, for all layers.

    Args:
        ids, positions, slots: of each new token; rows with one new token come first.
        lengths: of the rows with one new token, that token included.
        runs: the other rows.
        copies: (from slot, to slot, tokens), in order, made once the pass's own keys are written.
    """

    def __init__(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        slots: Sequence[int],
        lengths: Sequence[int],
        runs: Sequence[Run],
        copies: Sequence[tuple[int, int, int]],
        device: torch.device,
    ) -> None:
        self.ids_T, self.position_T = torch.tensor([ids, positions], device=device)
        self.runs, self.copies = runs, copies
        self.decoding = len(lengths)
        self.writes = _writes(positions, slots, device)
        decoding = slots[: self.decoding]
        self.base, self.end = min(decoding, default=0), max(decoding, default=-1) + 1
        self.ranges = page_ranges(decoding, lengths)
        self.width = sum(width for _, _, width in self.ranges)
        whole = list(decoding) == list(range(self.base, self.end))
        self.rows = None if whole else torch.tensor(decoding, device=device) - self.base
        """Where the rows stand among the N slots; None: they are the N slots, in order."""
        # an empty slot among the rows is computed too, as if it held one token: any number will do, but not the NaN of a softmax over nothing
        self.length_N = torch.ones(self.end - self.base, dtype=torch.long, device=device)
        self.length_N[[slot - self.base for slot in decoding]] = torch.tensor(lengths, dtype=torch.long, device=device)
        self._hidden: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def hidden(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Minus infinity [N, 1, 1, W] past a row's length and before its window, 0 elsewhere."""
        if (window, dtype) not in self._hidden:
            at_W, length_N1 = torch.arange(self.width, device=self.ids_T.device), self.length_N[:, None]
            hidden_NW = at_W >= length_N1 if window is None else (at_W >= length_N1) | (at_W < length_N1 - window)
            none_NW = torch.zeros(hidden_NW.shape, dtype=dtype, device=hidden_NW.device)
            self._hidden[window, dtype] = none_NW.masked_fill_(hidden_NW, -torch.inf)[:, None, None]
        return self._hidden[window, dtype]


def _writes(positions: Sequence[int], slots: Sequence[int], device: torch.device) -> list[tuple[Any, ...]]:
    """For each page that gets new tokens: its number, which tokens of the pass, into which slots, at which place of the page."""
    by_page: dict[int, list[int]] = {}
    for t, position in enumerate(positions):
        by_page.setdefault(position // PAGE, []).append(t)
    found = list[tuple[int, slice | Tensor, Tensor, Tensor]]()
    for page, tokens in by_page.items():
        token_X, slot_X, place_X = torch.tensor([tokens, [slots[t] for t in tokens], [positions[t] % PAGE for t in tokens]], device=device)
        # neighbours in the pass are written from where they stand, without a copy
        neighbours = tokens[-1] - tokens[0] == len(tokens) - 1
        found.append((page, slice(tokens[0], tokens[-1] + 1) if neighbours else token_X, slot_X, place_X))
    return found


class SlotLayer(CacheLayerMixin):
    """One layer's pages of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: tuple[Pages, Pages] = [], []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: pages are made as they are needed, see `fit`."""

    def fit(self, slots: int, pages: int, key: Tensor, value: Tensor) -> None:
        """Makes room, of the kind of `key` and `value` [1, K, T, D], keeping what is there."""
        for stored, like in zip(self.pages, (key, value), strict=True):
            shape = (slots, like.shape[1], PAGE, like.shape[3])
            for i, page in enumerate(stored):
                if page.shape[0] < slots:
                    stored[i] = _zeros(shape, page)
                    stored[i][: page.shape[0]] = page
            stored += [_zeros(shape, like) for _ in range(pages - len(stored))]

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


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros, since what is masked still takes part in a product, and 0 times a leftover NaN is NaN. On a processor they take memory only once they
    are written to (torch's own take it at once): a page that few slots reach costs what those few keep in it."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return torch.from_numpy(np.zeros(math.prod(shape) * like.element_size(), np.uint8)).view(like.dtype).view(shape)


class SlotCache(Cache):
    """A transformers cache whose rows are slots of different lengths; `plan` says where the tokens of the pass in progress belong."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=SlotLayer)
        self.slots = 0
        self.pages = 0
        self.plan: Plan | None = None

    def reserve(self, slots: int, tokens: int) -> None:
        """Room for `tokens` tokens in each of `slots` slots."""
        self.slots, self.pages = max(self.slots, slots), max(self.pages, -(-tokens // PAGE))

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Writes the pass's keys and values [1, K, T, D], makes its copies, and returns the layer's pages for `slot_attention`."""
        plan = self.plan
        assert plan is not None, "a SlotCache is used inside `running`"
        while len(self.layers) <= layer_idx:
            self.layers.append(SlotLayer())
        layer: Any = self.layers[layer_idx]
        layer.fit(self.slots, self.pages, key_states, value_states)
        for pages, new in zip(layer.pages, (key_states, value_states), strict=True):
            new_TKD = new[0].transpose(0, 1)
            for page, token_X, slot_X, place_X in plan.writes:
                pages[page][slot_X, :, place_X] = new_TKD[token_X]
            for source, target, count in plan.copies:
                for page, at in zip(pages, range(0, count, PAGE), strict=False):
                    page[target, :, : count - at] = page[source, :, : count - at]
        return layer.pages

    def move(self, sources: Sequence[int], lengths: Sequence[int]) -> None:
        """Slot i takes the tokens of slot sources[i], which has lengths[i] of them, the longest first; slots past the last keep what they have."""
        first = next((i for i, source in enumerate(sources) if i != source), len(sources))
        for layer in self.layers:
            for pages in layer.pages if isinstance(layer, SlotLayer) else ():
                for page, at in zip(pages, range(0, lengths[0], PAGE), strict=False):
                    last = sum(length > at for length in lengths)
                    if first < last:
                        page[first:last] = page[list(sources[first:last])]


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
    key: Any,
    value: Any,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface over slots: query [1, K*G, T, D], a layer's pages of keys and values -> [1, T, K*G, D].

    What else a model passes is ignored; whether its logits come out right all the same is found out by trying (see `passes.fits_slots`).
    """
    plan, heads = _PLAN[-1], key[0].shape[1]
    query = query * (query.shape[3] ** -0.5 if scaling is None else scaling)
    pieces = [_decode(query[0, :, : plan.decoding].unflatten(0, (heads, -1)), key, value, plan, softcap, sliding_window)] if plan.decoding else []
    for run in plan.runs:
        length = run.start + run.count
        k, v = (_seen(pages, run.slot, length) for pages in (key, value))
        pieces.append(_run(query[:, :, run.first : run.first + run.count], k, v, softcap, sliding_window)[0].transpose(0, 1))
    return torch.cat(pieces)[None], None


def _seen(pages: Pages, slot: int, length: int) -> Tensor:
    """The first `length` tokens of a slot, [1, K, length, D]; where they stand in one page, a view of it."""
    parts = [page[slot] for page in pages[: -(-length // PAGE)]]
    return (parts[0] if len(parts) == 1 else torch.cat(parts, 1))[None, :, :length]


def _decode(q_KGRD: Tensor, keys: Pages, values: Pages, plan: Plan, softcap: float | None, window: int | None) -> Tensor:
    """Rows with one new token against all they have seen; [R, K*G, D]. The queries are scaled already."""
    heads = q_KGRD.shape[0]
    q_NKGD = q_KGRD.permute(2, 0, 1, 3)
    count = plan.end - plan.base
    if plan.rows is not None:
        q_NKGD = q_NKGD.new_zeros((count, *q_NKGD.shape[1:])).index_copy_(0, plan.rows, q_NKGD)
    q_NKGD = q_NKGD.contiguous()
    scores_NKGW = q_NKGD.new_empty((*q_NKGD.shape[:3], plan.width))
    pieces = [
        (slice(low, high), slice(low - plan.base, high - plan.base), slice(i * PAGE, i * PAGE + width))
        for i, (low, high, width) in enumerate(plan.ranges)
    ]
    for page, (slots, some, place) in zip(keys, pieces, strict=False):
        # the whole page, of which the product makes no copy
        product = torch.bmm(q_NKGD[some].flatten(0, 1), page[slots].flatten(0, 1).transpose(1, 2))
        here_NKGW = scores_NKGW[..., place]
        here_NKGW[some] = product[..., : place.stop - place.start].unflatten(0, (-1, heads))
        # what no row of these slots has: a number, which the mask hides
        here_NKGW[: some.start], here_NKGW[some.stop :] = 0, 0
    probs_NKGW = _capped(scores_NKGW, softcap).add_(plan.hidden(window, scores_NKGW.dtype)).softmax(-1)
    out_NKGD: Tensor | None = None
    for page, (slots, some, place) in zip(values, pieces, strict=False):
        v = page[slots, :, : place.stop - place.start].flatten(0, 1)
        part_NKGD = torch.bmm(probs_NKGW[some, ..., place].flatten(0, 1), v).unflatten(0, (-1, heads))
        if out_NKGD is None:
            # every row reaches the first page
            out_NKGD = part_NKGD if len(pieces) == 1 else part_NKGD.float()
        else:
            out_NKGD[some] += part_NKGD
    assert out_NKGD is not None, "rows that decode have at least one token"
    out_NHD = out_NKGD.flatten(1, 2).to(values[0].dtype)
    return out_NHD if plan.rows is None else out_NHD[plan.rows]


def _capped(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def _run(q: Tensor, k: Tensor, v: Tensor, softcap: float | None, window: int | None) -> Tensor:
    """Causal attention of one row's new tokens, [1, K*G, T, D] and [1, K, L, D]; the queries are scaled already."""
    count, length, groups = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
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
