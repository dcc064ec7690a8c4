"""Losses on answers: what the catalogue says must hold of each exactly (limits, special cases, sums), and what their docstrings promise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tempering.cases import Case
from tempering.fit import Means, count_terms, total
from tempering.layout import collate, split
from tempering.methods.objectives.dft import DFT
from tempering.methods.objectives.flipped import Flipped
from tempering.methods.objectives.focal import Focal
from tempering.methods.objectives.gce import GCE
from tempering.methods.objectives.iq_learn import IQLearn
from tempering.methods.objectives.label_smoothing import LabelSmoothing
from tempering.methods.objectives.minor_sft import MinorSFT
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.rfs import RFS
from tempering.methods.objectives.sce import SCE
from tempering.methods.objectives.sequence_unlikelihood import SequenceUnlikelihood
from tempering.methods.objectives.supcon import SupCon
from tempering.methods.objectives.triplet import Triplet
from tempering.methods.objectives.unlikelihood import Unlikelihood
from tempering.methods.scopes.full import Full
from tempering.proof import hand
from tempering.signals import Engine, Live
from tempering.types import Objective, Role, Row, Segment
from tests.conftest import make_llama

LENGTHS, VOCABULARY = (3, 1, 4), 12
WEIGHTS = {"train": [[1, 0, 2], [0.5], [1, 1, 0, 1]]}


def numbers(seed: int, *shape: int) -> list[Any]:
    """Segments of random numbers, [S][T_s] or with more dimensions."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, *shape, generator=generator, dtype=torch.float64).tolist() for n in LENGTHS]


def tokens(**extra: Any) -> dict[str, Any]:
    """Signals of one set of logits, whatever an objective asks for."""
    logits = [torch.tensor(x, dtype=torch.float64) for x in numbers(0, VOCABULARY)]
    ids = iter(torch.arange(sum(LENGTHS)) % 7 + 3)
    targets = [torch.stack([next(ids) for _ in segment]) for segment in logits]
    logp = [z.log_softmax(-1) for z in logits]
    return {
        "logits": [z.tolist() for z in logits],
        "logp": [x.gather(1, t[:, None])[:, 0].tolist() for x, t in zip(logp, targets, strict=True)],
        "mean_logp": [x.mean(1).tolist() for x in logp],
        "logsumexp": [z.logsumexp(1).tolist() for z in logits],
        "reference.logp": [(x.gather(1, t[:, None])[:, 0] - 0.3).tolist() for x, t in zip(logp, targets, strict=True)],
        "label": [1.0, 1.0, 1.0],
        **extra,
    }


def outcome(objective: Objective, signals: Mapping[str, Any] | None = None, weights: Any = WEIGHTS) -> hand.Outcome:
    """Loss and gradients on the signals; only what the objective needs is used."""
    found = signals or tokens()
    mine = {name: found[name] for names in objective.needs.values() for name in names}
    return hand.run(objective, hand.tensors(Case("", objective, {"train": mine}, loss=0, weights=weights)))


def same(a: Objective, b: Objective, signals: Mapping[str, Any] | None = None, tolerance: float = 1e-9) -> None:
    """Equal loss and equal gradient of every signal that both have."""
    one, other = outcome(a, signals), outcome(b, signals)
    assert one.loss == pytest.approx(other.loss, abs=tolerance, rel=tolerance)
    shared = one.gradient.keys() & other.gradient.keys()
    assert shared
    for name in shared:
        assert torch.allclose(one.gradient[name], other.gradient[name], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("objective", "tolerance"),
    [
        (LabelSmoothing(epsilon=0.0), 1e-9),
        (Focal(gamma=0.0), 1e-9),
        (GCE(q=1e-7), 1e-5),
        (SCE(alpha=1.0, beta=0.0), 1e-9),
        (IQLearn(penalty=0.0), 1e-9),
        (SequenceUnlikelihood(), 1e-9),
        (Flipped(weight=0.0), 1e-9),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Objective) else "",
)
def test_limits_that_are_cross_entropy(objective: Objective, tolerance: float) -> None:
    same(objective, NLL(), tolerance=tolerance)


