"""Losses of forgetting: the limits that their papers state, and what they are to each other. Values stand in the files' own cases."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tempering.cases import Case
from tempering.data.forgetting import forget_row, noisy
from tempering.methods.objectives.adversarial_labels import AdversarialLabels
from tempering.methods.objectives.altpo import AltPO
from tempering.methods.objectives.ce_u import CEU
from tempering.methods.objectives.gradient_ascent import GradientAscent
from tempering.methods.objectives.idk import Idk
from tempering.methods.objectives.idk_dpo import IdkDPO
from tempering.methods.objectives.kl_reference import KLReference
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.npo import NPO
from tempering.methods.objectives.pdu import PDU
from tempering.methods.objectives.random_labels import RandomLabels
from tempering.methods.objectives.satimp import SatImp
from tempering.methods.objectives.simnpo import SimNPO
from tempering.methods.objectives.undial import UNDIAL
from tempering.methods.objectives.wga import WGA
from tempering.proof import hand
from tempering.types import Batch, Message, Objective, Record, Response, Segment
from tests.conftest import make_tokenizer

VOCABULARY, SIZES = 11, (4, 1, 3)


def logits(seed: int) -> Tensor:
    return 2 * torch.randn(sum(SIZES), VOCABULARY, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


POLICY, REFERENCE, OTHER = logits(0), logits(1), logits(2)


def step(objective: Objective, seeds: dict[str, tuple[Tensor, Tensor]] | None = None, **columns: Tensor) -> tuple[float, dict[str, Tensor]]:
    """Loss, and the gradient of the policy's logits by part; every part has the same tokens unless `seeds` gives it (policy, reference) logits."""
    ids_T = torch.arange(sum(SIZES)) * 3 % VOCABULARY
    parts, signals, leaves = {}, {}, {}
    for part, names in objective.needs.items():
        policy, reference = (seeds or {}).get(part, (POLICY, REFERENCE))
        leaf = leaves[part] = policy.clone().requires_grad_()
        segment_T = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
        weight_T = torch.tensor([0, 1, 1, 0.5, 2, 1, 0, 1], dtype=torch.float64)
        parts[part] = Batch(ids_T, segment_T, weight_T, torch.arange(len(SIZES)), columns)
        known = {"logits": leaf, "reference.logits": reference, **columns}
        known |= {f"{role}logp": known[f"{role}logits"].log_softmax(-1).gather(1, ids_T[:, None])[:, 0] for role in ("", "reference.")}
        signals[part] = {name: known[name] for name in names}
    given = hand.Input(parts, signals, frozenset())
    contexts = [hand.context(term, given, signals, lambda **values: None) for _, term in objective.terms()]  # type: ignore[arg-type]
    loss = hand.loss(objective, given, signals, contexts)
    loss.backward()
    return loss.item(), {part: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for part, leaf in leaves.items()}


def gradient(objective: Objective, *args: Any, part: str = "forget", **columns: Tensor) -> Tensor:
    return step(objective, *args, **columns)[1][part]


