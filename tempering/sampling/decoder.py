"""Continuous batching over one policy: requests go in at any time, every step gives each request in flight its next token.

A step is one forward pass over everything that is new: the last token of the rows that decode, and the whole prompts of the requests let in at this
step. A finished row frees its slot, and the next request in line has it at the following step. Slots remember what they held: a prompt that begins
like a row in flight, or like what a free slot still holds (an earlier turn of a conversation, another sample of the prompt), computes only the rest.

The tokens a request gets do not depend on what else is in flight: its noise is its own (noise.py), and in float32 the logits differ by rounding only.

A policy whose decode chain asks for other roles has a cache for each of them, in the same slots.

Shapes: R rows, L tokens so far (padding included), V vocabulary, N positions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tempering.errors import UserError
from tempering.sampling.cache import PAGE, Plan, Run, SlotCache
from tempering.sampling.chain import apply_decode, evaluating, max_positions, models_of, pad_left, stop_ids, vocabulary_size
from tempering.sampling.choose import choose, tops
from tempering.sampling.noise import stream
from tempering.sampling.passes import Runner, Slots, States, runner_for
from tempering.sampling.types import PromptLogps, Request, Token, Top, check_prompt
from tempering.sampling.weights import decoding_copy
from tempering.types import Policy

PASS_TOKENS = 4096
"""Prompt tokens let in at one step; a longer prompt goes alone."""
PASS_TOKENS_CPU = 1024
"""The same on a processor, whose products are at their full speed with so many tokens: more take memory, and hold up the rows in flight."""
SHARED = 8
"""A common beginning shorter than this is computed again: copying has a price too."""
ECHO_ROWS = 256
"""Prompt positions whose logits exist at the same time."""


@dataclass
class _Row:
    """A request in flight."""

    ticket: int
    request: Request
    stream: np.ndarray
    slot: int
    tokens: list[int]
    cached: int = 0

    @property
    def sampled(self) -> int:
        return len(self.tokens) - len(self.request.prompt_ids)


class Decoder:
    """Continuous batching over one policy. Not thread-safe: whoever owns it drives it. Weights must not change between its steps.

    Args:
        policy: model, tokenizer and decode chain, on one device.
        max_rows: requests in flight at the same time; their caches are the memory it takes.
        dtype: None runs the policy's own modules. A precision makes a copy of the weights in it, laid out for decoding: faster, also in float32, for
            the memory of the copy. bfloat16 is several times faster than float32 where `signals.fast_bf16` says so.
    """

    def __init__(self, policy: Policy, *, max_rows: int = 64, dtype: torch.dtype | None = None) -> None:
        if max_rows < 1:
            raise UserError(f"sampling option max_rows={max_rows}: must be at least 1")
        models = models_of(policy)
        self.policy, self.max_rows = policy, max_rows
        self.device = next(policy.model.parameters()).device
        self._pass_tokens = PASS_TOKENS_CPU if self.device.type == "cpu" else PASS_TOKENS
        self._limit = max_positions(models)
        self._vocabulary = vocabulary_size(models)
        self._ends = stop_ids(policy)
        self._models = models if dtype is None else {role: decoding_copy(model, dtype) for role, model in models.items()}
        self._originals = [model for role, model in models.items() if self._models[role] is model]
        self._runners: dict[str, Runner] = {role: runner_for(model) for role, model in self._models.items()}
        self._waiting: deque[tuple[int, Request]] = deque()
        self._rows: dict[int, _Row] = {}
        self._held: list[list[int]] = []
        self._waste = 0
        self._prompts: dict[int, PromptLogps] = {}
        self._tickets = 0

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is in flight."""
        return not self._waiting and not self._rows

    @property
    def batched(self) -> bool:
        """Whether all its models run all rows in one pass; a model whose attention cannot be replaced runs row by row, which is slow."""
        return all(isinstance(runner, Slots) for runner in self._runners.values())

    @property
    def waiting(self) -> int:
        """Requests that have no slot yet."""
        return len(self._waiting)

    @property
    def active(self) -> int:
        """Requests in flight."""
        return len(self._rows)

    def submit(self, request: Request) -> int:
        """Queues a request; its ticket. Raises `UserError` for one that cannot be served."""
        request.check()
        check_prompt(request.prompt_ids, request.max_new_tokens, self._limit, self._vocabulary)
        if request.stop and self.policy.tokenizer is None:
            raise UserError("stop strings need a tokenizer, this policy has none: give a policy with a tokenizer, or no stop strings")
        self._tickets += 1
        self._waiting.append((self._tickets, request))
        return self._tickets

    def cancel(self, ticket: int) -> None:
        """Drops a request wherever it stands; nothing happens for one that is done."""
        self._waiting = deque(item for item in self._waiting if item[0] != ticket)
        self._prompts.pop(ticket, None)
        if ticket in self._rows:
            self._release(self._rows[ticket])

    def prompt_logps(self, ticket: int) -> PromptLogps:
        """What an echo request asked for, once, after its first step; KeyError otherwise."""
        return self._prompts.pop(ticket)

    def step(self) -> list[Token]:
        """Lets waiting requests in and gives every request in flight one token, in the order of their slots."""
        with evaluating(*self._originals):
            self._pack()
            copies = self._admit()
            if not self._rows:
                return []
            rows = self._order()
            plan, last_R = self._plan(rows, copies)
            states = {role: runner.forward(rows, plan) for role, runner in self._runners.items()}
            self._echo(rows, states)
            logits_RV = self._decoded(rows, {role: state.logits(last_R) for role, state in states.items()})
        for row in rows:
            row.cached = len(row.tokens)
        position_R = np.array([row.request.begun + row.sampled for row in rows])
        chosen = choose(logits_RV, [row.request for row in rows], np.stack([row.stream for row in rows]), position_R)
        return [self._take(*given) for given in zip(rows, chosen.ids, chosen.logps, chosen.top, strict=True)]

    # ------------------------------------------------------------------------------------------------------------------------------ slots

    def _admit(self) -> list[tuple[int, int, int]]:
        """Gives free slots to waiting requests, first come first served; the copies (from, to, tokens) that this pass has to make."""
        came, room = list[tuple[int, Request]](), self._pass_tokens
        while self._waiting and len(self._rows) + len(came) < self.max_rows:
            size = len(self._waiting[0][1].prompt_ids)
            if came and size > room:
                break
            room -= size
            came.append(self._waiting.popleft())
        self._held += [[] for _ in range(len(self._rows) + len(came) - len(self._held))]
        # long before short: neighbours in slots are then alike in length, for as long as they live
        copies = [self._seat(*item) for item in sorted(came, key=lambda item: -len(item[1].prompt_ids))]
        for cache in self._caches():
            cache.reserve(len(self._held), max((len(row.tokens) for row in self._rows.values()), default=0))
        return [copy for copy in copies if copy is not None]

    def _seat(self, ticket: int, request: Request) -> tuple[int, int, int] | None:
        """A row in the slot that suits it best; the copy that gives it its beginning, if another slot holds it."""
        taken = {row.slot: row.tokens for row in self._rows.values()}
        free = [slot for slot in range(len(self._held)) if slot not in taken]
        prompt, best, count = list(request.prompt_ids), -1, SHARED - 1
        # the last token is computed in any case, for its logits; an echo needs those of all
        most = 0 if request.echo else len(prompt) - 1
        # free slots first: what one of them holds need not be copied
        for other in [*free, *taken] if most >= SHARED else ():
            common = min(most, _common(self._held[other] if other not in taken else taken[other], prompt))
            if common > count:
                best, count = other, common
        slot = best if best >= 0 and best not in taken else min(free, key=lambda s: (len(self._held[s]) > 0, s))
        count = count if best >= 0 else 0
        self._held[slot] = []
        self._rows[ticket] = _Row(ticket, request, stream(request.seed, request.key, request.sample), slot, prompt, count)
        return (best, slot, count) if count and best != slot else None

    def _release(self, row: _Row) -> None:
        del self._rows[row.ticket]
        self._held[row.slot] = row.tokens[: row.cached]
        for runner in self._runners.values():
            runner.release(row.ticket)

    def _pack(self) -> None:
        """Moves the rows into the first slots, the longest first, once reading what lies between them has cost as much as moving them does, which is
        about one reading of them all."""
        rows = sorted(self._rows.values(), key=lambda row: -len(row.tokens))
        if self._waste <= sum(len(row.tokens) for row in rows):
            return
        self._waste = 0
        if not rows:
            return
        for cache in self._caches():
            cache.move([row.slot for row in rows], [row.cached for row in rows])
        for slot in {*range(len(rows)), *(row.slot for row in rows)}:
            self._held[slot] = []
        for slot, row in enumerate(rows):
            row.slot = slot

    def _caches(self) -> Iterator[SlotCache]:
        return (runner.cache for runner in self._runners.values() if isinstance(runner, Slots))

    # ------------------------------------------------------------------------------------------------------------------------------- plan

    def _order(self) -> list[_Row]:
        """Rows with one new token by slot, then those with more: the order of the pass."""
        return sorted(self._rows.values(), key=lambda row: (len(row.tokens) - row.cached > 1, row.slot))

    def _plan(self, rows: list[_Row], copies: list[tuple[int, int, int]]) -> tuple[Plan, Tensor]:
        """The pass over the rows, and where each row's last token stands in it [R]."""
        counts = [len(row.tokens) - row.cached for row in rows]
        ends = np.cumsum(counts)
        ids = [token for row in rows for token in row.tokens[row.cached :]]
        positions = [position for row in rows for position in range(row.cached, len(row.tokens))]
        slots = [row.slot for row, count in zip(rows, counts, strict=True) for _ in range(count)]
        lengths = [len(row.tokens) for row, count in zip(rows, counts, strict=True) if count == 1]
        runs = [Run(int(ends[i]) - counts[i], counts[i], rows[i].slot, rows[i].cached) for i in range(len(lengths), len(rows))]
        plan = Plan(ids, positions, slots, lengths, runs, copies, self.device)
        # a page is read from the first row that reaches it to the last; were the longest first, it would be read for those alone
        packed = sum(width * sum(length > i * PAGE for length in lengths) for i, (_, _, width) in enumerate(plan.ranges))
        self._waste += sum((high - low) * width for low, high, width in plan.ranges) - packed
        return plan, torch.from_numpy(ends - 1).to(self.device)

    # ----------------------------------------------------------------------------------------------------------------------------- tokens

    def _decoded(self, rows: Sequence[_Row], logits: dict[str, Tensor], tokens: list[list[int]] | None = None) -> Tensor:
        if not self.policy.decode:
            return logits["policy"]
        logits = {role: x.float() for role, x in logits.items()}
        return apply_decode(self.policy, pad_left(tokens or [row.tokens for row in rows], self.device), logits)

    def _echo(self, rows: list[_Row], states: dict[str, States]) -> None:
        start = 0
        for row in rows:
            count, first = len(row.tokens) - row.cached, start
            start += count
            if row.request.echo and row.sampled == 0:
                logps: list[float | None] = [None]
                top: list[Top] = [()]
                for at in range(0, count - 1, ECHO_ROWS):
                    to = min(at + ECHO_ROWS, count - 1)
                    where_N = torch.arange(first + at, first + to, device=self.device)
                    before = [row.tokens[: i + 1] for i in range(at, to)] if self.policy.decode else None
                    logits_NV = self._decoded([], {role: state.logits(where_N) for role, state in states.items()}, before).float()
                    total_N = logits_NV.logsumexp(-1)
                    ids_N = torch.tensor(row.tokens[at + 1 : to + 1], device=self.device)
                    logps += (logits_NV.gather(1, ids_N[:, None])[:, 0] - total_N).tolist()
                    top += tops(logits_NV, total_N, [row.request.top_logps] * (to - at))
                self._prompts[row.ticket] = PromptLogps(tuple(logps), tuple(top))

    def _take(self, row: _Row, token: int, logp: float, top: Top) -> Token:
        row.tokens.append(token)
        finished: Literal["", "stop", "length"] = ""
        if token in self._ends or self._stopped(row):
            finished = "stop"
        elif row.sampled == row.request.max_new_tokens:
            finished = "length"
        if finished:
            self._release(row)
        return Token(row.ticket, token, logp, top, finished)

    def _stopped(self, row: _Row) -> bool:
        stop = row.request.stop
        if not stop:
            return False
        # a token holds at least one byte, so this tail holds every stop string that the last token could have completed
        tail = row.tokens[len(row.request.prompt_ids) :][-(max(len(s.encode()) for s in stop) + 4) :]
        text = self.policy.tokenizer.decode(tail, skip_special_tokens=True)
        return any(s in text for s in stop)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning; slices compare at the speed of C."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
