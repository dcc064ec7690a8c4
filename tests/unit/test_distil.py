"""Distillation: what is kept of a teacher, rows that it reads otherwise, and answers of the student as it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tempering as tp
from tempering import models
from tempering.config import Optimizer, Training
from tempering.data import Table
from tempering.data.streams import Shuffled
from tempering.data.taught import Taught, told_row
from tempering.errors import Interrupted, UserError
from tempering.fit import Means, Stopper, count_terms, fit, total
from tempering.layout import collate, lengths
from tempering.methods.objectives.first import FIRST
from tempering.methods.objectives.forward_kl import ForwardKL
from tempering.methods.objectives.gkd import GKD
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.salt import SALT
from tempering.methods.objectives.universal_logit import UniversalLogit
from tempering.methods.scopes.full import Full
from tempering.on_policy import OnPolicy
from tempering.recipes.distil import calibrated
from tempering.reference import columns
from tempering.signals import Engine, Live, compute
from tempering.types import Message, Objective, Parts, Policy, Record, Response, Role, Row, Run, Segment
from tests.conftest import make_llama, make_tokenizer
from tests.toy import VOCAB, toy_llama, toy_rows

FULL: Any = Full()
TOPS = ("teacher.top_logp.5", "teacher.top_id.5")


def step(objective: Objective, live: dict[str, Live], parts: Parts, at: int = 0) -> tuple[float, list[torch.Tensor]]:
    handle = live["policy"].handle
    assert handle is not None
    for p in handle.params.values():
        p.grad = None
    loss = total(live, objective, [lambda: parts], count_terms(objective, [parts]), at, Engine(), Means())
    return loss, [torch.zeros_like(p) if p.grad is None else p.grad for p in handle.params.values()]


def both() -> dict[str, Live]:
    return {"policy": Live.attach(Role(toy_llama(), FULL)), "teacher": Live.attach(Role(toy_llama(1)))}


def test_the_likeliest_tokens_of_a_role() -> None:
    parts = collate(toy_rows(3))
    found = compute(both(), parts, {"train": frozenset({"teacher.logits", "top_id.1", "guess", *TOPS})}, Engine())["train"]
    logp_TV, scored = found["teacher.logits"].log_softmax(-1), parts["train"].weight_T != 0
    torch.testing.assert_close(found[TOPS[0]][scored], logp_TV.topk(5).values[scored])
    assert (found[TOPS[1]][scored] == logp_TV.topk(5).indices[scored]).all() and not found[TOPS[0]][~scored].any()
    assert (found["top_id.1"][:, 0] == found["guess"]).all()
    with pytest.raises(UserError, match="the 62 likeliest tokens: the vocabulary has 61"):
        compute(both(), parts, {"train": frozenset({"top_id.62"})}, Engine())


def test_first_with_all_tokens_kept_is_the_forward_kl_to_its_gradient() -> None:
    parts = collate(toy_rows(4))
    whole = step(ForwardKL(), both(), parts)
    for objective in (FIRST(k=VOCAB), FIRST(k=VOCAB, rest=False)):
        kept = step(objective, both(), parts)
        assert kept[0] == pytest.approx(whole[0], rel=1e-5)
        for a, b in zip(kept[1], whole[1], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    few = step(FIRST(), both(), parts)
    assert 0 < few[0] < whole[0], "what is told apart less differs less"


def test_first_and_a_student_that_is_its_teacher() -> None:
    same = {"policy": Live.attach(Role(toy_llama(), FULL)), "teacher": Live.attach(Role(toy_llama()))}
    for objective in (FIRST(), FIRST(rest=False)):
        loss, gradients = step(objective, same, collate(toy_rows(3)))
        assert abs(loss) < 1e-6 and all(g.abs().max() < 1e-6 for g in gradients)


def test_columns_on_disk_take_the_place_of_the_teacher(tmp_path: Path) -> None:
    rows = toy_rows(4)
    table = Table.build(columns(Policy(toy_llama(1), None), rows, Engine(), 20, column=TOPS), tmp_path / "table")
    assert table[0]["train"][0].extras[TOPS[1]].shape == (len(rows[0]["train"][0].ids), 5)
    table.verify()
    alone = {"policy": Live.attach(Role(toy_llama(), FULL))}
    kept, live = step(FIRST(), alone, collate(list(table))), step(FIRST(), both(), collate(rows))
    assert kept[0] == pytest.approx(live[0], rel=1e-6)
    for a, b in zip(kept[1], live[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_a_teacher_that_is_too_sure_is_made_less_sure() -> None:
    """Right in 6 of 10 with 0.9: the least error is where 0.9 becomes 0.6 beside two of 0.05, one of them the rest."""
    top = np.log(np.array([[0.9, 0.05]] * 10, np.float32))
    ids = np.array([1] * 6 + [2] * 4, np.int32)
    extras = {"teacher.top_logp.2": top, "teacher.top_id.2": np.array([[1, 2]] * 10, np.float32)}
    c = calibrated([{"train": (Segment(ids, np.ones(10, np.float32), extras),)}], 2)
    assert c == pytest.approx(np.log(18) / np.log(3), rel=0.05)


def test_salt_does_not_ask_the_teacher_after_its_last_step() -> None:
    parts, live = collate(toy_rows(3)), both()
    early = step(SALT(until=2), live, parts, at=1)
    del live["teacher"]
    late = step(SALT(until=2), live, parts, at=2)
    assert early[0] != late[0]
    with pytest.raises(ValueError, match="no role 'teacher'"):
        step(SALT(until=2), live, parts, at=1)
    plain = step(NLL(), live, parts)
    for without in (SALT(weight=0.0), SALT(until=0)):
        found = step(without, live, parts)
        assert found[0] == plain[0] and all(torch.equal(a, b) for a, b in zip(found[1], plain[1], strict=True))


# ------------------------------------------------------------------------------------------------------------------------- rows that differ


def record(answer: str, *before: Message) -> Record:
    return Record((*before, Message("user", "the red fox")), (Response((Message("assistant", answer),)),), id=answer, source="here:1")


def test_a_rule_stands_in_front_of_the_teacher_s_prompt_alone() -> None:
    tokenizer = make_tokenizer()
    row = told_row(record("runs and sees"), tokenizer, rule="an old house")
    assert row is not None
    (mine,), (told,) = row["train"], row["told"]
    assert (mine.ids[mine.weight != 0] == told.ids[told.weight != 0]).all() and len(told.ids) > len(mine.ids)
    assert "an old house" in tokenizer.decode(told.ids) and "an old house" not in tokenizer.decode(mine.ids)
    two = told_row(record("runs", Message("system", "nine men")), tokenizer, rule="an old house")
    assert two is not None and "an old house\n\nnine men" in tokenizer.decode(two["told"][0].ids)
    assert told_row(record("runs"), tokenizer, rule="house " * 40, max_length=30) is None


def test_answers_in_two_tokenisations_meet_token_by_token() -> None:
    tokenizer, bytewise = make_tokenizer(), models.load("builtin:tiny", say=lambda _: None).tokenizer
    make = Taught(bytewise)
    row = make(record("runs and sees"), tokenizer)
    assert row is not None and make.__name__ != Taught(tokenizer).__name__
    (plain,), (seen,), (taught,) = row["train"], row["seen"], row["taught"]
    assert (plain.ids == seen.ids).all() and taught.ids.tolist() != plain.ids.tolist()
    counts = [int((s.weight != 0).sum()) for s in (plain, seen, taught)]
    assert counts[1] == counts[2] <= counts[0] and counts[1] > 0


def test_a_wider_vocabulary_of_the_teacher_is_no_hindrance() -> None:
    live = both()
    live["teacher"].model.resize_token_embeddings(VOCAB + 9, mean_resizing=False)  # type: ignore[operator]
    rows = [{"seen": row["train"], "taught": row["train"]} for row in toy_rows(3)]
    loss, gradients = step(UniversalLogit(), live, collate(rows))
    assert 0 < loss < 2 * 1.5 and any(g.abs().max() > 0 for g in gradients)


# ---------------------------------------------------------------------------------------------------------------------------- on policy


def _stream(rows: Sequence[Row], share: float = 0.5) -> OnPolicy:
    return OnPolicy(Shuffled(rows, 4, 0), None, share, 6, seed=3)


def _taken(stream: OnPolicy, live: dict[str, Any], steps: int) -> list[list[int]]:
    return [stream.next(Run(live, i, 0))["train"].ids_T.tolist() for i in range(steps)]


def test_some_steps_take_the_student_s_answers_and_a_resumed_stream_the_same() -> None:
    rows, live = toy_rows(9), {"policy": Live(toy_llama())}
    plain = [Shuffled(rows, 4, 0)]
    data = [plain[0].next(Run({}, i, 0))["train"].ids_T.tolist() for i in range(8)]
    whole = _taken(_stream(rows), live, 8)
    own = [a != b for a, b in zip(whole, data, strict=True)]
    assert any(own) and not all(own)
    first = _stream(rows)
    assert _taken(first, live, 3) == whole[:3]
    second = _stream(rows)
    second.load(json.loads(json.dumps(first.state())))
    assert _taken(second, live, 5) == whole[3:]
    assert _taken(_stream(rows, 0.0), live, 8) == data


def test_own_answers_stand_behind_the_data_s_prompts_and_are_scored() -> None:
    rows = toy_rows(5)
    before = Shuffled(rows, 4, 0).next(Run({}, 0, 0))["train"]
    batch = _stream(rows, 1.0).next(Run({"policy": Live(toy_llama())}, 0, 0))["train"]
    assert batch.group_S.tolist() == before.group_S.tolist()
    pieces = zip(*(x.split(lengths(b).tolist()) for b in (before, batch) for x in (b.ids_T, b.weight_T)), strict=True)
    for old, old_weight, new, weight in pieces:
        n = int((old_weight == 0).sum())
        assert (new[:n] == old[:n]).all() and not weight[:n].any() and (weight[n:] == 1).all() and 1 <= len(new) - n <= 6
    planned = _stream(rows, 1.0).next(Run({}, 0, 0))["train"]
    assert (lengths(planned) >= lengths(batch)).all()


def test_training_on_own_answers_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def trained(folder: str, stop_at: int) -> dict[str, torch.Tensor]:
        stopper = Stopper()
        fitted = fit(
            {"policy": Role(toy_llama(), FULL), "teacher": Role(toy_llama(1))}, GKD(), _stream(toy_rows(9), 0.7), steps=6,
            optimizer=Optimizer(lr=3e-3), training=Training(save_every=2, precision="fp32"), folder=tmp_path / folder, resume=True, seed=1,
            say=lambda text: None, stopper=stopper, on_metrics=lambda m: stopper("a test") if m["step"] == stop_at else None,
        )  # fmt: skip
        handle = fitted.roles["policy"].handle
        assert handle is not None
        return {name: p.detach().clone() for name, p in handle.params.items()}

    whole = trained("whole", 0)
    with pytest.raises(Interrupted):
        trained("stopped", 3)
    again = trained("stopped", 0)
    assert all(torch.equal(p, again[name]) for name, p in whole.items())


# ------------------------------------------------------------------------------------------------------------------------------- the recipe


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """builtin:tiny, moved a little."""
    found, folder = models.load("builtin:tiny", say=lambda _: None), tmp_path_factory.mktemp("teacher")
    with torch.no_grad():
        for p in found.model.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    models.save(found, folder / "model")
    return str(folder / "model")


SMALL: dict[str, Any] = {"model": "builtin:tiny", "limit": 16, "steps": 2, "batch_size": 4, "max_test": 4, "keep": "none", "precision": "fp32"}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("distil", {"on_policy": 1.0, "max_new_tokens": 4, "nll": 0.5}),
        ("first", {"calibrate": True, "k": 3}),
        ("first", {"on_policy": 1.0, "max_new_tokens": 4}),
        ("rule_distillation", {"rule": "Write in capital letters."}),
        ("sequence_kd", {"max_new_tokens": 8}),
    ],
)
def test_a_run_ends_in_a_ledger(name: str, more: dict[str, Any], teacher: str, tmp_path: Path) -> None:
    report = tp.run(name, teacher=teacher, out=tmp_path / "run", again=True, **SMALL, **more)
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 2 and all(row["loss"] > 0 and row["grad_norm"] > 0 for row in metrics)
    assert report.ledger.probes and json.loads((tmp_path / "run" / "lock.json").read_text())["teacher"]["source"] == teacher


def test_a_student_is_watched_from_an_oracle(teacher: str, tmp_path: Path) -> None:
    report = tp.run("forward_kl", teacher=teacher, oracle="builtin:tiny", look_every=1, out=tmp_path / "run", again=True, **SMALL)
    path = json.loads((tmp_path / "run" / "hacking.json").read_text())
    assert [look["step"] for look in path] == [1, 2] and all(look["oracle"] > 0 and look["teacher"] > 0 for look in path)
    (probe,) = [p for p in report.ledger.probes if p.name == "teacher_hacking"]
    # The student begins as the oracle.
    assert probe.before.point == pytest.approx(0, abs=1e-6) and probe.after.point > 0


def test_with_an_oracle_for_a_teacher_both_distances_are_one() -> None:
    from tempering.methods.probes.teacher_hacking import TeacherHacking, rise

    student, other = (Policy(make_llama(seed=seed), make_tokenizer()) for seed in (0, 1))
    ids, weight = np.array([3, 5, 7, 9, 4], np.int32), np.array([0, 0, 1, 0, 2], np.float32)
    rows = [{"train": (Segment(ids, weight),)}]
    found = TeacherHacking(rows=rows, oracle=other, teacher=other)(student).summary
    with torch.no_grad():
        p, q = (one.model(torch.tensor([ids.tolist()])).logits[0].double().log_softmax(-1)[[1, 3]] for one in (other, student))
    assert found["oracle"] == found["teacher"] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-5)
    assert TeacherHacking(rows=rows, oracle=student, teacher=student)(student).summary["teacher"] == 0
    assert rise([3.0, 1.0, 2.5]) == 1.5 and rise([3.0, 2.0]) == 0


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    models.save(Policy(make_llama(vocab=len(tokenizer)), tokenizer), tmp_path / "other")
    for more, words in (
        ({}, "name the model to learn from with --teacher"),
        ({"teacher": "builtin:tiny", "rule": "Be brief."}, "rule_distillation"),
        ({"teacher": "builtin:tiny", "calibrate": True}, "--calibrate chooses"),
        ({"teacher": "builtin:tiny", "rule": "Be brief.", "on_policy": 0.5}, "rule_distillation"),
        ({"teacher": str(tmp_path / "other")}, "its vocabulary is another"),
    ):
        with pytest.raises(UserError, match=words):
            tp.run("forward_kl", out=tmp_path / "run", again=True, **{**SMALL, **more})
