"""Shards: where rows go, what their average says, and how weights are averaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempering.forgetting.oracle import Chained
from tempering.forgetting.shards import averaged, shard_of, sharded, voting
from tempering.measure import logps_of
from tempering.methods.decodes.average import Average
from tempering.models import load, save
from tempering.types import Policy, Segment
from tests.conftest import make_llama, make_tokenizer


def row(*ids: int, part: str = "retain") -> dict[str, tuple[Segment, ...]]:
    weight = np.array([0.0] + [1.0] * (len(ids) - 1), dtype=np.float32)
    return {part: (Segment(np.array(ids, dtype=np.int32), weight),)}


ROWS = [row(5, i, 7) for i in range(40)]


def test_a_rows_shard_does_not_depend_on_other_rows_or_on_its_parts_name() -> None:
    kept = sharded(Chained((ROWS, "retain")), 4)
    assert sum(map(len, kept)) == 40 and all(0 < len(of) < 40 for of in kept)
    fewer = sharded(Chained((ROWS[10:], "retain")), 4)
    for of, left in zip(kept, fewer, strict=True):
        assert [i for i in of.places if i >= 10] == [i + 10 for i in left.places], "what stays keeps its shard and its order"
    assert shard_of(row(5, 3, 7, part="forget"), 4) == shard_of(ROWS[3], 4) == shard_of(Chained((ROWS, "retain"))[3], 4)
    assert {shard_of(r, 1) for r in ROWS} == {0}
    assert kept[2][1]["train"][0].ids.tolist() == ROWS[kept[2].places[1]]["retain"][0].ids.tolist()


def test_the_average_is_of_probabilities() -> None:
    logits = {"policy": torch.tensor([[0.0, 0.0]]), "a": torch.tensor([[5.0 + np.log(3.0), 5.0]]), "b": torch.tensor([[0.0, np.log(9.0)]])}
    said = Average(["a", "b"])(torch.zeros(1, 1), logits).exp()[0].tolist()  # type: ignore[arg-type]
    assert said == pytest.approx([(0.5 + 0.75 + 0.1) / 3, (0.5 + 0.25 + 0.9) / 3], rel=1e-6)
    alone = Average()(torch.zeros(1, 1), logits)
    assert torch.allclose(alone, logits["policy"].log_softmax(-1)) and Average(("a",)).roles == ("a",)


def test_models_that_vote_are_saved_and_come_back(tmp_path: Path) -> None:
    models: list[Any] = [make_llama(seed=seed) for seed in range(3)]
    like = Policy(models[0], make_tokenizer(), name="start", source="start")
    policy = voting(models, like, "three")
    pairs = [([5, 6], [7, 8, 9])]
    each = [logps_of(Policy(model, like.tokenizer), pairs)[0].exp() for model in models]
    together = logps_of(policy, pairs)[0]
    assert torch.allclose(together.exp(), sum(each) / 3, atol=1e-6)  # type: ignore[arg-type]
    again = load(save(policy, tmp_path / "out"), say=lambda _: None)
    assert again.decode == policy.decode == (Average(("shard1", "shard2")),)
    assert torch.equal(logps_of(again, pairs)[0], together)
    assert voting(models[:1], like, "one").decode == ()


def test_weights_are_averaged_by_share() -> None:
    a, b = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, -2.0])}
    assert averaged([a, b], [0.25, 0.75])["w"].tolist() == [2.5, -1.0]
    assert torch.equal(averaged([a], [1.0])["w"], a["w"]) and averaged([a, b], [1, 1])["w"].dtype == torch.float32
