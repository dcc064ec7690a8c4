"""Options as branches of one question: no order, no neighbours, and rows made of records of several kinds."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempering.cases import talk
from tempering.config import Budget, Training
from tempering.data import DataError, options_row
from tempering.errors import UserError
from tempering.experiment import Options, execute
from tempering.fit import Means, count_terms, total
from tempering.index import load_recipe
from tempering.layout import arrange, collate
from tempering.methods.objectives.unimc import UniMC
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.reduce import first
from tempering.signals import Engine, Live, compute
from tempering.types import Response, Role, Row
from tests.conftest import make_llama, make_tokenizer

QUESTION = talk(
    "Which town is the capital of Peru, a country in South America?", answers=["Lima", "Quito", "Rio de Janeiro"], better=[(0, 1), (0, 2)]
)


def row_of(texts: list[str]) -> Row:
    options = tuple(texts)
    record = talk(QUESTION.prompt[0].content, "Lima")
    made = options_row(record, make_tokenizer(), options=options)
    assert made is not None
    return made


def scores(texts: list[str]) -> list[float]:
    batch = collate([row_of(texts)])
    with torch.no_grad():
        found = compute({"policy": Live(make_llama())}, batch, {"responses": frozenset({"logp", "logsumexp"})}, Engine())["responses"]
        return first(found["logp"] + found["logsumexp"], batch["responses"]).tolist()


def test_options_in_another_order_have_the_same_scores_to_the_bit() -> None:
    texts = ["Lima", "Quito", "Rio de Janeiro"]
    here = dict(zip(texts, scores(texts), strict=True))
    assert len(set(here.values())) == 3
    for order in permutations(texts):
        assert dict(zip(order, scores(list(order)), strict=True)) == here


def test_options_do_not_see_each_other_and_an_option_twice_scores_the_same() -> None:
    assert scores(["Lima", "Quito", "Lima "])[:2] == pytest.approx(scores(["Lima", "Quito"]), abs=1e-6)
    row = row_of(["Lima", "Quito"])
    twice = {"responses": (*row["responses"], row["responses"][0])}
    with torch.no_grad():
        parts = collate([twice])
        found = compute({"policy": Live(make_llama())}, parts, {"responses": frozenset({"logp"})}, Engine())["responses"]["logp"]
        a, _, b = first(found, parts["responses"]).tolist()
    assert a == b


def test_the_question_goes_through_the_model_once() -> None:
    batch = collate([row_of(["Lima", "Quito", "Rio de Janeiro"])])["responses"]
    shared = min(len(s.ids) for s in row_of(["Lima", "Quito"])["responses"])
    assert arrange(batch, "segments").ids_RL.numel() < batch.num_tokens - shared


def test_the_scored_token_says_yes_behind_the_option() -> None:
    tokenizer = make_tokenizer()
    row = options_row(QUESTION, tokenizer)
    assert row is not None and [s.extras["score"] for s in row["responses"]] == [1.0, 0.0, 0.0]
    for segment, option in zip(row["responses"], ("Lima", "Quito", "Rio de Janeiro"), strict=True):
        at = int(np.flatnonzero(segment.weight)[0])
        assert tokenizer.decode(segment.ids[at:]).startswith("yes")
        assert option in tokenizer.decode(segment.ids[:at]) and QUESTION.prompt[0].content in tokenizer.decode(segment.ids[:at])


def test_what_is_no_choice_is_named() -> None:
    tokenizer = make_tokenizer()
    with pytest.raises(DataError, match="'Lima' is not among the options yes, no"):
        options_row(talk("Capital of Peru?", "Lima"), tokenizer, options=("yes", "no"))
    rated = talk("Hi", answers=["a", "b"])
    with pytest.raises(DataError, match="none is best"):
        options_row(rated, tokenizer)
    assert options_row(talk("Hi", "a"), tokenizer) is None
    scored = type(rated)(rated.prompt, tuple(Response(r.messages, score=float(i)) for i, r in enumerate(rated.responses)))
    row = options_row(scored, tokenizer)
    assert row is not None and [s.extras["score"] for s in row["responses"]] == [0.0, 1.0]


def test_a_model_learns_to_choose() -> None:
    torch.manual_seed(0)
    live, parts = Live.attach(Role(make_llama(), Full())), collate([row_of(["Lima", "Quito", "Rio de Janeiro"])])
    optimizer, losses = torch.optim.Adam(live.model.parameters(), 3e-3), []
    for step in range(8):
        optimizer.zero_grad()
        log = Means()
        losses.append(total({"policy": live}, UniMC(), [lambda: parts], count_terms(UniMC(), [parts]), step, Engine(), log))
        optimizer.step()
    assert losses[-1] < 0.1 < 0.5 < losses[0] and log.means()["accuracy"] == 1.0


def test_the_recipe_runs_on_classes(tmp_path: Path) -> None:
    path = tmp_path / "films.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"Film {i}: {'fine' if i % 2 else 'dull'}", "completion": "gb"[i % 2]}) for i in range(12)))
    values: dict[str, Any] = {
        "model": "builtin:tiny", "data": str(path), "scope": LoRA(r=2), "budget": Budget(keep="none", max_test=4),
        "training": Training(steps=2, batch_size=4, precision="fp32"), "options": ("g", "b"),
    }  # fmt: skip
    out = tmp_path / "run"
    execute(load_recipe("unimc"), values, Options(out=out))
    ledger = json.loads((out / "ledger.json").read_text())
    assert "held_order" in json.dumps(ledger) and (out / "model").is_dir()
    with pytest.raises(UserError, match="only option"):
        execute(load_recipe("unimc"), {**values, "options": ("g",)}, Options(out=tmp_path / "other"))