def test_unlikelihood_without_weight_is_cross_entropy() -> None:
    assert outcome(Unlikelihood(alpha=0.0)).loss == pytest.approx(outcome(NLL()).loss, rel=1e-9)


# ------------------------------------------------------------------------------------------------------------------- weights of tokens and rows


def test_weights_of_tokens_and_of_rows_are_cross_entropy_s_own() -> None:
    """A weight per token, and a row's weight (`Response.weight`, multiplied into its tokens), need no loss of their own: sum w nll / sum w."""
    logp, weight = tokens()["logp"], WEIGHTS["train"]
    plain = sum(-w * x for row, ws in zip(logp, weight, strict=True) for x, w in zip(row, ws, strict=True)) / sum(map(sum, weight))
    assert outcome(NLL()).loss == pytest.approx(plain, rel=1e-12)
    rows = {"train": [[3 * w for w in row] if i == 0 else row for i, row in enumerate(weight)]}
    doubled = [*logp, logp[0], logp[0]]
    thrice = {"train": [*weight, weight[0], weight[0]]}
    assert outcome(NLL(), {"logp": logp}, rows).loss == pytest.approx(outcome(NLL(), {"logp": doubled}, thrice).loss, rel=1e-12)


# ---------------------------------------------------------------------------------------------------------------------------------- noisy labels


def test_generalised_cross_entropy_at_1_is_a_miss_s_probability() -> None:
    p = [math.exp(x) for row, ws in zip(tokens()["logp"], WEIGHTS["train"], strict=True) for x, w in zip(row, ws, strict=True) if w]
    w = [w for ws in WEIGHTS["train"] for w in ws if w]
    assert outcome(GCE(q=1.0)).loss == pytest.approx(sum(b * (1 - a) for a, b in zip(p, w, strict=True)) / sum(w), rel=1e-12)


def test_dft_has_the_gradient_of_generalised_cross_entropy_at_1() -> None:
    """-sg(p) grad log p = -grad p."""
    assert torch.allclose(outcome(DFT()).gradient["train/logp"], outcome(GCE(q=1.0)).gradient["train/logp"])


def test_symmetric_cross_entropy_is_a_sum_of_two() -> None:
    both, one, two = outcome(SCE(alpha=0.3, beta=0.5, log_zero=-6.0)), outcome(NLL()), outcome(GCE(q=1.0))
    assert both.loss == pytest.approx(0.3 * one.loss + 3 * two.loss, rel=1e-12)


# -------------------------------------------------------------------------------------------------------------------------------------- MinorSFT


@pytest.mark.parametrize("beta", [0.01, 1.0, 7.0])
def test_minor_sft_at_the_reference_has_the_gradient_of_mean_cross_entropy(beta: float) -> None:
    at = tokens() | {"reference.logp": tokens()["logp"]}
    minor, mean = outcome(MinorSFT(beta=beta), at), outcome(NLL(norm="segment_mean"), at)
    assert torch.allclose(minor.gradient["train/logp"], mean.gradient["train/logp"], atol=1e-12)
    assert minor.logs["deviation"] == 0


def test_minor_sft_with_a_small_beta_has_it_everywhere() -> None:
    minor, mean = outcome(MinorSFT(beta=1e-9)), outcome(NLL(norm="segment_mean"))
    assert torch.allclose(minor.gradient["train/logp"], mean.gradient["train/logp"], atol=1e-8)
    assert minor.logs["deviation"] == pytest.approx(0.3)


def test_minor_sft_s_weight_lies_between_0_and_2_and_falls() -> None:
    """The weight of an answer of one token is minus its gradient."""
    weights = []
    for ratio in (-40.0, -2.0, 0.0, 2.0, 40.0):
        at = {"logp": [[-50.0 + ratio]], "reference.logp": [[-50.0]]}
        weights.append(-float(outcome(MinorSFT(beta=1.0), at, {}).gradient["train/logp"]))
    assert all(0 <= w <= 2 for w in weights) and weights == sorted(weights, reverse=True)
    assert weights[0] == pytest.approx(2, abs=1e-9) and weights[2] == pytest.approx(1, abs=1e-12) and weights[-1] == pytest.approx(0, abs=1e-9)


# -------------------------------------------------------------------------------------------------------------------------------------- IQ-Learn


