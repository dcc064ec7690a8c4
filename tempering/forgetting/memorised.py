"""How well a model knows sequences by heart: extraction likelihood and memorisation accuracy, by which gradient ascent is stopped (S184).

    EL_n(x) = sum_{t=1}^{T-n} OVERLAP_n( f(x_<=t), x_>t ) / (T - n),    OVERLAP_n(a, b) = share of the n-grams of a that occur in b
    MA(x)   = sum_{t=1}^{T-1} 1[ argmax p(. | x_<=t) = x_t+1 ] / (T - 1)

Jang et al. 2022, arXiv 2210.01504, equations 1 to 4; f is the greedy continuation, as long as what is left. They stop when both are below their
averages on text that the model never saw, with n = 10. The published code divides by the n-grams of b (`by="rest"`), which differs only where the
model ends early: there what is right up to the end counts in full by the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from tempering.errors import UserError
from tempering.types import Policy

By = Literal["continuation", "rest"]
Ids = Sequence[int]


def overlap(continuation: Ids, rest: Ids, n: int, by: By = "continuation") -> float:
    """Share of the n-grams of a continuation that occur in the rest; 0 where it has none.

    Args:
        by: whose n-grams are the divisor.
    """
    said, there = ngrams(continuation, n), ngrams(rest, n)
    known, size = set(there), len(said if by == "continuation" else there)
    return sum(gram in known for gram in said) / size if size else 0.0


def ngrams(ids: Ids, n: int) -> list[tuple[int, ...]]:
    """All runs of n tokens, in order."""
    return [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]


def extraction_likelihood(
    policy: Policy,
    sequences: Sequence[Ids],
    n: int = 10,
    *,
    by: By = "continuation",
    every: int = 1,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """EL_n of each sequence.

    Args:
        sequences: token ids, each of more than n tokens.
        every: look at each `every`-th prefix only; 1 is the definition. A sequence of T tokens needs T - n greedy continuations.
        batch_size: continuations in flight at the same time.
        progress: called as (finished continuations, all of them).

    Raises:
        UserError: n or `every` below 1, or a sequence that is too short.
    """
    from tempering.sample import Decoder, Request

    for name, value in (("n", n), ("every", every)):
        if value < 1:
            raise UserError(f"{name}={value}: must be at least 1")
    for i, ids in enumerate(sequences):
        if len(ids) <= n:
            raise UserError(f"sequence {i} has {len(ids)} tokens: EL_{n} needs more than {n}; leave it out or take a smaller n")
    places = [(i, t) for i, ids in enumerate(sequences) for t in range(1, len(ids) - n + 1, every)]
    said: dict[tuple[int, int], list[int]] = {place: [] for place in places}
    decoder, done = Decoder(policy, max_rows=batch_size), 0
    tickets = {decoder.submit(Request(tuple(map(int, sequences[i][:t])), max_new_tokens=len(sequences[i]) - t)): (i, t) for i, t in places}
    while not decoder.idle:
        for token in decoder.step():
            said[tickets[token.ticket]].append(token.id)
            done += bool(token.finished)
        if progress is not None:
            progress(done, len(places))
    found: list[list[float]] = [[] for _ in sequences]
    for i, t in places:
        found[i].append(overlap(said[i, t], [int(x) for x in sequences[i][t:]], n, by))
    return [sum(scores) / len(scores) for scores in found]


def memorisation_accuracy(policy: Policy, sequences: Sequence[Ids], *, batch_tokens: int = 2048) -> list[float]:
    """MA of each sequence: how many of its tokens, from the second on, are what the model finds likeliest after those before.

    Args:
        sequences: token ids, each of at least two tokens.

    Raises:
        UserError: a sequence of fewer.
    """
    from tempering.measure import score_pairs

    for i, ids in enumerate(sequences):
        if len(ids) < 2:
            raise UserError(f"sequence {i} has {len(ids)} tokens: memorisation accuracy needs at least 2")
    scored = score_pairs(policy, [([int(ids[0])], [int(x) for x in ids[1:]]) for ids in sequences], batch_tokens=batch_tokens)
    return [float(top_T.double().mean()) for _, top_T in scored]
