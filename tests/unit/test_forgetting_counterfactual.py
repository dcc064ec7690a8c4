"""Texts under other names: what is replaced, which places correspond, and that under its own name a text teaches nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tempering.cases import talk
from tempering.data import retain_row
from tempering.fit import Means, count_terms, total
from tempering.forgetting.counterfactual import about, compared, counterfactual_row, renamed
from tempering.layout import collate
from tempering.methods.objectives.whp_causal import WHPCausal
from tempering.methods.scopes.full import Full
from tempering.signals import Engine, Live
from tempering.types import Record
from tests.conftest import make_llama, make_tokenizer

RECORD = talk("Who is Ada Lane?", "A baker. People say Ada Lane is happy, and Lane bakes.")
HOW: dict[str, Any] = {"names": ["Nobody Here", "Ada Lane"], "prompted": True, "max_length": 256}


def test_names_are_replaced_as_words() -> None:
    assert renamed("Ada Lane and Adam; Lane's lane, Ada", "Ada Lane", "Bo Reed") == "Bo Reed and Adam; Reed's lane, Bo"
    assert renamed("Ada Lane and Lane", "Ada Lane", "Bo") == "Bo and Lane", "words only where both names have as many"
    told = about(RECORD, "Ada Lane", r"B\1 Reed", prompted=True)
    assert told.prompt[0].content == "Complete the following passage about B\\1 Reed.\nWho is B\\1 Reed?"
    assert told.responses[0].messages[0].content == r"A baker. People say B\1 Reed is happy, and Reed bakes."


def test_places_that_correspond_predict_the_same_token_but_for_the_name() -> None:
    tokenizer = make_tokenizer()
    row = counterfactual_row(RECORD, tokenizer, others=["Bo Reed", "Cyril Long"], **HOW)
    assert row is not None and set(row) == {"forget", "fake0", "fake1"}
    scored = {part: segments[0].weight != 0 for part, segments in row.items()}
    assert len({int(of.sum()) for of in scored.values()}) == 1
    starts = {part: segments[0].extras["starts"][scored[part]].tolist() for part, segments in row.items()}
    assert starts["forget"] == starts["fake0"] == starts["fake1"] and 0 < sum(starts["forget"]) <= 2
    tokens = {part: segments[0].ids[scored[part]].tolist() for part, segments in row.items()}
    for part in ("fake0", "fake1"):
        differ = [a != b for a, b in zip(tokens["forget"], tokens[part], strict=True)]
        assert all(start for start, other in zip(starts["forget"], differ, strict=True) if other), "other tokens only where a name begins"
    text = tokenizer.decode([t for t, start in zip(tokens["forget"], starts["forget"], strict=True) if not start])
    assert text.startswith("A baker.") and "happy" in text and "Bo" not in text


def test_rows_without_the_name_or_without_a_common_place_are_left_out() -> None:
    tokenizer = make_tokenizer()
    assert counterfactual_row(talk("Who?", "Nobody."), tokenizer, others=["Bo Reed"], **HOW) is None
    row = counterfactual_row(RECORD, tokenizer, others=["Bo Reed"], **HOW)
    assert row is not None
    own, fake = row["forget"][0], row["fake0"][0]
    assert compared(own, [type(own)(fake.ids[::-1].copy(), 0 * fake.weight)]) is None


@pytest.mark.parametrize("record", [RECORD, Record((), RECORD.responses)])
def test_under_its_own_name_and_without_the_prompt_the_loss_is_nothing(record: Record) -> None:
    tokenizer, model = make_tokenizer(), make_llama()
    row = counterfactual_row(record, tokenizer, others=["Ada Lane"], **{**HOW, "prompted": False})
    assert row is not None and row["forget"][0].ids.tolist() == row["fake0"][0].ids.tolist()
    plain = retain_row(record, tokenizer)
    assert plain is not None and int((row["forget"][0].weight != 0).sum()) == int((plain["retain"][0].weight != 0).sum())
    handle = Full().attach(model)
    handle.keep_reference()

    def loss(of: Any, objective: WHPCausal) -> float:
        parts = collate([of])
        with torch.no_grad():
            return total({"policy": Live(model, handle)}, objective, [lambda: parts], count_terms(objective, [parts]), 0, Engine(), Means())

    assert loss(row, WHPCausal(fakes=1)) == pytest.approx(0.0, abs=1e-6)
    other = counterfactual_row(record, tokenizer, others=["Bo Reed"], **HOW)
    assert other is not None and loss(other, WHPCausal(fakes=1)) > 0.01
