"""Metrics as rewards (MORL): likeness and fluency by hand, their weighted sum, and what a policy would try instead of rewriting."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tempering.errors import UserError
from tempering.items import answer_ids
from tempering.methods.rewards.fluency import Fluency
from tempering.methods.rewards.similarity import Similarity
from tempering.methods.rewards.weighted import Weighted
from tempering.models import save
from tempering.models.value import ValueModel
from tempering.types import Message, Policy, Record, Response
from tests.conftest import make_llama, make_tokenizer

ASK = (Message("user", "Rewrite: the red fox runs."),)
RECORD = Record(ASK, (Response((Message("assistant", "a fox is running"),)),))


def likeness(*answers: str, **fields: str) -> list[float]:
    return Similarity(**fields)([ASK] * len(answers), answers, [RECORD] * len(answers)).tolist()  # type: ignore[arg-type]


def test_likeness_is_one_for_the_text_itself_and_counts_words_else() -> None:
    assert likeness("The red fox runs", behind=":") == [1]
    # "red fox runs" and "fox runs fast": two in common of three and three.
    assert likeness("fox runs fast", behind=":") == pytest.approx([2 * 2 / 6])
    assert likeness("Rewrite: the red fox runs.") == [1] == likeness("Rewrite: the red fox runs.", behind="nowhere")
    assert likeness("a fox is running", "the red fox runs", to="right") == pytest.approx([1, 2 / 6])


def test_likeness_pays_neither_nothing_nor_everything() -> None:
    nothing, said_often, list_of_words = likeness("", "red " * 30, "red fox runs " + " ".join(f"w{i}" for i in range(57)), behind=":")
    assert nothing == 0 and said_often == pytest.approx(2 / 33) and list_of_words == pytest.approx(6 / 63)


def test_likeness_to_nothing_is_unknown() -> None:
    assert np.isnan(Similarity(to="right")([ASK], ["x"], [Record(ASK, ())])).all()
    assert np.isnan(Similarity(behind=":")([(Message("user", "Rewrite:"),)], ["x"], [RECORD])).all()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random language model."""
    folder = tmp_path_factory.mktemp("reader") / "model"
    save(Policy(make_llama(), make_tokenizer()), folder)
    return str(folder)


def test_fluency_is_the_perplexity_of_the_text_by_itself(reader: str) -> None:
    reward = Fluency(model=reader, per=10.0)
    text, policy = "the red fox runs", reward.policy
    begin = policy.tokenizer.bos_token_id if policy.tokenizer.bos_token_id is not None else policy.tokenizer.eos_token_id
    ids = torch.tensor([[begin, *answer_ids(policy, text)]])
    with torch.no_grad():
        logp = policy.model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
    perplexity = math.exp(-float(logp.mean()))
    other = (Message("user", "anything"),)
    assert reward([ASK, other], [text, text]) == pytest.approx([-perplexity / 10] * 2, rel=1e-5)
    assert Fluency(model=reader, worst=perplexity / 2)([ASK], [text]) == pytest.approx([-perplexity / 400], rel=1e-5)


def test_a_text_too_short_to_read_costs_the_most(reader: str) -> None:
    reward = Fluency(model=reader, per=100.0, worst=300.0)
    assert len(answer_ids(reward.policy, "f")) == 1
    assert reward([ASK] * 2, ["", "f"]).tolist() == [-3, -3]


def test_who_cannot_read_is_refused(tmp_path: Path) -> None:
    save(Policy(ValueModel(make_llama(), 1), make_tokenizer()), tmp_path / "scorer")
    with pytest.raises(UserError, match="is a reward model and reads nothing"):
        Fluency(model=str(tmp_path / "scorer"))([ASK], ["the red fox"])


def test_a_sum_with_one_weight_is_that_metric_and_the_sum_is_linear_in_its_weights(reader: str) -> None:
    answers = ["the red fox runs", "a fox", "rain and rain"]
    asked = [ASK] * 3, answers, [RECORD] * 3
    one, other = Similarity(behind=":")(*asked), Fluency(model=reader)(*asked)
    of = "{}*similarity(behind=:) + {}*fluency(model=" + reader + ")"
    assert (Weighted(of=of.format(1, 0))(*asked) == one).all() and (Weighted(of=of.format(0, 1))(*asked) == other).all()
    assert Weighted(of=of.format(2, 0.5))(*asked) == pytest.approx(2 * one + 0.5 * other)
