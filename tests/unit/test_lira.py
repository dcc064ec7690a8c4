"""LiRA: closed forms, what Gaussians that are told apart must give, the interval of an AUC, and shadow models that a kill does not change."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tempering.errors import Interrupted, UserError
from tempering.forgetting import shadows
from tempering.measure import measure
from tempering.methods.probes.lira import LiRA, confidence, likelihood_ratios, row_losses
from tempering.methods.probes.membership import auc, tpr_at_fpr
from tempering.stats import auc_interval
from tempering.types import ItemScore, Policy, ProbeScores, Row, Scores, Segment
from tests.conftest import make_llama, make_tokenizer


def test_confidence_is_the_logit_of_the_mean_probability() -> None:
    assert confidence(math.log(2)) == pytest.approx(0)
    assert confidence(-math.log(0.9)) == pytest.approx(math.log(9))
    assert confidence(0) == confidence(1e-9) == pytest.approx(math.log(1e7), rel=1e-6), "what is certain is finite"
    assert confidence(800.0) == pytest.approx(-800)


def test_ratios_worked_by_hand() -> None:
    rng = np.random.default_rng(0)
    alike = rng.normal(0, 1, (8, 5))
    was_in = np.arange(8)[:, None] % 2 == np.zeros(5)
    alike[~was_in] = alike[was_in]
    for variance in ("pooled", "each"):
        assert likelihood_ratios([3.0, -1, 0, 2, 9], alike, was_in, "online", variance) == pytest.approx([0] * 5)  # type: ignore[arg-type]
    # In 2 +- 1, out 0 +- 1: the log ratio is (x^2 - (x - 2)^2) / 2 = 2x - 2.
    said, inside = np.array([[1.0], [3.0], [-1.0], [1.0]]), np.array([[True], [True], [False], [False]])
    assert likelihood_ratios([2.5], said, inside) == pytest.approx([3.0])
    # Offline: log of the normal distribution function, whatever the models say that saw it.
    expected = math.log(0.5 * (1 + math.erf(1.96 / math.sqrt(2))))
    assert likelihood_ratios([1.96], said, inside, "offline") == pytest.approx([expected])
    # A second row whose out models differ by 3 either way: pooled variance is (1 + 9) / 2.
    wide = np.hstack([said, [[1.0], [3.0], [-3.0], [3.0]]])
    both = np.hstack([inside, inside])
    pooled, own = (likelihood_ratios([1.0, 1.0], wide, both, "offline", variance) for variance in ("pooled", "each"))  # type: ignore[arg-type]
    assert pooled == pytest.approx([stats.norm.logcdf(1 / math.sqrt(5))] * 2)
    assert own == pytest.approx([stats.norm.logcdf(1), stats.norm.logcdf(1 / 3)])


def test_what_cannot_be_asked_is_told() -> None:
    with pytest.raises(UserError, match="row 0 was seen by every shadow model"):
        likelihood_ratios([1.0], [[1.0]], [[True]])
    with pytest.raises(UserError, match="row 0 was seen by no shadow model, which only the offline form"):
        likelihood_ratios([1.0], [[1.0]], [[False]])
    with pytest.raises(UserError, match=r"give \[N\], \[S, N\]"):
        likelihood_ratios([1.0, 2.0], [[1.0]], [[False]])
    with pytest.raises(ValueError, match="all 2 rows are members"):
        LiRA(rows=rows(2), members=2, shadows=[], was_in=[])
    with pytest.raises(ValueError, match="limit 3: a sample of the rows"):
        LiRA(rows=rows(4), members=2, shadows=[], was_in=[], limit=3)


def test_separated_gaussians_are_told_apart_where_the_plain_score_is_not() -> None:
    """Rows differ in difficulty (sd 10), being learned adds 3 (sd 1): the likelihood ratio sees Phi(3 / sqrt 2) = 0.983, the score itself nearly
    nothing."""
    rng, n = np.random.default_rng(1), 2000
    hard = rng.normal(0, 10, n)
    was_in = shadows.halves(64, n, 0)
    models = hard + 3 * was_in + rng.normal(0, 1, (64, n))
    learned = np.arange(n) < n // 2
    target = hard + 3 * learned + rng.normal(0, 1, n)
    for form in ("online", "offline"):
        found = np.array(likelihood_ratios(target.tolist(), models, was_in, form))  # type: ignore[arg-type]
        assert auc(found[learned].tolist(), found[~learned].tolist()) == pytest.approx(stats.norm.cdf(3 / math.sqrt(2)), abs=0.01)
        # The rate at 1% false positives is P(Z > z_99 - 3).
        assert tpr_at_fpr(found[learned].tolist(), found[~learned].tolist()) == pytest.approx(stats.norm.sf(stats.norm.isf(0.01) - 3), abs=0.08)
    assert auc(target[learned].tolist(), target[~learned].tolist()) < 0.62


def test_every_row_is_in_half_of_the_models() -> None:
    found = shadows.halves(6, 50, 3)
    assert found.sum(0).tolist() == [3] * 50 and shadows.halves(5, 7, 0).sum(0).tolist() == [2] * 7
    assert (found == shadows.halves(6, 50, 3)).all() and (found != shadows.halves(6, 50, 4)).any()
    assert len({tuple(column) for column in found.T}) > 10, "rows are drawn one by one"


def test_the_interval_of_an_auc_is_what_a_score_test_does_not_reject() -> None:
    found = auc_interval(0.8, 30, 50)
    z, mean = 1.959963984540054, 39
    for end in (found.low, found.high):
        assert end is not None
        variance = end * (1 - end) * (1 + mean * ((1 - end) / (2 - end) + end / (1 + end))) / (30 * 50)
        assert abs(0.8 - end) / math.sqrt(variance) == pytest.approx(z, rel=1e-6)
    # At one half and equal groups the variance is nearly that of Mann and Whitney, (m + n + 1) / 12mn.
    half = auc_interval(0.5, 400, 400)
    assert half.high is not None and half.low is not None and half.high - 0.5 == pytest.approx(0.5 - half.low)
    assert half.high - 0.5 == pytest.approx(z * math.sqrt(801 / (12 * 400 * 400)), rel=0.01)
    sure = auc_interval(1.0, 20, 20)
    assert sure.high == 1 and sure.low is not None and 0.8 < sure.low < 0.95
    assert auc_interval(0.0, 20, 20).high == pytest.approx(1 - sure.low)


def rows(n: int) -> list[Row]:
    """A prompt token and three answer tokens each; every third row is of two segments."""
    one = lambda i, k: Segment(np.array([5, 9 + i, 20 + i, 30 + k], dtype=np.int32), np.array([0, 1, 1, 1], dtype=np.float32))  # noqa: E731
    return [{"train": (one(i, 0), *((one(i, 1),) if i % 3 == 0 else ()))} for i in range(n)]


def policy(seed: int = 0) -> Policy:
    return Policy(make_llama(seed=seed), make_tokenizer(), "tiny")


def test_a_probe_of_shadow_losses() -> None:
    every = rows(6)
    losses = [row_losses(policy(seed), every, "train") for seed in range(5)]
    first = row_losses(policy(), every[:1], "train")[0]
    alone = [row_losses(policy(), [{"train": (segment,)}], "train")[0] for segment in every[0]["train"]]
    assert first == pytest.approx(sum(alone) / 2), "a row of two segments as long is their mean"
    was_in = shadows.halves(4, 6, 0)
    online, offline = measure(policy(), [LiRA(rows=every, members=2, shadows=losses[1:], was_in=was_in)]).probes
    said = [[confidence(loss) for loss in of] for of in losses]
    for form, found in (("online", online), ("offline", offline)):
        expected = likelihood_ratios(said[0], said[1:], was_in, form)  # type: ignore[arg-type]
        assert [item.extra[form] for item in found.items] == pytest.approx(expected)
        assert found.summary["auc"] == pytest.approx(auc(expected[:2], expected[2:]))
        assert np.mean([item.score for item in found.items]) == pytest.approx(found.summary["auc"])
    assert (online.probe, offline.probe, online.side, online.higher_is_better) == ("lira", "lira.offline", "target", False)
    assert "4 others: a false-positive rate of 1% allows none" in online.note


def test_what_is_told_of_a_run() -> None:
    def scores(*values: float) -> Scores:
        items = tuple(ItemScore(f"row:{i}", v, extra={"member": float(i < 2)}) for i, v in enumerate(values))
        probe = ProbeScores(shadows.PROBE, "AUC", "continuous", False, items, "target", {"auc": float(np.mean(values)), "tpr_at_1_fpr": 0.5})
        return Scores("m", (probe,))

    found = shadows.told(scores(1, 1, 1, 1), scores(0.5, 0.5, 0.5, 0.5), None, 16)
    assert (found["shadow_models"], found["members"], found["others"]) == (16, 2, 2) and "oracle" not in found
    assert found["before"]["online"]["auc"]["point"] == 1 and found["after"]["online"]["tpr_at_1_fpr"]["point"] == 0.5
    assert "before AUC 1.00 [" in shadows.sentence(found) and "after AUC 0.50 [" in shadows.sentence(found)
    assert shadows.told(Scores("m", ()), Scores("m", ()), None, 0) == {} and shadows.sentence({}) == ""
    json.dumps(found, allow_nan=False)


class Stopped:
    """A run as far as `_losses` reads it; at its `at`-th step it is asked to stop."""

    def __init__(self, at: int) -> None:
        from tempering.config import Training
        from tempering.forgetting.oracle import Learning

        self.values = {"seed": 0, "training": Training(precision="fp32"), "learning": Learning(learn_epochs=4, learn_batch_size=4, learn_lr=1e-3)}
        self.at, self.seen, self.stopper, self.display, self.names = at, 0, None, self, list[str]()

    def say(self, text: str) -> None: ...

    def phase(self, name: str, total: int) -> Stopped:
        self.names.append(name)
        return self

    def __enter__(self) -> Stopped:
        return self

    def __exit__(self, *error: object) -> None: ...

    def advance(self, done: int, total: int) -> None:
        self.seen += 1
        if self.seen == self.at:
            self.stopper("a test")  # type: ignore[misc]


def test_a_stopped_run_ends_with_the_same_shadow_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tempering import models

    models.save(policy(), tmp_path / "base")
    every = [{"forget": row["train"]} for row in rows(8)]
    asked = shadows.Asked(str(tmp_path / "base"), every, 4, [{"retain": row["train"]} for row in rows(4)], {"data": "d"})
    was_in = shadows.halves(4, 8, 0)

    def losses(run: Any) -> list[list[float]]:
        return [shadows._losses(run, asked, number, was_in) for number in range(4)]

    monkeypatch.setenv("TEMPERING_HOME", str(tmp_path / "undisturbed"))
    whole = losses(Stopped(0))
    monkeypatch.setenv("TEMPERING_HOME", str(tmp_path / "stopped"))
    # The second model, in the middle of its training.
    run = Stopped(12)
    with pytest.raises(Interrupted, match="stopped by a test"):
        losses(run)
    again = Stopped(0)
    assert losses(again) == whole
    assert run.names == ["training the shadow model 1 of 4", "training the shadow model 2 of 4"]
    assert again.names[0] == "training the shadow model 2 of 4" and len(again.names) == 3, "what was done is not done again"
    assert again.seen < 3 * 8, "and what was half done is gone on with"
    done = Stopped(0)
    assert losses(done) == whole and not done.names
    left = [path.name for path in (tmp_path / "stopped" / "shadows").rglob("*") if path.is_file()]
    assert not [name for name in left if "safetensors" in name], "no weights that know are left behind"