def same(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> bool:
    return bool(torch.allclose(a, b, rtol=0, atol=tolerance)) and float(a.abs().sum()) > 0.01


# --------------------------------------------------------------------------------------------------------------------------------------------- NPO


@pytest.mark.parametrize("beta", [0.05, 0.7, 4.0])
def test_at_the_start_npo_is_gradient_ascent_for_every_beta(beta: float) -> None:
    at_start = {"forget": (POLICY, POLICY)}
    ascent = gradient(GradientAscent(norm="segments"))
    assert same(gradient(NPO(beta=beta, retain_loss="none"), at_start), ascent)


def test_npo_becomes_gradient_ascent_as_beta_goes_to_0() -> None:
    ascent, at_start = GradientAscent(norm="segments"), {"forget": (REFERENCE, REFERENCE)}
    loss, _ = step(NPO(beta=1e-5, retain_loss="none"))
    # E log(pi / pi_ref), which is gradient ascent's loss less that of the reference.
    assert loss - 2 / 1e-5 * math.log(2) == pytest.approx(step(ascent)[0] - step(ascent, at_start)[0], abs=1e-3)
    assert same(gradient(NPO(beta=1e-7, retain_loss="none")), gradient(ascent), 1e-6)


def test_npo_s_gradient_is_the_closed_form() -> None:
    beta = 0.5
    alone = [gradient(GradientAscent(norm="segments"))[start : start + size] for start, size in zip((0, 4, 5), SIZES, strict=True)]
    logp, reference = ([sum_of(x, i) for i in range(3)] for x in (POLICY, REFERENCE))
    weights = [2 * math.exp(beta * a) / (math.exp(beta * a) + math.exp(beta * b)) for a, b in zip(logp, reference, strict=True)]
    assert same(gradient(NPO(beta=beta, retain_loss="none")), torch.cat([w * g for w, g in zip(weights, alone, strict=True)]))


def sum_of(x_TV: Tensor, segment: int) -> float:
    """The weighted log-prob of a segment's tokens."""
    ids_T, weight_T = torch.arange(sum(SIZES)) * 3 % VOCABULARY, torch.tensor([0, 1, 1, 0.5, 2, 1, 0, 1], dtype=torch.float64)
    logp_T = x_TV.log_softmax(-1).gather(1, ids_T[:, None])[:, 0] * weight_T
    return float(logp_T.split(SIZES)[segment].sum())


def test_simnpo_becomes_gradient_ascent_by_answers_as_beta_goes_to_0() -> None:
    assert same(gradient(SimNPO(beta=1e-7, retain_loss="none", weight=1.0)), gradient(GradientAscent(norm="segment_mean")), 1e-6)


def test_dpo_is_npo_where_the_other_answer_has_not_moved() -> None:
    for part, made in (("refused", IdkDPO(beta=0.4, scale=2.0, retain_loss="none")), ("alternate", AltPO(beta=0.4, retain_loss="none"))):
        still = {part: (OTHER, OTHER)}
        assert step(made, still)[0] == pytest.approx(step(NPO(beta=0.4, retain_loss="none"))[0], rel=1e-12)
        assert same(gradient(made, still), gradient(NPO(beta=0.4, retain_loss="none")))


# ------------------------------------------------------------------------------------------------------------------------------- weights on ascent


def test_weights_of_exponent_0_leave_gradient_ascent() -> None:
    ascent = gradient(GradientAscent())
    assert same(gradient(WGA(alpha=0.0, retain_loss="none")), ascent)
    assert same(gradient(SatImp(beta1=0.0, beta2=0.0, retain_loss="none")), ascent)
    assert same(gradient(SatImp(beta1=0.2, beta2=0.0, retain_loss="none")), gradient(WGA(alpha=0.2, retain_loss="none")))


def test_ascent_is_minus_the_likelihood_s_gradient_and_cancels_it_on_the_same_rows() -> None:
    assert same(gradient(GradientAscent()), -gradient(NLL("forget")))
    _, by_part = step(GradientAscent(retain_loss="nll"))
    assert float((by_part["forget"] + by_part["retain"]).abs().max()) < 1e-15


def test_the_retain_term_kl_is_0_and_flat_at_the_start() -> None:
    loss, by_part = step(KLReference("retain"), {"retain": (POLICY, POLICY)})
    assert loss == pytest.approx(0, abs=1e-12) and float(by_part["retain"].abs().max()) < 1e-15


def test_ce_u_has_the_gradient_of_token_unlikelihood() -> None:
    ids_T1 = (torch.arange(sum(SIZES)) * 3 % VOCABULARY)[:, None]
    leaf, weight_T = POLICY.clone().requires_grad_(), torch.tensor([0, 1, 1, 0.5, 2, 1, 0, 1], dtype=torch.float64)
    (-torch.log1p(-leaf.softmax(-1).gather(1, ids_T1)[:, 0]) * weight_T).sum().div(weight_T.sum()).backward()
    assert leaf.grad is not None and same(gradient(CEU(skip_first=0)), leaf.grad)


def test_a_step_without_retain_tokens_leaves_the_dual_variable() -> None:
    term = PDU(retain_weight=3.0, bound=2.0).terms()[1][1]
    after = term.advance(term.initial(), {"loss": torch.zeros(()).double(), "tokens": torch.zeros(()).double()})
    assert {name: x.tolist() for name, x in after.items()} == {"now": [3.0], "next": [3.0]}


def test_pdu_s_margin_is_that_of_the_logits_and_flat_where_all_tokens_are_alike() -> None:
    row = {"forget": {"max_logp": [[-1.0]], "mean_logp": [[-1.0]]}}
    assert hand.run(PDU(retain_loss="none"), hand.tensors(Case("", PDU(retain_loss="none"), row, 0.0))).loss == 0
    logp_TV = POLICY.log_softmax(-1)
    assert torch.allclose(logp_TV.amax(-1) - logp_TV.mean(-1), POLICY.amax(-1) - POLICY.mean(-1), atol=1e-12)


# ------------------------------------------------------------------------------------------------------------------------------------ other labels


def test_a_refusal_is_learned_as_any_answer_is() -> None:
    assert same(gradient(Idk(retain_loss="none"), part="refused"), gradient(NLL("refused"), part="refused"))


def test_undial_without_a_penalty_is_flat_at_the_start_and_its_minimum_is_its_target() -> None:
    assert float(gradient(UNDIAL(beta=0.0), {"forget": (POLICY, POLICY)}).abs().max()) < 1e-15
    ids_T1 = (torch.arange(sum(SIZES)) * 3 % VOCABULARY)[:, None]
    target = REFERENCE.scatter_add(1, ids_T1, torch.full(ids_T1.shape, -3.0, dtype=torch.float64))
    assert float(gradient(UNDIAL(beta=3.0), {"forget": (target, REFERENCE)}).abs().max()) < 1e-15


def test_soft_random_labels_are_the_mean_over_draws() -> None:
    # The starting model gives its tokens shares of 1/66, ..., 11/66, of which the largest four are shares of 38.
    shares = torch.arange(1, VOCABULARY + 1, dtype=torch.float64)[
        torch.arange(sum(SIZES) * VOCABULARY).reshape(-1, VOCABULARY) * 4 % VOCABULARY
    ].log()
    for draws, kind in (
        (11, {"labels": "uniform"}),
        (66, {"labels": "own"}),
        (38, {"labels": "own", "top_k": 4}),
        (38, {"labels": "own", "top_p": 0.5}),
    ):
        start = {"forget": (POLICY, shares)}
        soft = step(RandomLabels(soft=True, **kind), start)[0]  # type: ignore[arg-type]
        found = [step(RandomLabels(**kind), start, noise=torch.full((8,), (i + 0.5) / draws).double())[0] for i in range(draws)]  # type: ignore[arg-type]
        assert sum(found) / draws == pytest.approx(soft, rel=1e-9)


def test_the_likeliest_label_without_the_true_token_is_the_adversarial_one() -> None:
    noise = torch.linspace(0, 0.99, sum(SIZES)).double()
    one = step(RandomLabels(labels="own", top_k=1, without_true=True), noise=noise)
    other = step(AdversarialLabels())
    assert one[0] == pytest.approx(other[0], rel=1e-12) and same(one[1]["forget"], other[1]["forget"])


def test_adversarial_labels_are_never_true_and_the_likeliest_of_the_others() -> None:
    ids_T = torch.arange(sum(SIZES)) * 3 % VOCABULARY
    # The label's logit is the only one that is pushed up.
    up_T = gradient(AdversarialLabels())[[1, 2, 3, 4, 5, 7]].argmin(-1)
    for place, label in zip([1, 2, 3, 4, 5, 7], up_T.tolist(), strict=True):
        others = [v for v in range(VOCABULARY) if v != int(ids_T[place])]
        assert label == max(others, key=lambda v: float(REFERENCE[place, v]))


# -------------------------------------------------------------------------------------------------------------------------------------- their rows


def test_noise_follows_from_the_tokens() -> None:
    import numpy as np

    one, again, other = (noisy(Segment(np.array(ids, np.int32), np.ones(len(ids)), {"x": 1.0})) for ids in ([4, 5, 6], [4, 5, 6], [4, 6, 5]))
    assert np.array_equal(one.extras["noise"], again.extras["noise"]) and not np.array_equal(one.extras["noise"], other.extras["noise"])
    assert one.extras["x"] == 1.0 and ((one.extras["noise"] >= 0) & (one.extras["noise"] < 1)).all()
    drawn = np.concatenate([noisy(Segment(np.arange(i, i + 50, dtype=np.int32), np.ones(50))).extras["noise"] for i in range(200)])
    # Uniform: mean 1/2 and variance 1/12, within five standard errors of 10,000 numbers.
    assert abs(drawn.mean() - 0.5) < 5 * math.sqrt(1 / 12 / 1e4) and abs(drawn.var() - 1 / 12) < 0.01


def test_rows_have_the_parts_that_are_asked_for() -> None:
    tokenizer = make_tokenizer()
    record = Record((Message("user", "who is he"),), (Response((Message("assistant", "the red fox"),)),), tags={"alternate": "an old house"})
    row = forget_row(record, tokenizer, refusals=True, alternates=True, noise=True)
    assert row is not None and set(row) == {"forget", "refused", "alternate"} and set(row["forget"][0].extras) == {"noise"}
    said = {part: str(tokenizer.decode(s[0].ids[s[0].weight != 0], skip_special_tokens=True)).strip() for part, s in row.items()}
    assert said["forget"] == "the red fox" and said["alternate"] == "an old house" and said["refused"] not in ("", said["forget"])
    assert set(forget_row(record, tokenizer) or {}) == {"forget"}
