"""Exact limits of the losses on pairs and on ranked answers: where one is another, and what the options that they share mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tempering.cases import Case
from tempering.coupling import Memory
from tempering.errors import UserError
from tempering.fit import Means, count_terms, total
from tempering.layout import collate, split
from tempering.methods.objectives._paired import Contrast
from tempering.methods.objectives.aot import AOT
from tempering.methods.objectives.apo import APO
from tempering.methods.objectives.bco_pair import BCOPair
from tempering.methods.objectives.cpo import CPO
from tempering.methods.objectives.dense_dpo import DenseDPO
from tempering.methods.objectives.discopop import DiscoPOP
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.dpop import DPOP
from tempering.methods.objectives.exo import EXO
from tempering.methods.objectives.f_dpo import FDPO
from tempering.methods.objectives.figa import FIGA
from tempering.methods.objectives.hinge import Hinge
from tempering.methods.objectives.ipo import IPO
from tempering.methods.objectives.ld_dpo import LDDPO
from tempering.methods.objectives.lipo import LiPO
from tempering.methods.objectives.ln_dpo import LNDPO
from tempering.methods.objectives.nca import NCA
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.odpo import ODPO
from tempering.methods.objectives.orpo import ORPO
from tempering.methods.objectives.pl_dpo import PLDPO
from tempering.methods.objectives.r_dpo import RDPO
from tempering.methods.objectives.rescue import Rescue
from tempering.methods.objectives.robust_dpo import RobustDPO
from tempering.methods.objectives.rpo import RPO
from tempering.methods.objectives.rrhf import RRHF
from tempering.methods.objectives.slic import SLiC
from tempering.methods.objectives.sppo import SPPO
from tempering.methods.objectives.sr_dpo import SrDPO
from tempering.methods.objectives.wpo import WPO
from tempering.proof import hand
from tempering.signals import Engine, Live, compute
from tempering.types import Objective
from tests.toy import toy_llama, toy_rows

LOG2 = math.log(2)
Numbers = dict[str, dict[str, Any]]


def numbers(size_S: Sequence[int], rng: np.random.Generator) -> list[list[float]]:
    return [rng.uniform(-3, -0.05, n).tolist() for n in size_S]


def pairs(seed: int = 0, size: int = 5) -> Numbers:
    """Random pairs of uneven lengths with every column that a loss on pairs may ask for."""
    rng = np.random.default_rng(seed)
    made: Numbers = {}
    for side in ("chosen", "rejected"):
        size_S = rng.integers(1, 6, size).tolist()
        made[side] = {name: numbers(size_S, rng) for name in ("logp", "reference.logp", "logsumexp2")}
        made[side]["corrected"] = [rng.integers(0, 2, n).astype(float).tolist() for n in size_S]
        made[side]["score"] = (rng.uniform(0, 1, size) + 2 * (side == "chosen")).tolist()
        made[f"{side}_quality"] = {"logp": numbers(size_S, rng)}
    return made


PAIRS = pairs()
ONE = pairs(1, size=1)


def given(objective: Objective, signals: Mapping[str, Mapping[str, Any]], **more: Any) -> hand.Outcome:
    """What an objective makes of these numbers: loss, gradients, logs."""
    return hand.run(objective, hand.tensors(Case("", objective, signals, loss=0.0, **more)))


def assert_equal(a: hand.Outcome, b: hand.Outcome, to: float = 1e-9) -> None:
    assert a.loss == pytest.approx(b.loss, rel=to, abs=to)
    for name in ("chosen/logp", "rejected/logp", "train/logp"):
        if name not in a.gradient or name not in b.gradient:
            continue
        torch.testing.assert_close(a.gradient[name], b.gradient[name], rtol=to, atol=to)
    assert any(float(x.abs().max()) > 0 for x in a.gradient.values())


def at_reference(signals: Numbers) -> Numbers:
    return {part: {**columns, **({"reference.logp": columns["logp"]} if "reference.logp" in columns else {})} for part, columns in signals.items()}


AT_REFERENCE = [
    (DPO(), LOG2),
    (DPO(label_smoothing=0.3), LOG2),
    (RobustDPO(), LOG2),
    (FDPO(), LOG2),
    (FDPO(divergence="forward_kl"), LOG2),
    (FDPO(divergence="alpha_divergence"), LOG2),
    (LDDPO(), LOG2),
    (LNDPO(), LOG2),
    (DPOP(), LOG2),
    (DenseDPO(), LOG2),
    (AOT(), LOG2),
    (AOT(paired=False, label_smoothing=0.1), LOG2),
    (Hinge(), 1.0),
    (IPO(beta=0.2), 2.5**2),
    (SPPO(beta=0.2), 2 * 2.5**2),
    (NCA(), 2 * LOG2),
    (BCOPair(), 2 * LOG2),
    (APO(), 1.0),
    (APO(anchor="down"), 1.0),
    (DiscoPOP(), (LOG2 + 1) / 2),
    (EXO(label_smoothing=0.1), 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)),
    (ODPO(alpha=0.0), LOG2),
    (RDPO(alpha=0.0), LOG2),
    (SrDPO(refine=0.0), LOG2),
    (SrDPO(refine=0.0, beta=0.2, form="squared"), 2.5**2),
]


@pytest.mark.parametrize(("objective", "value"), AT_REFERENCE, ids=[f"{type(o).__name__}-{i}" for i, (o, _) in enumerate(AT_REFERENCE)])
def test_where_every_loss_begins(objective: Objective, value: float) -> None:
    outcome = given(objective, at_reference(PAIRS))
    assert outcome.loss == pytest.approx(value, abs=1e-9)
    for name in ("margin", "accuracy", "chosen_reward", "rejected_reward"):
        assert outcome.logs[name] == 0


SAME = [
    (DenseDPO(beta=0.5, gamma=1.0), LNDPO(beta=0.5)),
    (LDDPO(ld_alpha=1.0), DPO()),
    (LNDPO(beta=0.1, average=False), DPO()),
    (FDPO(divergence="reverse_kl"), DPO()),
    (FDPO(divergence="alpha_divergence", divergence_alpha=1.0), DPO()),
    (RobustDPO(beta=0.1, label_smoothing=0.0), DPO()),
    (ODPO(alpha=0.0), DPO()),
    (RDPO(alpha=0.0), DPO()),
    (DPOP(beta=0.1, penalty=0.0), DPO()),
    (SrDPO(refine=0.0), DPO()),
    (SrDPO(refine=0.0, form="squared"), IPO(average=False)),
    (RPO(sft=0.7), DPO() + 0.7 * NLL("chosen", norm="segment_mean")),
    (DPO(sft=0.7), DPO() + 0.7 * NLL("chosen")),
    (CPO(sft=0.0), DPO(reference_free=True)),
    (CPO(sft=0.0, label_smoothing=0.2), DPO(reference_free=True, label_smoothing=0.2)),
    (CPO(sft=0.0, beta=0.3, form="hinge"), Hinge(reference_free=True, beta=0.3)),
    (CPO(sft=0.0, form="ipo"), IPO(reference_free=True)),
    (SLiC(sft=0.0), Hinge(reference_free=True, beta=1.0)),
    (ORPO(beta=0.0), NLL("chosen")),
    (WPO(weighting=False), DPO()),
]


@pytest.mark.parametrize(("one", "other"), SAME, ids=[f"{type(a).__name__}-{type(b).__name__}-{i}" for i, (a, b) in enumerate(SAME)])
def test_where_one_loss_is_another(one: Objective, other: Objective) -> None:
    assert_equal(given(one, PAIRS), given(other, PAIRS))


@pytest.mark.parametrize("paired", [True, False])
def test_optimal_transport_of_one_pair_is_dpo(paired: bool) -> None:
    assert_equal(given(AOT(paired=paired), ONE), given(DPO(), ONE))


def test_optimal_transport_does_not_know_who_belongs_to_whom() -> None:
    turned = {**PAIRS, "rejected": {name: values[1:] + values[:1] for name, values in PAIRS["rejected"].items()}}
    assert given(AOT(paired=False), turned).loss == pytest.approx(given(AOT(paired=False), PAIRS).loss, abs=1e-12)
    assert abs(given(DPO(), turned).loss - given(DPO(), PAIRS).loss) > 1e-3


CONTRASTS = [DPO(), Hinge(), IPO(), RobustDPO(), EXO(), DiscoPOP(), RDPO(), DPOP(), ODPO()]


@pytest.mark.parametrize("objective", CONTRASTS, ids=lambda o: type(o).__name__)
def test_options_that_every_contrast_takes(objective: Contrast) -> None:
    plain = given(objective, PAIRS)
    assert_equal(given(replace(objective, divergence="alpha_divergence", divergence_alpha=1.0), PAIRS), plain)
    assert_equal(given(replace(objective, divergence="alpha_divergence", divergence_alpha=1 + 1e-7), PAIRS), plain, to=1e-4)
    # With alpha = 0, f'(t) = 1 - 1/t.
    forward = given(replace(objective, divergence="forward_kl"), PAIRS)
    assert_equal(given(replace(objective, divergence="alpha_divergence", divergence_alpha=0.0), PAIRS), forward)
    assert abs(forward.loss - plain.loss) > 1e-6
    # Nothing past the shorter answer's end is the same as answers that end there.
    short: Numbers = {"chosen": {}, "rejected": {}}
    for side, columns in short.items():
        for name, values in PAIRS[side].items():
            ends = [min(len(a), len(b)) for a, b in zip(PAIRS["chosen"]["logp"], PAIRS["rejected"]["logp"], strict=True)]
            columns[name] = [v[:n] if isinstance(v, list) else v for v, n in zip(values, ends, strict=True)]
    if not isinstance(objective, IPO | RDPO):
        assert given(replace(objective, ld_alpha=0.0), PAIRS).loss == pytest.approx(given(objective, short).loss, abs=1e-6)
    # A policy that would write every token as surely as any other of its own gives all pairs the weight 1.
    sure = {side: {**PAIRS[side], "logsumexp2": PAIRS[side]["logp"]} for side in ("chosen", "rejected")}
    assert_equal(given(replace(objective, weighting=True), sure), plain)


def test_wpo_weighs_whole_pairs() -> None:
    """A policy that is sure of everything (log sum p^2 = 0): the weight is the product of both answers' geometric mean probabilities."""
    sure = {side: {**ONE[side], "logsumexp2": [[0.0] * len(ONE[side]["logp"][0])]} for side in ("chosen", "rejected")}
    weight = math.exp(sum(np.mean(ONE[side]["logp"][0]) for side in ("chosen", "rejected")))
    assert given(WPO(), sure).loss == pytest.approx(weight * given(DPO(), ONE).loss, rel=1e-9)


