"""Rewards: reward models as functions of text, ensembles of them, and how far best-of-n can be pushed against a proxy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from tempering.best_of import best_of, best_of_kl, calibration, curve, pools, scored
from tempering.cases import Case
from tempering.data import pair_row
from tempering.data.strength import strength, with_strength
from tempering.errors import UserError
from tempering.layout import collate
from tempering.methods.objectives.bradley_terry import BradleyTerry
from tempering.methods.objectives.ids import IDS
from tempering.methods.objectives.reward_regression import RewardRegression
from tempering.methods.objectives.segment_reward import SegmentReward
from tempering.methods.probes.over_optimisation import OverOptimisation, OverOptimisationItem
from tempering.methods.rewards.ensemble import Ensemble, How
from tempering.methods.rewards.reward_model import RewardModel
from tempering.models import save
from tempering.models.value import ValueModel
from tempering.proof import hand
from tempering.reduce import last
from tempering.signals import Engine, Live, compute
from tempering.types import Message, Policy, Prompt, Record, Response, Segment
from tests.conftest import make_llama, make_tokenizer

# ------------------------------------------------------------------------------------------------------------------------------------ reward models


def value_policy(outputs: int = 1, seed: int = 0) -> Policy:
    """A random reward model whose outputs are spread out."""
    model = ValueModel(make_llama(seed=seed), outputs)
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.value_head.weight, std=0.5)
    return Policy(model, make_tokenizer())


PROMPTS = ("the red fox", "rain?", "the red fox")
ANSWERS = ("runs", "an old house where nine men sing", "")


def test_a_reward_model_gives_what_training_saw_at_the_last_scored_token(tmp_path: Path) -> None:
    policy = value_policy()
    record = Record(
        (Message("user", PROMPTS[0]),), (Response((Message("assistant", ANSWERS[0]),)), Response((Message("assistant", ANSWERS[1]),))), ((0, 1),)
    )
    row = pair_row(record, policy.tokenizer)
    assert row is not None
    parts = collate([row])
    signals = compute({"policy": Live(policy.model)}, parts, {part: frozenset({"reward"}) for part in parts}, Engine())
    expected = [float(last(signals[part]["reward"], parts[part])) for part in ("chosen", "rejected")]
    got = RewardModel(policy)([PROMPTS[0], (Message("user", PROMPTS[0]),)], ANSWERS[:2])
    assert got.dtype == np.float64 and got == pytest.approx(expected, abs=1e-5) and abs(got[0] - got[1]) > 1e-2
    save(policy, tmp_path / "rm")
    assert RewardModel(str(tmp_path / "rm"))([PROMPTS[0]] * 2, ANSWERS[:2]) == pytest.approx(expected, abs=1e-5)


def test_batches_and_neighbours_change_nothing_and_a_direction_is_a_product() -> None:
    policy = value_policy(outputs=2)
    whole = RewardModel(policy, direction=(0.6, -0.8))
    alone = RewardModel(policy, direction=(0.6, -0.8), batch_tokens=1)
    scores = whole(PROMPTS, ANSWERS)
    assert scores.shape == (3,) and alone(PROMPTS, ANSWERS) == pytest.approx(scores, abs=1e-5)
    assert whole.outputs(PROMPTS, ANSWERS) @ np.array([0.6, -0.8]) == pytest.approx(scores)
    # DPA: scaling a direction, or an attribute that it leaves out, picks no other answer.
    one = RewardModel(policy, direction=(1.0, 0.0))(PROMPTS, ANSWERS)
    assert np.argsort(RewardModel(policy, direction=(7.0, 0.0))(PROMPTS, ANSWERS)).tolist() == np.argsort(one).tolist()
    assert one == pytest.approx(whole.outputs(PROMPTS, ANSWERS)[:, 0]) and whole([], []).shape == (0,)


def test_what_is_no_reward_model_is_refused() -> None:
    with pytest.raises(UserError, match="has a vocabulary, not a score"):
        RewardModel(Policy(make_llama(), make_tokenizer(), name="plain"))(PROMPTS, ANSWERS)
    with pytest.raises(UserError, match="direction has 3 numbers, the model 2 outputs"):
        RewardModel(value_policy(2), direction=(1.0, 0.0, 0.0))(PROMPTS, ANSWERS)


# ---------------------------------------------------------------------------------------------------------------------------------------- ensembles


def fixed(*scores: float):  # type: ignore[no-untyped-def]
    """A reward that knows the answers in advance."""

    def reward(prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        return np.array(scores[: len(answers)])

    return reward


MEMBERS = (fixed(1.0, 4.0, 0.0), fixed(3.0, -2.0, 0.0), fixed(2.0, 1.0, 3.0))


def test_ensembles_by_hand() -> None:
    """Means 2, 1, 1; variances 2/3, 6, 2 (S207)."""
    assert Ensemble(MEMBERS, "mean")(PROMPTS, ANSWERS).tolist() == [2.0, 1.0, 1.0]
    assert Ensemble(MEMBERS, "worst")(PROMPTS, ANSWERS).tolist() == [1.0, -2.0, 0.0]
    assert Ensemble(MEMBERS, "uncertainty")(PROMPTS, ANSWERS) == pytest.approx([2 - 1 / 3, 1 - 3, 1 - 1])


def test_ensembles_have_the_limits_of_the_paper() -> None:
    """Penalty 0 is the mean; one member is itself; worst and uncertainty are never above the mean; a constant added to all is added to the result."""
    mean, worst, careful = (Ensemble(MEMBERS, how)(PROMPTS, ANSWERS) for how in get_args(How))
    assert Ensemble(MEMBERS, "uncertainty", penalty=0.0)(PROMPTS, ANSWERS).tolist() == mean.tolist()
    assert (worst <= mean).all() and (careful <= mean).all()
    moved = tuple(lambda p, a, member=member: member(p, a) + 5.0 for member in MEMBERS)
    for how, plain in zip(get_args(How), (mean, worst, careful), strict=True):
        assert Ensemble(MEMBERS[:1], how)(PROMPTS, ANSWERS).tolist() == [1.0, 4.0, 0.0]
        assert Ensemble(moved, how)(PROMPTS, ANSWERS) == pytest.approx(plain + 5.0)
    nested = Ensemble((Ensemble(MEMBERS[:2], "worst"), MEMBERS[2]), "worst")
    assert nested(PROMPTS, ANSWERS).tolist() == worst.tolist()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"members": ()}, "members is empty"), ({"how": "median"}, "how is 'median'; it is one of mean, worst"), ({"penalty": -1.0}, "penalty is -1.0")],
)
def test_bad_ensembles_are_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Ensemble(**{"members": MEMBERS, **settings})  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------------------------------------- best-of-n


def by_force(proxy: Sequence[float], value: Sequence[float], n: int) -> float:
    """The mean over all subsets of n of the value of the subset's best, of equal ones each as often."""
    total = 0.0
    subsets = list(combinations(range(len(proxy)), n))
    for subset in subsets:
        most = max(proxy[i] for i in subset)
        best = [value[i] for i in subset if proxy[i] == most]
        total += sum(best) / len(best)
    return total / len(subsets)