def test_undiscounted_it_is_iq_learn_s_own_objective() -> None:
    """sum phi(r) - V(s_0), phi(x) = x - x^2 / (4 alpha), with every token scored alike: V telescopes."""
    alpha, s = 1.5, tokens()
    ones = {"train": [[1] * n for n in LENGTHS]}
    value = 0.0
    for q_T, v_T in zip(
        ([a + b for a, b in zip(x, y, strict=True)] for x, y in zip(s["logp"], s["logsumexp"], strict=True)), s["logsumexp"], strict=True
    ):
        rewards = [q - after for q, after in zip(q_T, [*v_T[1:], 0.0], strict=True)]
        value += sum(r - r**2 / (4 * alpha) for r in rewards) - v_T[0]
    assert outcome(IQLearn(penalty=1 / (4 * alpha)), s, ones).loss == pytest.approx(-value / sum(LENGTHS), rel=1e-9)


def test_the_penalty_sees_a_shift_of_the_logits_that_likelihood_does_not() -> None:
    """A constant added to the logits of a last token is a reward of that size."""
    base = {"logp": [[-1.0, -2.0]], "logsumexp": [[2.0, 2.0]]}
    moved = {"logp": [[-1.0, -2.0]], "logsumexp": [[2.0, 5.0]]}
    rewards = [(-1 + 2 - 2, -2 + 2), (-1 + 2 - 5, -2 + 5)]
    for at, (first, second) in zip((base, moved), rewards, strict=True):
        assert outcome(IQLearn(penalty=0.5), at, {}).loss == pytest.approx((3 + 0.5 * (first**2 + second**2)) / 2)


# -------------------------------------------------------------------------------------------------------------------------- flipped, unlikelihood


def test_flipped_scores_every_option_on_the_same_tokens() -> None:
    """The label is context: an option that is longer adds no term."""
    short = {"logp": [[-9.0, -0.5, -0.7]], "label": [1.0]}
    long = {"logp": [[-9.0, -3.0, -8.0, -0.5, -0.7]], "label": [1.0]}
    losses = [outcome(Flipped(), at, {"train": [[0] * (len(at["logp"][0]) - 2) + [1, 1]]}).loss for at in (short, long)]
    assert losses[0] == losses[1] == pytest.approx(0.6)


def test_an_answer_without_repetition_has_no_repeated_ngram() -> None:
    at = {"logp": [[-0.1] * 7, [-1.0]], "label": [0.0, 1.0]}
    assert outcome(SequenceUnlikelihood(ngram=1), at, {}).loss == 1.0
    twice = {"logp": [[-0.1] * 14, [-1.0]], "label": [0.0, 1.0]}
    for n in (1, 4, 7):
        assert outcome(SequenceUnlikelihood(ngram=n), twice, {}).loss == pytest.approx(1 - math.log(-math.expm1(-0.1)))
    assert outcome(SequenceUnlikelihood(ngram=8), twice, {}).loss == 1.0


def test_unlikelihood_equals_a_loop_over_sets() -> None:
    """The definition, token by token, on the logits of a longer text with many repeats."""
    n = 20
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(n, VOCABULARY, generator=generator, dtype=torch.float64)
    ids = [i % 7 + 3 for i in range(n)]
    p = logits.softmax(-1)
    expected = 0.0
    for t in range(n):
        expected -= float(p[t, ids[t]].log()) + 0.7 * sum(float((1 - p[t, c]).log()) for c in set(ids[:t]) - {ids[t]})
    assert outcome(Unlikelihood(alpha=0.7), {"logits": [logits.tolist()]}, {}).loss == pytest.approx(expected / n, rel=1e-12)


# ------------------------------------------------------------------------------------------------------------------------------------- embeddings


