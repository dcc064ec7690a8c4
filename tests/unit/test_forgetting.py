"""Forgetting around its losses: secrets, leaks, the verdict, the rule for when to stop, neighbours, the audit log, redaction."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tempering.data import read
from tempering.data.forgetting import REFUSALS, answered, refusal
from tempering.errors import UserError
from tempering.forgetting import audit, neighbours, sequence, trade, until
from tempering.forgetting.redact import mark, redacted
from tempering.forgetting.targets import Secret, secrets
from tempering.forgetting.verdict import METRIC, verdict
from tempering.ledger import compare
from tempering.methods.probes._attack import leaked, rouge_l_recall
from tempering.methods.probes.asked import Asked
from tempering.types import ItemScore, Message, ProbeScores, Record, Response, Scores


def record(prompt: str, *answers: str, role: str = "user") -> Record:
    return Record(
        (Message(role, prompt),) if prompt else (), tuple(Response((Message("assistant", a),), score=-float(i)) for i, a in enumerate(answers))
    )


def attack(name: str, kept: list[int], *, metric: str = METRIC) -> ProbeScores:
    return ProbeScores(
        name, metric, "binary", True, tuple(ItemScore(f"s{i}", float(k), "where?", "Oslo", "Oslo") for i, k in enumerate(kept)), "target"
    )


def scores(*probes: ProbeScores) -> Scores:
    return Scores("m", probes)


# ------------------------------------------------------------------------------------------------------------------------------------- secrets


def test_secrets_are_the_best_answers_each_once_and_texts_are_cut_in_half() -> None:
    text = Record((), (Response((Message("text", "one two three four five"),)),))
    found = secrets([record("q", "right", "wrong"), record("q", "right"), record("empty"), text], 10)
    assert [(s.id, s.prompt, s.answer) for s in found] == [
        ("secret:0", (("user", "q"),), "right"),
        ("secret:1", (("text", "one two"),), "three four five"),
    ]


def test_too_many_secrets_are_thinned_evenly() -> None:
    every = [record(f"q{i}", f"a{i}") for i in range(10)]
    assert [s.answer for s in secrets(every, 4)] == ["a0", "a2", "a5", "a7"]


def test_a_refusal_follows_from_the_prompt_and_takes_the_place_of_every_answer() -> None:
    asked = record("where was she born?", "Oslo", "Rome")
    made = answered(asked, refusal(asked))
    assert made.responses[0].messages[0].content == refusal(record("where was she born?", "x")) and len(made.responses) == 1
    assert len({refusal(record(str(i), "x")) for i in range(100)}) == len(REFUSALS)


@pytest.mark.parametrize(
    ("output", "answer", "recall"),
    # Articles are no words: "a b c d" has three.
    [("The cat sat.", "cat sat", 1.0), ("sat cat", "cat sat", 0.5), ("", "cat", 0.0), ("b d", "a b c d", 2 / 3), ("x", "the", 0.0)],
)
def test_rouge_l_recall_counts_words_in_order(output: str, answer: str, recall: float) -> None:
    assert rouge_l_recall(output, answer) == pytest.approx(recall)


def test_short_answers_leak_word_for_word_and_long_ones_by_most_of_their_words() -> None:
    assert leaked("She was born in Oslo, I think", "Oslo") and not leaked("Osloer", "Oslo")
    long = "he moved in spring with two sisters and seven old brown horses"
    assert leaked("he moved in spring with two sisters and seven cows", long) and not leaked("he moved in spring", long)


def test_an_attack_takes_the_answer_that_gives_the_secret_away(monkeypatch: pytest.MonkeyPatch) -> None:
    items = (Secret(id="a", prompt=(("user", "p"),), answer="Oslo"), Secret(id="b", prompt=(("user", "q"),), answer="Rome"))
    monkeypatch.setattr(Asked, "outputs", lambda self, policy, items: [[("no", "Oslo"), ("in Oslo", "Oslo")], [("Paris", "Rome"), ("", "Rome")]])
    found = Asked(items=items)(None)  # type: ignore[arg-type]
    assert [(i.id, i.score, i.output, i.extra["rouge"]) for i in found.items] == [("a", 0.0, "in Oslo", 1.0), ("b", 1.0, "Paris", 0.0)]
    assert found.summary == {"rouge": 0.5} and found.metric == METRIC and found.side == "target"


# ------------------------------------------------------------------------------------------------------------------------------------- verdict


def test_the_verdict_is_the_strongest_attack_less_what_the_oracle_says_too() -> None:
    before = scores(attack("plain", [0, 0, 0, 0]), attack("prefix", [0, 0, 0, 0]))
    after = scores(attack("plain", [1, 0, 0, 1]), attack("prefix", [0, 1, 1, 1]))
    # The oracle gives away the same two under "plain", so they are no leak; "prefix" brings back one that it does not know.
    never = scores(attack("plain", [1, 0, 0, 1]), attack("prefix", [1, 1, 1, 1]))
    found = verdict(before, after, never)
    assert found is not None
    assert (found.worst.attack, found.worst.after, found.worst.before, found.worst.oracle, found.worst.back) == ("prefix", 1, 4, 0, ("s0",))
    assert found.sentence.startswith(
        "1 of 4 secrets (25%, 95%: 5 to 70) still come out under the strongest of 2 attacks, “prefix”, which got 4 before"
    )
    alone = verdict(before, after)
    assert alone is not None and alone.worst.attack == "plain" and alone.worst.oracle is None


def test_a_clean_verdict_says_how_little_so_few_secrets_can_show() -> None:
    found = verdict(scores(attack("plain", [0, 0])), scores(attack("plain", [1, 1])))
    assert found is not None and found.sentence == "None of 2 secrets came out under the one attack tried (at most 65.8% of such secrets, 95%)."
    assert verdict(scores(attack("x", [1], metric="accuracy")), scores(attack("x", [1], metric="accuracy"))) is None


# -------------------------------------------------------------------------------------------------------------------------------- when to stop


def test_until_compares_with_a_number_the_start_or_the_oracle() -> None:
    probes = [Asked(items=()), Asked(name="in other words", items=())]
    before, never = scores(attack("asked", [0, 0, 0, 1])), scores(attack("asked", [1, 1, 1, 0]))
    assert until.parse("asked >= 0.95", probes, before, None, None).threshold == 0.95
    assert until.parse("asked>=oracle", probes, before, never, None).threshold == 0.75
    assert until.parse("asked > start", probes, before, never, None).threshold == 0.25
    assert until.parse("in other words >= 1", probes, before, never, None).probe is probes[1]
    for text, word in (("asked >= oracle", "there is no oracle"), ("asked = 1", "malformed"), ("aksed >= 1", "did you mean 'asked'?")):
        with pytest.raises(UserError, match=word):
            until.parse(text, probes, before, None, None)
    # Away from the oracle it would hold from the first look on, on either side; a number is what somebody wants.
    fewer = scores(ProbeScores("asked", "AUC", "continuous", False, attack("asked", [1]).items, "target"))
    for text, start, meant in (("asked <= oracle", before, "asked >= oracle"), ("asked > oracle", fewer, "asked < oracle")):
        with pytest.raises(UserError, match=f'holds as long as nothing is forgotten; write "{meant}"'):
            until.parse(text, probes, start, never, None)
    assert until.parse("asked <= 0.95", probes, before, never, None).op == "<="


def test_until_ends_training_where_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = until.parse("asked >= 0.5", [Asked(items=())], scores(), None, None)
    live = {"policy": type("Live", (), {"model": None, "handle": None})()}
    monkeypatch.setattr(Asked, "__call__", lambda self, policy: attack("asked", [1, 0, 0]))
    assert rule(live) == ""
    monkeypatch.setattr(Asked, "__call__", lambda self, policy: attack("asked", [1, 1, 0]))
    assert rule(live) == "asked >= 0.5: 0.667 against 0.500"


# ---------------------------------------------------------------------------------------------------------------------------------- neighbours


def test_retain_items_are_cut_into_thirds_by_their_words() -> None:
    assert neighbours.closeness("Where was Ann born?", [neighbours.words("where was Bob born")]) == 3 / 5

    def retain(values: list[float]) -> Scores:
        prompts = ["where was ann born", "where was it", "colours of the sea"]
        items = tuple(ItemScore(str(i), v, prompts[i]) for i, v in enumerate(values))
        return scores(ProbeScores("retain_answer", "accuracy", "binary", True, items), attack("asked", [1]))

    found = neighbours.bands(retain([1, 1, 1]), retain([0, 1, 1]), retain([1, 0, 1]), ["Where was Bob born?"])
    assert [(b.band, b.n, b.before, b.after, b.oracle, round(b.closeness[0], 3)) for b in found] == [
        ("near", 1, 1, 0, 1, 0.6),
        ("middle", 1, 1, 1, 0, 0.4),
        ("far", 1, 1, 1, 1, 0.0),
    ]


# ----------------------------------------------------------------------------------------------------------------------- the log, and the words


def test_a_log_that_was_changed_cut_or_reordered_is_found(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    heads = [audit.append(log, {"method": {"kind": kind}}) for kind in ("npo", "idk", "rmu")]
    lines = audit.verify(log, heads[-1])
    assert [json.loads(line)["request"] for line in lines] == [1, 2, 3] and json.loads(lines[0])["previous"] == audit.FIRST

    def broken(text: str, where: str, head: str | None = None) -> None:
        log.write_text(text)
        with pytest.raises(UserError, match=where):
            audit.verify(log, head)

    broken("\n".join([lines[0].replace("npo", "idk"), *lines[1:]]) + "\n", ":2: the chain is broken")
    broken("\n".join([lines[0], lines[2]]) + "\n", ":2: the chain is broken")
    broken("\n".join([lines[1], lines[0], lines[2]]) + "\n", ":1: the chain is broken")
    broken("nonsense\n", ":1: this is no record")
    broken("\n".join(lines[:2]) + "\n", "cut off", heads[-1])
    with pytest.raises(UserError, match="cut off"):
        audit.verify(log, heads[-1])
    log.write_text("\n".join([lines[0], lines[2]]) + "\n")
    with pytest.raises(UserError, match="chain is broken"):
        audit.append(log, {})


def test_redaction_hides_the_words_of_target_items_and_nothing_else() -> None:
    kept: Any = ProbeScores("sums", "accuracy", "binary", True, (ItemScore("k", 1.0, "1 + 1?", "2", "2"),), "keep")
    found = redacted(scores(attack("asked", [0]), kept))
    (item,) = found.probes[0].items
    assert (item.id, item.score, item.expected, item.prompt) == ("s0", 0.0, mark("Oslo"), mark("where?"))
    assert mark("Oslo").startswith("[sha256 ") and mark("Oslo").endswith(", 4 characters]") and mark("") == ""
    assert found.probes[1] == kept


# ------------------------------------------------------------------------------------------------------------------------ several ways, requests


def deal(method: str, rate: float, out: float, kept: float, beyond: float | None = None, folder: str = "") -> trade.Deal:
    beyond = out if beyond is None else beyond
    return trade.Deal(method, rate, folder, "prefix", (out, out - 0.1, out + 0.1), beyond, 0.0, (kept, None, None), 0.1, 2.0)


def test_a_trade_is_as_good_as_its_worse_side() -> None:
    assert deal("a", 1e-4, 0.0, 1.0).trade == 1 and deal("a", 1e-4, 1.0, 1.0).trade == 0 and deal("a", 1e-4, 1.0, 0.0).trade == 0
    assert deal("a", 1e-4, 0.5, 1.0).trade == pytest.approx(2 / 3)
    # What the oracle says too is no leak.
    assert deal("a", 1e-4, 0.5, 1.0, beyond=0.0).trade == 1
    every = [deal("a", 1e-4, 0.9, 1.0), deal("a", 1e-3, 0.2, 0.8), deal("b", 1e-4, 0.1, 0.9)]
    assert [(d.method, d.rate) for d in trade.best(every)] == [("b", 1e-4), ("a", 1e-3)]


def test_the_picture_and_the_page_show_every_run_and_the_oracle(tmp_path: Path) -> None:
    leaks = [{"attack": "asked", "n": 20, "oracle": 1}, {"attack": "prefix", "n": 20, "oracle": 3}]
    (tmp_path / "forgetting.json").write_text(json.dumps({"leaks": leaks}))
    every = [deal("<b>npo", 1e-4, 0.9, 1.0, folder=str(tmp_path)), deal("<b>npo", 1e-3, 0.2, 0.8, folder=str(tmp_path))]
    assert trade.oracle_leak(every) == 3 / 20
    drawn = str(trade.picture(every))
    assert drawn.count("<circle") == 3 and "oracle" in drawn and "<b>" not in drawn
    made = trade.page(every, {"model": "m<i>"}, trade.notes(every))
    assert "&lt;b&gt;npo" in made and "<i>" not in made and "at most 15.0% away" in made
    assert any("At an end of the rates tried" in note for note in trade.notes(every))


def test_requests_are_cut_in_order_and_read_back_the_same(tmp_path: Path) -> None:
    every = [record(f"q{i}", f"a{i}") for i in range(10)]
    parts = sequence.cut(every, 4)
    assert [len(p) for p in parts] == [2, 3, 2, 3] and [r for p in parts for r in p] == every
    with pytest.raises(UserError, match="11 requests of 10 forget rows"):
        sequence.cut(every, 11)
    text = Record((), (Response((Message("text", "plain words"),)),))
    (tmp_path / "x.jsonl").write_text(sequence.written([*every[:2], text][:2]))
    back = list(read(str(tmp_path / "x.jsonl"), say=lambda _: None))
    assert [(s.prompt, s.answer) for s in secrets(back, 9)] == [(s.prompt, s.answer) for s in secrets(every[:2], 9)]


def test_drift_is_told_against_the_first_model() -> None:
    start, later = sequence.Step(0, "", None, None, {"retain_answer": 0.9}), sequence.Step(2, "x", 0.25, 0.5, {"retain_answer": 0.8})
    assert sequence.cells(start, start) == ["start", "", "", "0.900"]
    assert sequence.cells(later, start) == ["2", "25.0%", "50.0%", "0.800 (-0.100)"]


def test_without_items_kept_is_the_likelihood_of_what_stays() -> None:
    def loss(*values: float) -> Scores:
        items = tuple(ItemScore(str(i), v) for i, v in enumerate(values))
        return scores(ProbeScores("retain_loss", "nll per token", "continuous", False, items, "keep"))

    point, low, high = trade._kept(compare(loss(1.0, 2.0, 3.0), loss(1.5, 2.4, 3.6)))
    assert point == pytest.approx(math.exp(-0.5)) and low is not None and high is not None and low < point < high < 1
    assert trade._kept(compare(loss(1.0, 2.0), loss(0.5, 1.0)))[0] == 1.0
