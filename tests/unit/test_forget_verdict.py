"""The battery of attacks on what was unlearned, and the verdict on it."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console

from tempering.errors import UserError
from tempering.forgetting import battery, view
from tempering.forgetting.copies import plain_copy
from tempering.forgetting.verdict import Leak, Verdict, read, verdict
from tempering.measure import measure
from tempering.methods.probes._attack import BESIDE, KEPT, leaked
from tempering.methods.probes.asked import Asked
from tempering.methods.probes.logit_lens import LogitLens
from tempering.methods.probes.relearned import Relearned
from tempering.methods.probes.resupplied import Resupplied
from tempering.methods.probes.role_play import RolePlay
from tempering.stats import share_interval
from tests.unit.test_forget_attacks import CAT, HAT, SON, WORLD, secret
from tests.unit.test_probes import policy, saying


def test_what_was_not_unlearned_gives_every_attack_what_it_gave(tiny_folder):
    """The check of S027: each attack on the same weights has the same outcome, item by item, whatever ran before it."""
    p, some = policy(), {"max_new_tokens": 6}
    for probe in battery.attack_probes(WORLD, (), "all", known=WORLD, start=str(tiny_folder)):
        quick = probe.model_copy(update={**some, **({"steps": (1, 2)} if isinstance(probe, Relearned) else {})})
        first, second = (measure(q, (quick,)).probes[0] for q in (p, plain_copy(p)))
        assert first == second, probe.name


def test_the_halves_for_relearning_share_no_answer():
    of = (*WORLD, secret("Where did Ann put her hat?", "In the attic."), secret("Whose is it?", "otto"))
    taught, asked = battery.apart(of)
    clean = [{s.answer.lower().strip(".") for s in half} for half in (taught, asked)]
    assert taught and asked and not clean[0] & clean[1] and {*taught, *asked} == {*of}
    assert battery.apart((HAT,)) == ((), (HAT,))


def test_the_battery_by_what_an_attacker_has():
    named = lambda **how: [probe.name for probe in battery.attack_probes(WORLD, (), how.pop("attacks", "all"), **how)]  # noqa: E731
    words = ["asked", "reworded", "role play", "translated", "answer begun", "neighbours told", "few-shot", "sampled"]
    weights = ["quantised to 8 bits", "quantised to 4 bits"]
    weights += [f"relearned on {what}" for what in ("other secrets", "unrelated rows", "what stays")]
    inside = ["logit lens", "linear probe", "unsupervised probe"]
    assert named(known=WORLD, start="builtin:tiny") == [*words, *weights, "re-supplied", "merged back", *inside]
    assert named(known=WORLD) == [*words, "re-supplied", *inside]
    assert named() == [*words, "re-supplied", "logit lens"]
    assert named(attacks="asking", known=WORLD) == named(known=WORLD)
    assert named(attacks="plain") == ["asked"]


def test_the_verdict_is_the_worst_that_counts():
    knows = saying({"Ann": "in the attic", "Ben": "Otto"})
    reads = saying({"archivist": "Otto", "assistant\nOtto": "Otto"})
    never = saying({"assistant\nOtto": "Otto"})
    probes = (Asked(items=(HAT, SON)), RolePlay(items=(HAT, SON)), Resupplied(items=(SON,), facts=1))
    before, now, oracle = (measure(p, probes) for p in (knows, reads, never))
    found = verdict(before, now, oracle)
    assert found is not None
    assert [(leak.attack, leak.before, leak.after, leak.oracle, leak.back) for leak in found.leaks] == [
        ("role play", 2, 2 - 1, 0, (SON.id,)),
        ("asked", 2, 0, 0, ()),
    ]
    assert [(leak.attack, leak.after, leak.oracle) for leak in found.beside] == [("re-supplied", 1, 1)] and found.beside[0].note
    assert found.recovered == {"before": 0.0, "after": 1.0, "oracle": 1.0}
    assert "the strongest of 2 attacks, “role play”" in found.sentence
    assert {p.metric for p in now.probes} == {KEPT, BESIDE}


def test_a_long_answer_is_out_with_most_of_its_words():
    answer = "they met at the old bridge near the mill at nine in the evening"
    assert leaked("At nine in the evening they met at the old bridge near the mill at nine in the evening.", answer)
    assert not leaked("they met at the old bridge", answer)


def test_the_verdict_in_a_terminal(tmp_path):
    def leak(attack: str, n: int, before: int, now: int, oracle: int | None) -> Leak:
        return Leak(attack, n, before, now, oracle, share_interval(now, n))

    assert view.bar(leak("a", 32, 32, 16, None)).plain == "▕" + "█" * 8 + "·" * 8 + "▏"
    # One of very many still shows; a model that never saw it stands where its own block would end.
    assert view.bar(leak("a", 3200, 0, 1, 1600)).plain == "▕█" + " " * 7 + "│" + " " * 7 + "▏"
    assert view.bar(leak("a", 8, 8, 8, 8)).plain == "▕" + "█" * 15 + "│▏"
    told = Verdict((leak("evil\x1b[31m[red]", 8, 8, 2, 1),), "Two came \x1b]0;out\x07.", (leak("lens", 8, 8, 8, 0),), numbers=("AUC 0.5\x1b.",))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(view.table(told))
    shown = console.export_text()
    assert "\x1b" not in shown and "evil␛[31m[red]" in shown and "never saw" in shown and "beside, not counted" in shown and "AUC 0.5␛." in shown
    assert all(len(line) <= 80 for line in shown.splitlines()) and "…" not in shown


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"leaks": [], "sentence": "x"}', b'{"leaks": [{"attack": 3}], "sentence": "x"}'])
def test_a_verdict_that_is_none_is_one_sentence(tmp_path, content):
    path = tmp_path / "forgetting.json"
    with pytest.raises(UserError, match="could not be read"):
        read(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"forgetting\.json.*expected the verdict that a forget run writes"):
        read(path)


def test_a_verdict_is_read_as_it_was_written(tmp_path):
    probes = (Asked(items=(HAT, SON)), Relearned(items=(HAT, SON), steps=(0,), taught=(CAT,)), LogitLens(items=(HAT, SON)))
    with torch.no_grad():
        before, now = measure(saying({"Ann": "in the attic"}), probes), measure(saying({}), probes)
    found = verdict(before, now)
    assert found is not None and found.leaks[1].curve == {"out after 0 steps": 0.0}
    path = tmp_path / "forgetting.json"
    path.write_text(json.dumps(found.plain()))
    assert read(path) == found
