"""Models of different tokenizers fused by what they say: readings laid beside each other, nearest words, the fused columns, and the recipe."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tempering as tp
from tempering import models
from tempering.data.aligned import Words, distance, path, same, written
from tempering.errors import UserError
from tempering.recipes.fuse_llm import NOTHING, fused
from tempering.types import Policy, Segment


class Letters:
    """A tokenizer of listed words."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def get_vocab(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.words[i] for i in ids]


def brute(a: str, b: str) -> int:
    """Edit distance by its definition."""
    if not a or not b:
        return len(a) + len(b)
    return min(brute(a[1:], b) + 1, brute(a, b[1:]) + 1, brute(a[1:], b[1:]) + (a[0] != b[0]))


def cheapest(a: list[str], b: list[str], i: int = 0, j: int = 0) -> int:
    """The least total distance of all paths, each tried."""
    here = brute(a[i], b[j])
    ahead = [cheapest(a, b, x, y) for x, y in ((i + 1, j), (i, j + 1), (i + 1, j + 1)) if x < len(a) and y < len(b)]
    return here + min(ahead, default=0)


WORDS = ["", "a", "ab", "ba", "abc", "cab", "bb", " a"]


def test_distances_and_paths_are_those_of_all_ways() -> None:
    words = Words(Letters(*WORDS))
    for one in [*WORDS, "cb", "abab"]:
        wanted = [brute(one, other) for other in WORDS]
        assert [distance(one, other) for other in WORDS] == wanted == words.distances(one).tolist()
    generator = np.random.default_rng(0)
    for _ in range(30):
        a, b = ([WORDS[i] for i in generator.integers(1, 8, generator.integers(1, 5))] for _ in range(2))
        total, pairs = path(a, b)
        assert total == cheapest(a, b) == sum(brute(a[i], b[j]) for i, j in pairs)
        assert pairs[0] == (0, 0) and pairs[-1] == (len(a) - 1, len(b) - 1)
        assert all((x[0] <= y[0] <= x[0] + 1) and (x[1] <= y[1] <= x[1] + 1) and x != y for x, y in itertools.pairwise(pairs))


def test_tokens_that_meet_alone_are_the_same() -> None:
    assert same(["The", " cat", " sat"], ["The", " cat", " sat"]) == [0, 1, 2]
    assert same(["The", " ca", "t", " sat"], ["The", " cat", " sat"]) == [0, None, 3]
    assert same(["now"], ["n", "ow"]) == [None, None]
    assert same([], ["a"]) == [None] and same(["a"], []) == []


def test_the_nearest_word_is_itself_or_one_of_the_nearest() -> None:
    words = Words(Letters("cat", "coat", "dog", "doge", "a"))
    assert [words.nearest(one) for one in ("dog", "cats", "dogge", "b", "catapult")] == [2, 0, 3, 4, 1]
    tokens = Letters("Ġcat", "▁cat", "Ċ")
    assert written(tokens, [0, 1, 2]) == [" cat", " cat", "\n"]


OURS, THEIRS = Letters("x", "a", "b", "ab", "c"), Letters("y", "c", "ab", "a", "bb")


def said(number: int, logp: list[float], top: list[list[float]], ids: list[list[int]]) -> dict[str, np.ndarray]:
    return {
        f"said{number}.logp": np.array(logp, np.float32),
        f"said{number}.top_logp.2": np.log(np.array(top, np.float32)),
        f"said{number}.top_id.2": np.array(ids, np.float32),
    }


def row(source_nats: float) -> Any:
    """Our reading x|a b c, theirs y|ab c: only c is one token in both."""
    ours = said(0, [0, -0.5, -0.25, -0.25], [[0.5, 0.5], [0.5, 0.25], [0.8, 0.1], [0.6, 0.2]], [[0, 1], [1, 2], [2, 1], [4, 0]])
    theirs = said(1, [0, -source_nats / 2, -source_nats / 2], [[0.5, 0.5], [0.5, 0.25], [0.3, 0.6]], [[0, 1], [2, 1], [4, 1]])
    mine = Segment(np.array([0, 1, 2, 4], np.int32), np.array([0, 1, 1, 1], np.float32), ours)
    other = Segment(np.array([0, 2, 1], np.int32), np.array([0, 1, 1], np.float32), theirs)
    return {"train": (mine,), "read0": (other,)}


def columns(nats: float, fuse: str) -> list[dict[int, float]]:
    (made,) = fused([row(nats)], Words(OURS), [THEIRS], OURS, fuse, 2)
    (segment,) = made["train"]
    assert set(segment.extras) == {"fused.top_logp.2", "fused.top_id.2"} and segment.weight.tolist() == [0, 1, 1, 1]
    logp, ids = segment.extras["fused.top_logp.2"], segment.extras["fused.top_id.2"]
    assert (logp[0] == NOTHING).all()
    return [{int(i): math.exp(x) for i, x in zip(ids[t], logp[t], strict=True) if x > NOTHING} for t in (1, 2, 3)]


def test_the_better_reader_of_a_row_is_followed() -> None:
    # One nat of ours against 0.9: theirs. Two of its words at c: "bb", whose nearest of its length is ours "ab", and "c".
    assert columns(0.9, "min_ce") == [{1: 1.0}, {2: 1.0}, pytest.approx({4: 2 / 3, 3: 1 / 3}, rel=1e-5)]
    ours = [{1: 2 / 3, 2: 1 / 3}, {2: 8 / 9, 1: 1 / 9}, {4: 3 / 4, 0: 1 / 4}]
    assert columns(1.1, "min_ce") == [pytest.approx(one, rel=1e-5) for one in ours]


def test_an_average_is_weighed_by_how_likely_the_row_is() -> None:
    a, b = (math.exp(math.exp(-nats / 3)) for nats in (1.0, 1.1))
    a, b = a / (a + b), b / (a + b)
    found = columns(1.1, "avg_ce")
    assert found[0] == pytest.approx({1: a * 2 / 3 + b, 2: a / 3}, rel=1e-5)
    assert found[1] == pytest.approx({2: a * 8 / 9 + b, 1: a / 9}, rel=1e-5)
    # The third word there is left out: two are kept.
    every = {4: a * 3 / 4 + b * 2 / 3, 0: a / 4, 3: b / 3}
    assert found[2] == pytest.approx(dict(sorted(every.items(), key=lambda one: -one[1])[:2]), rel=1e-5)


def test_the_recipe_fuses(tmp_path: Path) -> None:
    source = models.load("builtin:tiny", say=lambda _: None)
    with torch.no_grad():
        for p in source.model.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    models.save(Policy(source.model, source.tokenizer, name="source"), tmp_path / "source")
    how: dict[str, Any] = {"model": "builtin:tiny", "limit": 16, "steps": 2, "batch_size": 4, "max_test": 6, "keep": "none", "precision": "fp32"}
    with pytest.raises(UserError, match="name them with --sources"):
        tp.run("fuse_llm", out=tmp_path / "none", **how)
    report = tp.run("fuse_llm", sources=(str(tmp_path / "source"),), fuse="avg_ce", out=tmp_path / "run", again=True, **how)
    assert report.ledger.probes and (tmp_path / "run" / "model" / "policy.json").exists()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