def apart(ratio: float) -> Numbers:
    """One pair whose log-ratios differ by this much."""
    same = {"logp": [[-1.0]], "reference.logp": [[-1.0]]}
    return {"chosen": {**same, "reference.logp": [[-1.0 - ratio]]}, "rejected": same}


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_ipo_is_least_at_a_margin_of_one_over_two_beta(beta: float) -> None:
    margin = 1 / (2 * beta)

    def at(ratio: float) -> hand.Outcome:
        return given(IPO(beta=beta), apart(ratio))

    assert at(margin).loss == 0 and float(at(margin).gradient["chosen/logp"].abs().max()) == 0
    assert at(margin + 0.1).loss == pytest.approx(0.01) and float(at(margin + 0.1).gradient["chosen/logp"][0]) > 0
    assert at(margin - 0.1).loss == pytest.approx(0.01) and float(at(margin - 0.1).gradient["chosen/logp"][0]) < 0


def test_robust_dpo_is_dpo_on_average_over_flipped_labels() -> None:
    flipped = {"chosen": PAIRS["rejected"], "rejected": PAIRS["chosen"]}
    e, objective = 0.3, RobustDPO(beta=0.1, label_smoothing=0.3)
    assert (1 - e) * given(objective, PAIRS).loss + e * given(objective, flipped).loss == pytest.approx(given(DPO(), PAIRS).loss, rel=1e-9)


