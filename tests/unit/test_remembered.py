"""A policy that is measured is asked nothing twice, and what it is said to have said is what it says."""

from __future__ import annotations

import pytest
import torch

import tempering.measure as measuring
import tempering.remembered as remembering_module
import tempering.sample as sampling
from tempering.forgetting.targets import Secret
from tempering.items import prompt_ids
from tempering.measure import score_pairs
from tempering.methods.probes.asked import Asked
from tempering.methods.probes.reworded import Reworded
from tempering.methods.probes.role_play import RolePlay
from tempering.methods.probes.sampled import Sampled
from tempering.remembered import remembering
from tempering.sample import sample
from tempering.types import Policy
from tests.unit.test_probes import policy, saying

PROMPTS = [[5, 6, 7], [8, 9], [5, 6, 7]]
PAIRS = [([5, 6], [7, 8, 9]), ([5, 6], [7]), ([4], [7, 8]), ([5, 6], [7, 8, 9])]


class Counted:
    """How often each prompt goes to the decoder, or each pair through the model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prompts: list[tuple[int, ...]] = []
        self.pairs: list[object] = []
        submit, score = sampling.Decoder.submit, measuring._score_pairs

        def submitted(decoder, request):
            self.prompts.append(request.prompt_ids)
            return submit(decoder, request)

        def scored(p, pairs, *how):
            self.pairs += pairs
            return score(p, pairs, *how)

        monkeypatch.setattr(sampling.Decoder, "submit", submitted)
        monkeypatch.setattr(measuring, "_score_pairs", scored)


def test_a_greedy_answer_is_given_once(monkeypatch):
    p, counted = policy(), Counted(monkeypatch)
    plain = sample(p, PROMPTS, max_new_tokens=4)
    counted.prompts.clear()
    with remembering(p):
        found = sample(p, PROMPTS, max_new_tokens=4)
        assert [e.ids for (e,) in found] == [e.ids for (e,) in plain] and sample(p, PROMPTS, max_new_tokens=4) == found
        assert sorted(counted.prompts) == [(5, 6, 7), (8, 9)]
        # Another length, another policy and drawn answers are asked anew.
        assert [len(e.ids) for (e,) in sample(p, PROMPTS[:1], max_new_tokens=2)] == [2]
        sample(Policy(p.model, p.tokenizer), PROMPTS[:1], max_new_tokens=2)
        sample(p, PROMPTS[:1], max_new_tokens=2, temperature=1.0)
        assert len(counted.prompts) == 5
    sample(p, PROMPTS[:1], max_new_tokens=4)
    assert len(counted.prompts) == 6


def test_an_answer_that_ended_serves_every_longer_limit_and_no_shorter_one(monkeypatch):
    p, counted = saying({"hat": "in the attic"}), Counted(monkeypatch)
    ids = prompt_ids(p, [{"role": "user", "content": "Where is the hat?"}])
    with remembering(p):
        ((whole,),) = sample(p, [ids], max_new_tokens=30)
        assert whole.finished and len(counted.prompts) == 1
        assert sample(p, [ids], max_new_tokens=40) == [[whole]] == sample(p, [ids], max_new_tokens=len(whole.ids)) and len(counted.prompts) == 1
        ((cut,),) = sample(p, [ids], max_new_tokens=len(whole.ids) - 1)
        assert not cut.finished and cut.ids == whole.ids[:-1] and len(counted.prompts) == 2


def test_the_beginning_of_what_was_scored_is_not_scored_again(monkeypatch):
    p, counted = policy(), Counted(monkeypatch)
    plain = [score_pairs(p, [pair])[0] for pair in PAIRS]
    counted.pairs.clear()
    with remembering(p):
        score_pairs(p, PAIRS[:1])
        found = score_pairs(p, PAIRS)
    assert counted.pairs == [((5, 6), (7, 8, 9)), ((4,), (7, 8))]
    for (logp_T, top_T), (want_T, want_top_T) in zip(found, plain, strict=True):
        assert torch.allclose(logp_T, want_T, atol=1e-5) and torch.equal(top_T, want_top_T)


def test_all_answers_come_from_one_copy(monkeypatch):
    p, made = policy(), []
    drawn = {"n": 2, "temperature": 1.0, "max_new_tokens": 6}
    plain = [sample(p, PROMPTS, max_new_tokens=4), sample(p, PROMPTS, batch_size=1, **drawn)]
    begin = sampling.Decoder.__init__

    def begun(decoder, *given, **how):
        made.append(how)
        begin(decoder, *given, **how)

    monkeypatch.setattr(sampling.Decoder, "__init__", begun)
    with remembering(p):
        found = [sample(p, PROMPTS, max_new_tokens=4), sample(p, PROMPTS, batch_size=1, **drawn)]
    assert [how["dtype"] for how in made] == [torch.float32]
    for have, want in zip(found, plain, strict=True):
        assert [e.ids for of in have for e in of] == [e.ids for of in want for e in of]
        assert [x for of in have for e in of for x in e.logps] == pytest.approx([x for of in want for e in of for x in e.logps], abs=1e-4)
    # A large model's weights are not copied.
    monkeypatch.setattr(remembering_module, "COPIED", 0)
    with remembering(p):
        sample(p, PROMPTS, max_new_tokens=4)
    assert made[1]["dtype"] is None


def test_samples_that_are_skipped_leave_the_noise_of_the_others():
    p = policy()
    whole = sample(p, PROMPTS, n=3, temperature=1.0, max_new_tokens=6)
    assert sample(p, PROMPTS, n=3, skip=1, temperature=1.0, max_new_tokens=6) == [episodes[1:] for episodes in whole]
    assert sample(p, PROMPTS, n=1, skip=1) == [[], [], []]


def test_what_came_out_is_not_asked_for_again(monkeypatch):
    p, counted = saying({"hat": "in the attic"}), Counted(monkeypatch)
    hat, son = (Secret(id=name, prompt=(("user", f"Where is the {name}?"),), answer="in the attic") for name in ("hat", "son"))
    scores = Sampled(items=(hat, son), samples=4)(p)
    assert [item.score for item in scores.items] == [0.0, 1.0] and len(counted.prompts) == 2 + 3


def test_what_probes_ask_goes_through_the_model_in_one_batch(monkeypatch):
    """The scores are those of each probe alone; what the first way did not bring is asked in the second wave, and nothing afterwards."""
    p, counted = saying({"For a quiz": "in the attic", "hat": "on the roof", "son": "Otto"}), Counted(monkeypatch)
    hat, son = (
        Secret(id=name, prompt=(("user", f"Where is the {name}?"),), answer=said) for name, said in (("hat", "in the attic"), ("son", "Otto"))
    )
    shared = {"items": (hat, son), "max_new_tokens": 24}
    probes = (Asked(**shared), Reworded(**shared), RolePlay(**shared))
    alone = [probe(p) for probe in probes]
    counted.prompts.clear()
    assert measuring.measure(p, probes).probes == tuple(alone)
    ways = [[probe.ids(p, way) for way in probe.prompts(item)] for probe in probes for item in (hat, son)]
    first = [of[0] for of in ways]
    left = [ids for of, item in zip(ways, (hat, son) * 3, strict=True) if item is hat for ids in of[1:]]
    assert sorted(counted.prompts[: len(first)]) == sorted(first) and sorted(counted.prompts[len(first) :]) == sorted(left)
