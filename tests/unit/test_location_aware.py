"""S160: rewards by place, in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tempering.config import Training
from tempering.errors import UserError
from tempering.methods.objectives.segment_reward import SegmentReward
from tempering.methods.rewards.location_aware import LocationAware
from tempering.models.value import ValueModel
from tempering.scored import scored
from tempering.types import Policy, Segment
from tests.conftest import make_llama, make_tokenizer

LINES = LocationAware(0.5, 2.0, -0.25, 1.0)


def on_the_lines(sizes: list[int], copies: int = 4) -> list[list[float]]:
    """Answers whose rewards have, at every place, exactly the mean and the deviation that the lines say: half above, half below."""

    def at(k: int, size: int, side: int) -> float:
        log = math.log((k + 1) / size)
        return 0.5 * log + 2 + side * (1 - 0.25 * log)

    return [[at(k, size, side) for k in range(size)] for size in sizes for side in (-1, 1) for _ in range(copies // 2)]


def test_lines_are_found_exactly_and_every_place_is_standard() -> None:
    rewards = on_the_lines([1, 2, 3, 5])
    found = LocationAware.fit(rewards)
    assert (found.w_mu, found.b_mu, found.w_sigma, found.b_sigma) == pytest.approx((0.5, 2.0, -0.25, 1.0))
    by_place: dict[float, list[float]] = {}
    for mine in rewards:
        for k, value in enumerate(found(mine)):
            by_place.setdefault((k + 1) / len(mine), []).append(value)
    assert len(by_place) == 8
    for values in by_place.values():
        assert np.mean(values) == pytest.approx(0, abs=1e-9) and np.std(values) == pytest.approx(1)


def test_places_count_as_often_as_they_occur() -> None:
    """Means 0 at p = 1/2 (once), 1 at 1 (three times): the line through both. A third place off it pulls by its count."""
    found = LocationAware.fit([[0.0, 1.0], [1.0], [1.0]])
    assert (found.w_mu, found.b_mu) == pytest.approx((1 / math.log(2), 1.0)) and (found.w_sigma, found.b_sigma) == (0.0, 0.0)
    # Weighted least squares by its normal equations.
    rewards = [[3.0, 1.0, 2.0], [0.0, 4.0], [1.0]]
    x = np.log([1 / 3, 2 / 3, 1, 1 / 2, 1, 1])
    design = np.stack([x, np.ones(6)], 1)
    slope, level = np.linalg.lstsq(design, np.array([3.0, 1, 2, 0, 4, 1]), rcond=None)[0]
    found = LocationAware.fit(rewards)
    assert (found.w_mu, found.b_mu) == pytest.approx((slope, level))


def test_one_segment_each_is_the_usual_normaliser() -> None:
    scores = [1.0, 4.0, -2.0]
    found = LocationAware.fit([[s] for s in scores])
    assert [float(found([s])[0]) for s in scores] == pytest.approx((np.array(scores) - 1) / np.std(scores))
    assert LocationAware()([3.0, -1.0]).tolist() == [3.0, -1.0]


def test_tokens_add_up_to_their_segments() -> None:
    rewards, lengths = [1.0, -3.0, 2.5], [2, 1, 4]
    tokens = LINES.spread(rewards, lengths)
    assert tokens.shape == (7,) and len(set(tokens[3:])) == 1
    assert [tokens[:2].sum(), tokens[2], tokens[3:].sum()] == pytest.approx(LINES(rewards))
    assert LINES.spread([], []).shape == (0,)


def test_a_deviation_never_reaches_0() -> None:
    falling = LocationAware(0.0, 0.0, 1.0, 0.1, least=0.05)
    assert falling([1.0] * 10)[0] == pytest.approx(1 / 0.05) and falling([1.0])[0] == pytest.approx(10.0)


def test_cuts_are_those_that_the_reward_model_learned() -> None:
    """Infinite: one segment; below 0: one for each token; between: as the objective cuts (its case at 1.5)."""
    entropies = [0.0, 1.0, 2.0, 1.7, 0.2]
    assert LocationAware.cut(entropies, math.inf) == [5] and LocationAware.cut(entropies, -1.0) == [1] * 5 and LocationAware.cut([]) == []
    assert LocationAware.cut(entropies, 1.5) == [2, 1, 2]
    import torch

    from tempering.types import Batch

    reward_T = torch.arange(5.0)
    batch = Batch(torch.zeros(5).long(), torch.zeros(5).long(), torch.ones(5), torch.zeros(1).long())
    ends = np.cumsum(LocationAware.cut(entropies, 1.5)) - 1
    got = SegmentReward(cutoff=1.5).reward(batch, {"reward": reward_T, "prior.entropy": torch.tensor(entropies)})
    assert float(got) == pytest.approx(float(reward_T[ends].mean()))


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: LocationAware.fit([]), "0 rewards"),
        (lambda: LocationAware.fit([[1.0, math.nan]]), "all must be finite"),
        (lambda: LINES.spread([1.0], [1, 2]), "1 segments and lengths"),
        (lambda: LINES.spread([1.0], [0]), "at least 1"),
    ],
)
def test_bad_rewards_are_refused(act: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        act()  # type: ignore[operator]


def test_the_lines_are_fitted_to_the_rewards_at_the_ends_of_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their means are what the objective sees of each answer, whatever stands together in a forward pass."""
    source, model = np.random.default_rng(0), ValueModel(make_llama(seed=1))
    torch.nn.init.normal_(model.value_head.weight, generator=torch.Generator().manual_seed(0))
    policy, training = Policy(model, make_tokenizer()), Training(precision="fp32")

    def segment(size: int) -> Segment:
        weight = np.array([0, 0, *source.integers(0, 2, size), 1], np.float32)
        return Segment(
            source.integers(5, 60, size + 3).astype(np.int32), weight, {"prior.entropy": source.uniform(0, 3, size + 3).astype(np.float32)}
        )

    rows = [{side: (segment(int(source.integers(1, 9))),) for side in ("chosen", "rejected")} for _ in range(9)]
    seen: list[np.ndarray] = []
    monkeypatch.setattr(LocationAware, "fit", classmethod(lambda cls, rewards: seen.extend(rewards)))
    LocationAware.of(policy, rows, 1.5, training)
    assert len(seen) == 18 and {len(pieces) for pieces in seen} >= {1, 2, 3}
    for side, mine in (("chosen", seen[::2]), ("rejected", seen[1::2])):
        means = scored(policy, SegmentReward(cutoff=1.5), rows, training, f"{side}_reward")
        assert [float(pieces.mean()) for pieces in mine] == pytest.approx([mean for (mean,) in means], abs=1e-5)