def test_conservative_dpo_is_least_where_the_margin_says_how_often_labels_are_wrong() -> None:
    outcome = given(DPO(beta=1.0, label_smoothing=0.2), apart(math.log(0.8 / 0.2)))
    assert float(outcome.gradient["chosen/logp"].abs().max()) < 1e-12


def test_dense_dpo_without_a_correction_moves_nothing() -> None:
    same = {"chosen": ONE["chosen"], "rejected": ONE["chosen"]}
    outcome = given(DenseDPO(), same)
    assert outcome.loss == pytest.approx(LOG2)
    # The two answers are the same tokens, so what the model gets is the sum.
    assert float((outcome.gradient["chosen/logp"] + outcome.gradient["rejected/logp"]).abs().max()) == 0


def test_dense_dpo_with_a_large_gamma_hears_only_what_was_corrected() -> None:
    marked = {side: {**PAIRS[side], "corrected": [[1.0] + [0.0] * (len(v) - 1) for v in PAIRS[side]["logp"]]} for side in ("chosen", "rejected")}
    first = {side: {name: [v[:1] for v in PAIRS[side][name]] for name in ("logp", "reference.logp")} for side in ("chosen", "rejected")}
    assert given(DenseDPO(gamma=1e9), marked).loss == pytest.approx(given(DPO(beta=0.5), first).loss, rel=1e-6)


