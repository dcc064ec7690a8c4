"""Random numbers that are a function of (seed, key, sample, position, lane) and of nothing else.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") over arrays: a counter goes in, four words come out, so that one
call serves all rows of a batch whatever order they stand in. A request's three numbers are hashed once into its 128 bits of key material.
"""

from __future__ import annotations

import numpy as np

_MULTIPLY = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def stream(seed: int, key: int, sample: int) -> np.ndarray:
    """The 128 bits (uint64 [4], each below 2^32) that name the noise of one request; the arguments are non-negative integers of any size."""
    return np.random.SeedSequence([seed, key, sample]).generate_state(4, np.uint32).astype(np.uint64)


def philox(counter: tuple[np.ndarray, ...], key: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Four counter words and two key words, uint64 arrays below 2^32 that broadcast -> four words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _MULTIPLY[0] * c0, _MULTIPLY[1] * c2
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def gumbel(streams_R4: np.ndarray, position_R: np.ndarray, size: int) -> np.ndarray:
    """Standard Gumbel noise, float64 [R, size].

    The uniforms beneath are 32-bit numbers moved to the middle of their cell, never 0 or 1: probabilities are right to 2^-32.

    Args:
        streams_R4: `stream` of each row.
        position_R: which token of the request is drawn, 0 for the first.
    """
    lane = np.arange(-(-size // 4), dtype=np.uint64)[None]
    s_R41 = streams_R4[:, :, None]
    words = philox((lane, position_R.astype(np.uint64)[:, None], s_R41[:, 2], s_R41[:, 3]), (s_R41[:, 0], s_R41[:, 1]))
    uniform = (np.concatenate(np.broadcast_arrays(*words), axis=1)[:, :size] + 0.5) * 2.0**-32
    return -np.log(-np.log(uniform))
