"""Which token a step takes: noise that is a function of its key, and choices by it from a distribution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tempering.sampling.choose import BLOCK, behaviour_logps, choose
from tempering.sampling.noise import gumbel, philox, stream
from tempering.sampling.types import Request


def test_philox_has_the_published_values() -> None:
    """The known answers of Random123's philox4x32-10."""
    words = [np.array([w], dtype=np.uint64) for w in (0, 0xFFFFFFFF)]
    low, high = (tuple(int(w[0]) for w in philox((x,) * 4, (x,) * 2)) for x in words)
    assert low == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert high == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)


def test_noise_is_gumbel_and_a_function_of_its_key() -> None:
    many = gumbel(stream(0, 0, 0)[None], np.array([0]), 200_000)[0]
    # mean is Euler's constant, variance pi^2 / 6; four standard errors
    assert abs(many.mean() - 0.5772157) < 4 * math.sqrt(math.pi**2 / 6 / 200_000)
    assert abs((many < 0).mean() - math.exp(-1)) < 4 * math.sqrt(0.2325 / 200_000)
    keys = [(1, 2, 3, 4), (0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0), (1, 2, 4, 3)]
    rows = gumbel(np.stack([stream(*key[:3]) for key in keys]), np.array([key[3] for key in keys]), 1000)
    again = gumbel(stream(1, 2, 3)[None], np.array([4]), 1000)
    assert (again[0] == rows[0]).all()
    assert all((rows[0] != other).all() for other in rows[1:])


def drawn(logits_V: torch.Tensor, count: int, **options: Any) -> np.ndarray:
    """How often each token comes in `count` draws."""
    request = Request((0,), **options)
    streams = np.stack([stream(0, key, 0) for key in range(count)])
    chosen = choose(logits_V.repeat(count, 1), [request] * count, streams, np.zeros(count))
    return np.bincount(chosen.ids, minlength=logits_V.shape[0])


@pytest.mark.parametrize("vocabulary", [5, BLOCK, 2 * BLOCK + 17])
@pytest.mark.parametrize(
    "options", [{"temperature": 1.0}, {"temperature": 0.6}, {"temperature": 1.0, "top_k": 4}, {"temperature": 1.0, "top_p": 0.6}]
)
def test_tokens_are_drawn_from_the_distribution(vocabulary: int, options: dict[str, Any]) -> None:
    """A chi-squared test over the likeliest tokens and the rest together, against its 1 in 10,000 quantile."""
    from scipy.stats import chi2

    logits_V = 2 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(1))
    probs = behaviour_logps(logits_V[None], **options)[0].exp().double().numpy()
    count = 4000
    seen = drawn(logits_V, count, **options)
    assert seen[probs == 0].sum() == 0
    often = probs * count >= 10
    want, have = np.append(probs[often], probs[~often].sum()) * count, np.append(seen[often], seen[~often].sum())
    want, have = want[want > 0], have[want > 0]
    assert ((have - want) ** 2 / want).sum() < chi2.ppf(1 - 1e-4, len(want) - 1)


def test_close_distributions_give_the_same_token() -> None:
    """At most twice the total variation of those who would have to change do; an inverse cumulative distribution would move most tokens here."""
    logits_V = torch.zeros(2 * BLOCK)
    moved_V = logits_V.clone()
    moved_V[0] = 2.0
    count = 2000
    streams = np.stack([stream(0, key, 0) for key in range(count)])
    asked = [Request((0,), temperature=1.0)] * count
    before, after = (choose(x.repeat(count, 1), asked, streams, np.zeros(count)).ids for x in (logits_V, moved_V))
    variation = (logits_V.softmax(-1) - moved_V.softmax(-1)).abs().sum().item() / 2
    assert sum(a != b for a, b in zip(before, after, strict=True)) / count < 2 * 2 * variation


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.3, 0.9, 0.999]), st.sampled_from([70, 300, 2000]), st.floats(0.1, 4))
def test_a_nucleus_is_that_of_a_full_sort(seed: int, top_p: float, vocabulary: int, spread: float) -> None:
    logits = spread * torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(seed))
    logits[1] = logits[1].round()
    probs = logits.softmax(-1)
    ordered, order = probs.sort(descending=True, stable=True)
    outside = torch.zeros_like(probs, dtype=torch.bool).scatter(1, order, ordered.cumsum(-1) - ordered >= top_p)
    assert torch.equal(behaviour_logps(logits, temperature=1.0, top_p=top_p).isneginf(), outside)