def test_sr_dpo_asks_for_more_where_the_policy_sees_more() -> None:
    swapped = {**PAIRS, "chosen_quality": PAIRS["rejected_quality"], "rejected_quality": PAIRS["chosen_quality"]}
    assert_equal(given(SrDPO(refine=-0.3), swapped), given(SrDPO(refine=0.3), PAIRS))
    outcome = given(SrDPO(refine=0.3), PAIRS)
    for side in ("chosen", "rejected"):
        assert float(outcome.gradient[f"{side}_quality/logp"].abs().max()) == 0
    gap = [sum(c) - sum(r) for c, r in zip(PAIRS["chosen_quality"]["logp"], PAIRS["rejected_quality"]["logp"], strict=True)]
    offset = {**PAIRS["chosen"], "score": [math.exp(g) for g in gap]}, {**PAIRS["rejected"], "score": [0.0] * len(gap)}
    assert_equal(outcome, given(ODPO(alpha=0.3), dict(zip(("chosen", "rejected"), offset, strict=True))))


def test_bco_s_threshold_is_the_running_mean_of_steps() -> None:
    model, reference = toy_llama(seed=1, hidden=16, layers=1), toy_llama(seed=2, hidden=16, layers=1)
    objective = BCOPair(beta=0.5)
    memory = Memory(objective)
    means: list[float] = []
    for seed in (1, 2):
        parts = collate(toy_rows(4, ("chosen", "rejected"), seed=seed))
        roles, divisors = {"policy": Live(model), "reference": Live(reference)}, count_terms(objective, [parts])
        log, micros = Means(), [(lambda m=m: m) for m in split(parts, 20)]
        loss = total(roles, objective, micros, divisors, 0, Engine(), log, memory=memory)
        means.append((log.means()["chosen_reward"] + log.means()["rejected_reward"]) / 2)
    assert float(memory.of[0]["steps"]) == 2 and means[0] != means[1]
    # The second step's loss by hand, from the rewards of its pairs.
    signals = compute(roles, parts, objective.needs, Engine())
    pair, threshold = objective.pairs(parts, signals), sum(means) / 2
    by_hand = torch.log1p(torch.exp(threshold - 0.5 * pair.chosen)) + torch.log1p(torch.exp(0.5 * pair.rejected - threshold))
    assert loss == pytest.approx(float(by_hand.detach().mean()), abs=1e-5)