def vectors(num: int, seed: int = 0) -> Tensor:
    return torch.randn(num, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_contrast_over_classes_of_two_is_infonce() -> None:
    x = vectors(6)
    at = {"hidden": [[row] for row in x.tolist()], "label": [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]}
    z = F.normalize(x, dim=-1)
    score = (z @ z.T / 0.2).masked_fill(torch.eye(6).bool(), -torch.inf)
    expected = F.cross_entropy(score, torch.tensor([3, 4, 5, 0, 1, 2]))
    assert outcome(SupCon(temperature=0.2), at, {}).loss == pytest.approx(float(expected), rel=1e-9)


def test_the_triplet_loss_equals_torch_s_on_the_hardest_triplets() -> None:
    x, label = vectors(7), torch.tensor([0, 0, 0, 1, 1, 2, 2])
    z = F.normalize(x, dim=-1)
    distance = torch.cdist(z, z) ** 2
    alike = label[:, None] == label[None]
    positive = distance.masked_fill(~alike | torch.eye(7).bool(), -torch.inf).argmax(1)
    negative = distance.masked_fill(alike, torch.inf).argmin(1)
    square = torch.nn.TripletMarginWithDistanceLoss(distance_function=lambda a, b: ((a - b) ** 2).sum(-1), margin=0.3)
    at = {"hidden": [[row] for row in x.tolist()], "label": label.double().tolist()}
    assert outcome(Triplet(margin=0.3), at, {}).loss == pytest.approx(float(square(z, z[positive], z[negative])), rel=1e-9)


@pytest.mark.parametrize("objective", [SupCon(), Triplet(margin=1.5), SupCon(pool="last")], ids=["supcon", "triplet", "last"])
@pytest.mark.parametrize("micro", [1, 25])
def test_cutting_the_step_leaves_the_gradient_as_it_is(objective: Objective, micro: int) -> None:
    """Anchors of one micro-batch and what they are compared with in another: both slopes arrive."""
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for i in range(7):
        ids, weight = rng.integers(4, 270, 4 + i).astype(np.int32), np.ones(4 + i, np.float32)
        weight[: 1 + i % 3] = 0
        rows.append({"train": (Segment(ids, weight if i != 3 else 0 * weight, {"label": float(i % 2)}),)})
    parts, found = collate(rows), []
    for cut in (None, micro):
        model = make_llama()
        live = {"policy": Live.attach(Role(model, Full()))}  # type: ignore[arg-type]
        micros = split(parts, cut)
        loss = total(live, objective, [lambda m=m: m for m in micros], count_terms(objective, [parts]), 0, Engine(), Means())
        found.append((loss, {name: p.grad for name, p in model.named_parameters()}, len(micros)))
    assert found[0][2] == 1 < found[1][2]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    for name, grad in found[0][1].items():
        assert torch.allclose(grad, found[1][1][name], atol=1e-6), name


# ------------------------------------------------------------------------------------------------------------------------------------ classifiers


def scores(seed: int) -> list[Any]:
    return numbers(seed, 5)


def test_the_first_generation_is_plain_training() -> None:
    at = {"rewards": scores(1), "label": [4.0, 0.0, 2.0]}
    last = torch.tensor([at["rewards"][0][2], at["rewards"][1][0], at["rewards"][2][3]], dtype=torch.float64)
    assert outcome(RFS(hard=1.0, distil=0.0), at).loss == pytest.approx(float(F.cross_entropy(last, torch.tensor([4, 0, 2]))), rel=1e-12)


def test_a_student_that_equals_its_teacher_is_left_alone() -> None:
    at = {"rewards": scores(1), "teacher.rewards": scores(1), "label": [4.0, 0.0, 2.0]}
    found = outcome(RFS(hard=0.0), at)
    assert found.loss == pytest.approx(0, abs=1e-12) and float(found.gradient["train/rewards"].abs().max()) < 1e-12
    assert outcome(RFS(hard=0.0), at | {"teacher.rewards": scores(2)}).loss > 0.01


def test_distillation_s_gradient_keeps_its_size_at_high_temperature() -> None:
    """T^2 makes up for the 1/T^2 of softened targets (Hinton et al. 2015, section 2.1): the limit is that of squared differences / 2K."""
    at = {"rewards": scores(1), "teacher.rewards": scores(2), "label": [4.0, 0.0, 2.0]}
    warm, hot = (outcome(RFS(hard=0.0, distil=1.0, temperature=t), at).gradient["train/rewards"] for t in (1e3, 1e4))
    assert float(warm.abs().max()) > 1e-2 and torch.allclose(warm, hot, rtol=0.02, atol=1e-4)