@pytest.mark.parametrize("ties", [False, True])
def test_the_estimate_over_a_pool_is_the_mean_over_all_its_subsets(ties: bool) -> None:
    rng = np.random.default_rng(3)
    proxy, value = rng.normal(size=9), rng.normal(size=9)
    proxy = np.round(proxy) if ties else proxy
    assert (len(set(proxy)) < 6) == ties
    for n in range(1, 10):
        assert best_of(proxy, value, n) == pytest.approx(by_force(proxy.tolist(), value.tolist(), n), abs=1e-12)
    assert best_of(proxy, value, 1) == pytest.approx(value.mean())


def test_best_of_n_costs_what_is_known() -> None:
    """The closed form is the divergence of the largest of n uniform numbers (density n u^(n - 1)) from one: the integral of log density under it."""
    assert best_of_kl(1) == 0.0 and best_of_kl(2) == pytest.approx(math.log(2) - 0.5)
    u = (np.arange(200_000) + 0.5) / 200_000
    for n in (2, 7, 64):
        log_density = math.log(n) + (n - 1) * np.log(u)
        assert best_of_kl(n) == pytest.approx(float((np.exp(log_density) * log_density).mean()), abs=1e-3)


def test_a_curve_finds_where_a_proxy_turns() -> None:
    """The gold reward follows the proxy up to 1 and falls by twice as much after it."""
    proxy = np.random.default_rng(0).normal(size=(40, 64))
    gold = np.where(proxy < 1, proxy, 3 - 2 * proxy)
    found = curve(proxy, gold)
    assert found.n == (1, 2, 4, 8, 16, 32, 64) and found.kl == tuple(map(best_of_kl, found.n))
    assert list(found.proxy) == sorted(found.proxy) and found.proxy[-1] == pytest.approx(proxy.max(1).mean())
    assert found.peak in (4, 8) and found.turns and "it turns" in found.words() and found.gold[0] == pytest.approx(gold.mean())
    same = curve(proxy, proxy, n=(1, 64))
    assert same.peak == 64 and not same.turns and same.drop.point == 0 and "does not turn" in same.words()
    assert same.gold == same.proxy
    # A proxy that knows nothing moves nothing but noise.
    flat = curve(proxy, np.zeros_like(proxy))
    assert flat.gold == (0.0,) * 7 and not flat.turns


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: best_of([1.0], [1.0], 2), "n is 2, the pool has 1 answers"),
        (lambda: best_of([1.0, 2.0], [1.0], 1), "give one of each for every answer"),
        (lambda: best_of([math.nan, 2.0], [1.0, 1.0], 1), "not a number"),
        (lambda: best_of_kl(0), "n is 0"),
        (lambda: curve(np.zeros((0, 4)), np.zeros((0, 4))), "no answer to choose from"),
        (lambda: calibration([]), "there are no margins"),
    ],
)
def test_bad_pools_are_refused(act: Callable[[], object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        act()


def test_calibration_of_margins_by_hand() -> None:
    """Confidences 0.8, 0.8 (wrong) and 0.5 (a tie, wrong): bins at 0.8 (half right) and 0.5 (none)."""
    margin = math.log(4)
    found = calibration([margin, -margin, 0.0])
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["ece"] == pytest.approx((2 * abs(0.5 - 0.8) + 0.5) / 3)
    assert found["brier"] == pytest.approx((0.2**2 + 0.8**2 + 0.5**2) / 3)
    # Margins of log(p / (1 - p)) that are right p of the time are calibrated.
    assert calibration([math.log(3)] * 3 + [-math.log(3)])["ece"] == pytest.approx(0.0, abs=1e-12)


def test_pools_of_a_model_are_scored_by_any_function() -> None:
    policy = Policy(make_llama(), make_tokenizer())
    found = pools(policy, PROMPTS[:2], 3, max_new_tokens=4, seed=1)
    answers = [[episode.text for episode in pool] for pool in found]
    scores = scored(lambda prompts, texts: np.array([len(p) + 100 * len(t) for p, t in zip(prompts, texts, strict=True)]), PROMPTS[:2], answers)
    assert scores.shape == (2, 3) and scores.tolist() == [[len(p) + 100 * len(a) for a in pool] for p, pool in zip(PROMPTS, answers, strict=False)]


def test_the_probe_shows_the_curve_of_two_rewards(tmp_path: Path) -> None:
    """A proxy that is the gold reward does not turn; one that is its opposite ends at the pool's worst. Folders with commas are their worst."""
    policy = Policy(make_llama(), make_tokenizer())

    def length(prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        return np.array([float(len(answer.encode())) for answer in answers])

    items = tuple(OverOptimisationItem(prompt=prompt, id=str(i)) for i, prompt in enumerate(PROMPTS))
    probe = OverOptimisation(items=items, proxy=length, gold=length, n=6, max_new_tokens=4)
    same, against = probe(policy), probe.model_copy(update={"proxy": lambda p, a: -length(p, a)})(policy)
    assert [item.score for item in same.items] == pytest.approx([item.extra["gold_most"] for item in same.items])
    assert same.summary["gold_6"] > same.summary["gold_1"] == pytest.approx(np.mean([item.extra["gold_mean"] for item in same.items]))
    assert same.summary["drop"] == 0 and same.summary["kl"] == best_of_kl(6) and len(same.items[0].output.encode()) == same.items[0].score
    assert against.summary["peak"] == 1 and against.summary["drop"] > 0 and "it turns" in against.note
    folders = [str(save(value_policy(seed=k), tmp_path / str(k))) for k in (1, 2)]
    worst = probe.model_copy(update={"proxy": ",".join(folders)})(policy)
    by_hand = Ensemble(tuple(RewardModel(folder) for folder in folders), "worst")
    assert worst == probe.model_copy(update={"proxy": by_hand})(policy)


# ------------------------------------------------------------------------------------------------------------------------------- objectives' limits


def test_labels_of_a_frozen_model_close_in_geometrically() -> None:
    """S176: y_t - sigmoid(d) = (1 - beta)^t (y_0 - sigmoid(d)), and a rate of 0 leaves them."""
    won = torch.tensor([0.2, 0.9], dtype=torch.float64)
    for beta in (0.3, 0.0):
        objective = IDS(rows=3, beta=beta)
        state, stats = objective.initial(), {"won": won, "index": torch.tensor([2.0, 0.0])}
        for step in range(1, 6):
            before, state = state, objective.advance(state, stats)
            assert torch.equal(state["label"], before["next"]) and state["next"][1] == 1
            torch.testing.assert_close(state["next"][[2, 0]] - won, (1 - beta) ** step * (1 - won))


def test_the_best_regression_is_the_conditional_mean() -> None:
    """S237: of ratings 1, 2 and 6 of one answer, the mean 3 has no gradient; so does every attribute by itself."""
    outputs = [[[3.0, 0.5]]] * 3
    case = Case("", RewardRegression(("a", "b")), {"train": {"rewards": outputs, "a": [1.0, 2.0, 6.0], "b": [0.0, 1.0, 0.5]}}, loss=0.0)
    outcome = hand.run(case.objective, hand.tensors(case))
    assert outcome.gradient["train/rewards"].sum(0).abs().max() < 1e-12 and outcome.loss == pytest.approx(((4 + 1 + 9) / 2 + 0.5 / 2) / 3)


# -------------------------------------------------------------------------------------------------------------------------- strength of preferences


def test_strength_by_hand_and_without_what_models_add_to_all_answers() -> None:
    """S217: differences 2, -1 and 4, 1 of two models: means 3 and 0, deviations 1 and 1."""
    chosen, rejected = np.array([[3.0, 0.0], [5.0, 1.0]]), np.array([[1.0, 1.0], [1.0, 0.0]])
    mu, sigma = strength(chosen, rejected)
    assert mu.tolist() == [3.0, 0.0] and sigma.tolist() == [1.0, 1.0]
    moved = np.array([[7.0], [-2.0]])
    assert strength(chosen + moved, rejected + moved)[0].tolist() == [3.0, 0.0]
    with pytest.raises(UserError, match="give \\[models, pairs\\] of both"):
        strength(chosen, rejected[:1])


def test_weak_labels_are_swapped_and_columns_follow() -> None:
    """Flipping all that are below 0 leaves no strength below 0; the row with the weakest goes first."""
    rows = [{side: (Segment(np.array([1, i + 2]), np.array([0.0, 1.0])),) for i, side in enumerate(("chosen", "rejected"))} for _ in range(4)]
    mu = [0.5, -2.0, -0.25, 3.0]
    once, all_ = with_strength(rows, mu, flip=0.25, soft=0.1), with_strength(rows, mu, flip=1.0)
    assert [int(row["chosen"][0].ids[1]) for row in once] == [2, 3, 2, 2] and [int(row["chosen"][0].ids[1]) for row in all_] == [2, 3, 3, 2]
    assert [row["chosen"][0].extras["margin"] for row in once] == [0.5, 2.0, -0.25, 3.0]
    assert [row["rejected"][0].extras for row in all_] == [{"margin": m, "soft": 1.0} for m in (0.5, 2.0, 0.25, 3.0)]
    assert once[0]["chosen"][0].extras["soft"] == 0.9 and with_strength(rows, mu)[1]["chosen"][0].ids[1] == 2
    for settings, sentence in (({"flip": 1.5}, "flip is 1.5"), ({"soft": -0.1}, "soft is -0.1")):
        with pytest.raises(UserError, match=sentence):
            with_strength(rows, mu, **settings)
    with pytest.raises(UserError, match="1 strengths for 4 rows"):
        with_strength(rows, [1.0])


def test_a_margin_of_0_and_sure_labels_are_bradley_terry() -> None:
    """S217: mu = 0 and p = 0 reduce to the plain loss, exactly."""
    signals = {"chosen": {"reward": [[1.5], [-0.5]], "margin": [0.0, 0.0], "soft": [1.0, 1.0]}, "rejected": {"reward": [[0.25], [1.0]]}}
    plain, other = (hand.run(o, hand.tensors(Case("", o, signals, 0.0))) for o in (BradleyTerry(), BradleyTerry(margin=1.0, soft=True)))
    assert plain.loss == other.loss and torch.equal(plain.gradient["chosen/reward"], other.gradient["chosen/reward"])


def test_segments_without_cuts_are_bradley_terry_and_cuts_everywhere_are_tokens() -> None:
    """S160: a cutoff of infinity is the bandit loss, one of 0 the mean reward of all tokens whose writer was not certain."""
    tokens = {"reward": [[1.0, 2.0, 6.0], [0.5]], "prior.entropy": [[0.1, 0.3, 0.2], [1.0]]}
    signals = {"chosen": tokens, "rejected": {"reward": [[0.0], [2.0]], "prior.entropy": [[0.4], [0.2]]}}
    whole, bandit, token = (
        hand.run(o, hand.tensors(Case("", o, signals, 0.0))) for o in (SegmentReward(cutoff=math.inf), BradleyTerry(), SegmentReward(cutoff=0.0))
    )
    assert whole.loss == bandit.loss and torch.equal(whole.gradient["chosen/reward"], bandit.gradient["chosen/reward"])
    assert token.logs["chosen_reward"] == pytest.approx((3.0 + 0.5) / 2)