@pytest.mark.parametrize("objective", [AOT(beta=0.5), AOT(beta=0.5, paired=False), BCOPair(beta=0.5)], ids=["aot", "aot unpaired", "bco"])
def test_losses_over_a_whole_step_do_not_see_how_it_is_cut(objective: Objective) -> None:
    parts = collate(toy_rows(6, ("chosen", "rejected"), seed=3))

    def step(micro: int | None) -> tuple[float, list[torch.Tensor]]:
        model = toy_llama(seed=1, hidden=16, layers=1)
        roles = {"policy": Live(model), "reference": Live(toy_llama(seed=2, hidden=16, layers=1).requires_grad_(False))}
        micros = [(lambda m=m: m) for m in split(parts, micro)]
        assert (len(micros) > 2) == (micro is not None)
        loss = total(roles, objective, micros, count_terms(objective, [parts]), 0, Engine(), Means())
        return loss, [p.grad for p in model.parameters() if p.grad is not None]

    (whole, grads), (cut, cut_grads) = step(None), step(24)
    assert whole == pytest.approx(cut, abs=1e-6)
    for a, b in zip(grads, cut_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def listed(scores: Sequence[float], seed: int = 0) -> Numbers:
    rng = np.random.default_rng(seed)
    size_S = rng.integers(1, 6, len(scores)).tolist()
    return {"responses": {"logp": numbers(size_S, rng), "reference.logp": numbers(size_S, rng), "score": list(scores)}}


def as_pair(ranked: Numbers) -> Numbers:
    """Two ranked answers, the first better, as a pair."""
    return {side: {n: [ranked["responses"][n][i]] for n in ("logp", "reference.logp")} for i, side in enumerate(("chosen", "rejected"))}


ONE_PROMPT: dict[str, Any] = {"groups": {"responses": [0, 0]}}


def test_plackett_luce_of_two_answers_is_dpo() -> None:
    ranked = listed([2.0, 1.0])
    one, other = given(PLDPO(), ranked, **ONE_PROMPT), given(DPO(), as_pair(ranked))
    assert one.loss == pytest.approx(other.loss, rel=1e-9)
    torch.testing.assert_close(one.gradient["responses/logp"], torch.cat([other.gradient["chosen/logp"], other.gradient["rejected/logp"]]))


def test_plackett_luce_begins_at_the_log_of_the_number_of_orders() -> None:
    ranked = at_reference(listed([3.0, 1.0, 2.0, 0.0]))
    assert given(PLDPO(), ranked, groups={"responses": [0] * 4}).loss == pytest.approx(math.log(24))


def test_lipo_of_two_answers_is_dpo_times_what_their_swap_costs() -> None:
    ranked = listed([1.0, 0.0])
    swap = (2 - 1) * abs(1 / math.log(2) - 1 / math.log(3))
    assert given(LiPO(beta=0.1), ranked, **ONE_PROMPT).loss == pytest.approx(swap * given(DPO(), as_pair(ranked)).loss, rel=1e-9)


def test_rescue_of_two_answers_is_a_hinge_without_margin() -> None:
    ranked = listed([2.0, 1.0], seed=3)
    mean = [np.mean(v) for v in ranked["responses"]["logp"]]
    outcome = given(Rescue(alpha=0.3, length_power=1.0), ranked, **ONE_PROMPT)
    assert outcome.loss == pytest.approx(-mean[0] + 0.3 * max(0.0, mean[1] - mean[0]), rel=1e-9)
    turned = {"responses": {**ranked["responses"], "score": [1.0, 2.0]}}
    assert given(Rescue(alpha=0.3, length_power=1.0), turned, **ONE_PROMPT).loss == pytest.approx(
        -mean[1] + 0.3 * max(0.0, mean[0] - mean[1]), rel=1e-9
    )
    assert given(RRHF(sft=0.0), ranked, **ONE_PROMPT).loss == pytest.approx(max(0.0, mean[1] - mean[0]), rel=1e-9)


def test_rescue_without_ranking_is_fine_tuning_on_the_best() -> None:
    ranked = listed([1.0, 3.0, 2.0])
    best = {"train": {"logp": [ranked["responses"]["logp"][1]]}}
    assert given(Rescue(alpha=0.0), ranked, groups={"responses": [0, 0, 0]}).loss == pytest.approx(given(NLL(norm="segment_mean"), best).loss)


@pytest.mark.parametrize("objective", [Rescue(), RRHF(), PLDPO(), LiPO()], ids=lambda o: type(o).__name__)
def test_unordered_answers_change_nothing(objective: Objective) -> None:
    """Ties: only the best one's likelihood is left, where a method has such a term."""
    two, four = listed([1.0] * 4), listed([1.0] * 4)
    two["responses"] = {name: values[:2] for name, values in two["responses"].items()}
    a, b = given(objective, two, groups={"responses": [0, 0]}), given(objective, four, groups={"responses": [0] * 4})
    assert a.loss == pytest.approx(b.loss, abs=1e-12)
    assert float(b.gradient["responses/logp"][-1]) == 0 and (isinstance(objective, Rescue | RRHF) or a.loss == 0)


@pytest.mark.parametrize("objective", [RRHF(sft=0.0), Rescue(alpha=1.0, length_power=1.0)], ids=["rrhf", "rescue"])
def test_a_right_order_has_no_ranking_gradient(objective: Objective) -> None:
    right = {"responses": {"logp": [[-1.0], [-2.0, -2.0], [-3.0]], "score": [5.0, 4.0, 1.0]}}
    gradient = given(objective, right, groups={"responses": [0, 0, 0]}).gradient["responses/logp"]
    assert float(gradient[1:].abs().max()) == 0 and float(gradient[0]) == (-1.0 if isinstance(objective, Rescue) else 0.0)


def test_figa_without_lowering_is_fine_tuning_on_what_came_in() -> None:
    made = {"train": {"logp": [[-0.9, -0.7], [-0.2, -0.5]], "revised": [[1.0, 1.0], [0.0, 0.0]]}}
    weights = {"train": [[0.0, 1.0], [0.0, 0.0]]}
    assert_equal(given(FIGA(beta=0.0), made, weights=weights), given(NLL(), made, weights=weights))


def test_figa_leaves_a_token_alone_that_is_unlikely_enough() -> None:
    made = {"train": {"logp": [[-0.59, -0.61]], "revised": [[0.0, 0.0]]}}
    assert given(FIGA(), made).gradient["train/logp"].tolist() == [0.25, 0.0]


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (DPO, {"divergence": "kl"}, "reverse_kl, forward_kl"),
    (RobustDPO, {"label_smoothing": 0.5}, "below 0.5"),
    (RobustDPO, {"divergence": "kl"}, "reverse_kl, forward_kl"),
    (EXO, {"label_smoothing": 0.0}, "between 0 and 1"),
    (EXO, {"divergence": "kl"}, "reverse_kl, forward_kl"),
    (APO, {"anchor": "up"}, "'zero'"),
    (AOT, {"weighting": True}, "leave it off"),
    (CPO, {"form": "simpo"}, "'hinge'"),
    (SrDPO, {"form": "ipo"}, "'squared'"),
    (SrDPO, {"divergence": "kl"}, "reverse_kl, forward_kl"),
]


@pytest.mark.parametrize(("objective", "settings", "says"), REFUSED, ids=[f"{o.__name__}-{s}" for o, s, _ in REFUSED])
def test_settings_that_mean_nothing_are_refused(objective: Any, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        objective(**settings)
