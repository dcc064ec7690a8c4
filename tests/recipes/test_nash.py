"""`temper run nash`: the policy against an opponent near it, under a preference model; and the stream and the probe it is made of."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import tempering as tp
from tempering import layout, models
from tempering.against import Against, Preferred, likeliest
from tempering.cli.values import Signature
from tempering.errors import UserError
from tempering.index import load_recipe
from tempering.making import user
from tempering.methods.decodes.geometric import Geometric
from tempering.models.value import ValueModel
from tempering.planning.rehearse import rehearse
from tempering.sample import sample
from tempering.signals import Live
from tempering.types import Policy, Run
from tests.conftest import make_llama, make_tokenizer

PROMPTS = [(user(word),) for word in ("the", "rain", "in", "she")]
SMALL: dict[str, Any] = {"model": "builtin:tiny", "steps": 2, "batch_size": 2, "max_new_tokens": 8, "max_test": 3, "keep": "none", "limit": 12}
SMALL |= {"precision": "fp32", "r": 2}


def lengths(prompts: Sequence[Any], answers: Sequence[str], others: Sequence[str]) -> list[float]:
    """Who says more is preferred."""
    return [len(a) / max(1, len(a) + len(b)) for a, b in zip(answers, others, strict=True)]


def test_answers_come_with_their_preference_and_the_opponent_is_the_mixture() -> None:
    policy, other, seen = Policy(make_llama(seed=1), make_tokenizer()), make_llama(seed=2), list[Any]()

    def prefer(*asked: Any) -> list[float]:
        seen.append(asked)
        return lengths(*asked)

    def stream(weight: float) -> Against:
        mixed: Any = (Geometric(weight),)
        return Against(PROMPTS, policy.tokenizer, prefer, opponent=mixed, batch_size=3, n=2, max_new_tokens=5, seed=4)

    run, whole = Run({"policy": Live(policy.model), "reference": Live(other)}, 0, 0), stream(1.0)
    batch = whole.next(run)["responses"]
    prompts, answers, others = seen[0]
    assert batch.num_segments == 6 and batch.group_S.tolist() == [0, 0, 1, 1, 2, 2]
    assert batch.extras["score"].tolist() == pytest.approx(lengths(prompts, answers, others))
    said = [ids[w > 0].tolist() for ids, w in zip(*(x.split(layout.lengths(batch).tolist()) for x in (batch.ids_T, batch.weight_T)), strict=True)]
    assert [policy.tokenizer.decode(ids, skip_special_tokens=True) for ids in said] == answers
    # With all the weight on it, the opponent is the other model, under its own noise.
    ids = [
        policy.tokenizer.apply_chat_template([{"role": "user", "content": p[0].content}], add_generation_prompt=True)["input_ids"]
        for p in prompts[::2]
    ]
    alone = sample(Policy(other, policy.tokenizer), ids, n=2, max_new_tokens=5, temperature=1.0, seed=4, keys=[1, 3, 5])
    assert others == [e.text for of in alone for e in of] and others != answers
    again = stream(1.0)
    again.load(json.loads(json.dumps(whole.state())))
    assert again.next(run)["responses"].ids_T.tolist() == whole.next(run)["responses"].ids_T.tolist() and seen[1] == seen[2] != seen[0]


def test_a_model_is_as_good_as_itself() -> None:
    policy = Policy(make_llama(seed=1), make_tokenizer())
    probe = Preferred(
        PROMPTS, likeliest(policy, PROMPTS, 5), lambda p, a, b: [0.5 if x == y else 1.0 for x, y in zip(a, b, strict=True)], max_new_tokens=5
    )
    assert [item.score for item in probe(policy).items] == [0.5] * 4


def test_a_run_against_a_mixture(tmp_path: Path) -> None:
    base = models.load("builtin:tiny", say=lambda _: None)
    judge = ValueModel(copy.deepcopy(base.model))
    torch.nn.init.normal_(judge.value_head.weight)
    models.save(Policy(judge, base.tokenizer), tmp_path / "judge")
    report = tp.run("nash", out=tmp_path / "run", again=True, preference=str(tmp_path / "judge"), **SMALL)
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 2 and metrics[0]["value"] == pytest.approx(0, abs=1e-5) and 0 < metrics[0]["preference"] < 1
    assert any(row["grad_norm"] > 0 for row in metrics)
    (probe,) = report.ledger.probes
    assert probe.name == "preferred" and probe.before.point == pytest.approx(0.5)
    signature = Signature(load_recipe("nash"), "nash")
    found = rehearse(load_recipe("nash"), signature.resolve(signature.from_python({**SMALL, "preference": str(tmp_path / "judge")})), lambda _: None)
    assert {part: float(batch.weight_T.sum()) for part, batch in found.work.micro.items()} == {"responses": 2 * 2 * 8}
    refused: list[tuple[str, dict[str, Any]]] = [
        ("no preference model", {}),
        ("leave it at preferences", {"preference": "x", "scores": "rewards"}),
    ]
    for told, values in refused:
        with pytest.raises(UserError, match=told):
            tp.run("nash", out=tmp_path / "no", **SMALL, **values)
    assert not (tmp_path / "no").exists()
