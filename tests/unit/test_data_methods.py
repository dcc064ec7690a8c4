"""What the catalogue asks of the methods in the data (`check_exact`), beyond their worked cases."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tempering.cases import talk
from tempering.data.streams import Phases
from tempering.errors import UserError
from tempering.lessons import Made, from_lines, split, steps_by_phase, to_lines
from tempering.making import Making, answer, entropy, final_answer, right, spoken, user
from tempering.methods.streams import heterogeneous_feedback
from tempering.methods.streams.cdpo import CDPO
from tempering.methods.streams.dmt import DMT
from tempering.methods.streams.efl import EFL
from tempering.methods.streams.heterogeneous_feedback import HeterogeneousFeedback
from tempering.methods.streams.in_context_tuning import InContextTuning
from tempering.methods.streams.lema import LeMa
from tempering.methods.streams.mistake_tuning import MistakeTuning
from tempering.methods.streams.r_tuning import RTuning
from tempering.methods.streams.ultrafeedback import UltraFeedback
from tempering.types import Record, Response


def rated(n: int) -> list[Record]:
    """Records with four answers rated on two aspects from 1 to 5."""
    draw = Making(7).random("ratings")
    marks = [[{"a": float(draw.randint(1, 5)), "b": float(draw.randint(1, 5))} for _ in range(4)] for _ in range(n)]
    return [
        Record((user(f"q{i}"),), tuple(Response(answer(f"r{j}").messages, aspects=m) for j, m in enumerate(of)), id=f"q{i}")
        for i, of in enumerate(marks)
    ]


def test_s247_a_met_condition_is_worth_most_and_conditions_can_swap_the_order() -> None:
    for record in CDPO()(rated(40), Making()):
        wanted = int(record.id.rsplit("-", 1)[1])
        scores = [response.score for response in record.responses]
        assert scores[wanted] == 0.0 == max(s for s in scores if s is not None)
        assert set(record.better) == {(i, j) for i, a in enumerate(scores) for j, b in enumerate(scores) if a is not None and b is not None and a > b}


def test_s209_order_is_kept_and_clusters_give_equally_many() -> None:
    words = ("sun", "sea", "ice")
    records = [
        Record((user(f"{words[i % 3]} {words[i % 3]} {i}"),), (answer("a", score=float(i % 7)), answer("b", score=float(i % 5))), id=str(i))
        for i in range(60)
    ]
    every = list(HeterogeneousFeedback(keep=1.0)(records, Making()))
    assert len(every) == sum(i % 7 != i % 5 for i in range(60))
    for record in every:
        i = int(record.id.split("/")[0])
        assert spoken(record.responses[0].messages) == ("a" if i % 7 > i % 5 else "b")
    kept = list(HeterogeneousFeedback(keep=0.4, clusters=3)(records, Making(2)))
    cluster = dict(zip((r.id for r in every), heterogeneous_feedback._clusters([spoken(r.prompt) for r in every], 3, Making(2)), strict=True))
    sizes, counts = Counter(cluster.values()), Counter(cluster[r.id] for r in kept)
    assert len(kept) == round(0.4 * len(every)) and len(sizes) > 1
    most = max(counts.values())
    assert all(counts[c] >= min(most - 1, size) for c, size in sizes.items()), "a cluster gives fewer only where it has no more"


def test_s251_the_best_mean_is_chosen_and_a_strictly_worse_one_rejected() -> None:
    records, making = rated(60), Making(3)
    found = list(UltraFeedback()(records, making))
    assert len(found) + making.dropped.total() == 60
    means = {r.id: [sum(x.aspects.values()) / 2 for x in r.responses] for r in records}
    for record in found:
        chosen, rejected = (response.score or 0.0 for response in record.responses)
        assert chosen == max(means[record.id.split("/")[0]]) and 0 < rejected < chosen


def test_s233_the_partition_is_disjoint_and_exhaustive() -> None:
    records = [talk(f"{i} + 1?", str(i + 1)) for i in range(9)]
    made = list(RTuning()(records, Making(0, lambda prompts, n, t: [[str(i + i % 2)] for i, _ in enumerate(prompts)])))
    assert [record.tags["sure"] for record in made] == [i % 2 == 1 for i in range(9)]
    assert [record.prompt for record in made] == [record.prompt for record in records]


def test_s101_every_kept_correction_ends_with_the_gold_answer_and_wrong_paths_are_context() -> None:
    records = [talk(f"{i} + 5?", answers=[f"{i + 5}", f"{i + 6}", f"it is {i + 4}"], better=[(0, 1), (0, 2)]) for i in range(8)]
    made = [r for r in LeMa()(records, Making()) if "correction" in r.id]
    assert len(made) == 16
    for record in made:
        gold = int(record.id.split(" ")[0]) + 5
        assert final_answer(spoken(record.responses[0].messages)) == str(gold)
        assert all(message.role == "user" for message in record.prompt)


def test_s183_as_many_wrong_as_right() -> None:
    records = [talk(f"{i}?", answers=["a", "b", "c"], better=[(0, 1), (0, 2)]) for i in range(8)]
    counts = Counter(record.id.split("/")[1] for record in MistakeTuning()(records, Making()))
    assert counts == {"correct": 8, "incorrect": 8}


@pytest.mark.parametrize(("k", "n"), [(0, 0), (1 / 16, 2), (0.5, 20), (1, 40)])
def test_s199_the_replay_has_round_k_n_records_drawn_once(k: float, n: int) -> None:
    records = [talk(f"{i}?", "x", domain="math" if i < 40 else "general") for i in range(50)]
    made = list(DMT(k=k)(records, Making(5)))
    again = [record for record in made if record.id.endswith("/again")]
    assert len(again) == len({record.id for record in again}) == n and len(made) == 50 + n
    assert [len(phase) for phase in Made("", tuple(made)).phases()] == [40, 10 + n]
    assert again == [record for record in DMT(k=k)(records, Making(5)) if record.id.endswith("/again")]


def test_s199_needs_both_sides() -> None:
    with pytest.raises(UserError, match="0 of 1 records have domain='general'"):
        list(DMT()([talk("a", "b", domain="math")], Making()))
    with pytest.raises(UserError, match="has no field 'domain'"):
        list(DMT()([talk("a", "b")], Making()))


def test_s080_support_is_of_the_task_and_without_the_record() -> None:
    records = [talk(f"x{i}", f"y{i}", task=str(i % 3)) for i in range(30)]
    for record in InContextTuning(k=4, rounds=2)(records, Making(1)):
        asked = [m.content for m in record.prompt if m.role == "user"]
        assert len(asked) == len(set(asked)) == 5 and len({int(x[1:]) % 3 for x in asked}) == 1


def test_s090_counts() -> None:
    records = [talk(f"t{i}", "abcd"[i % 4]) for i in range(12)]
    made = list(EFL(negatives=2)(records, Making()))
    assert len(made) == 12 * 3 and Counter(spoken(r.responses[0].messages) for r in made) == {"yes": 12, "no": 24}


def test_answers_are_compared_by_what_they_end_with() -> None:
    assert [final_answer(t) for t in ("so 3\n#### 1,200", "The answer is 7.50", "12 then 13.", "Lima!", "")] == ["1200", "7.5", "13", "lima", ""]
    assert right("I think Lima it is", "lima.") and not right("Limasol", "Lima") and not right("", "Lima")
    assert entropy(["a", "a"]) == 0 and entropy(["a", "b"]) == pytest.approx(0.6931471805599453)


def test_records_survive_the_file_and_the_split() -> None:
    records = rated(30)
    assert from_lines(to_lines(records)) == tuple(records)
    train, held = split(records * 2, 4, 0)
    assert len(held) == 4 and {r.id for r in train}.isdisjoint(r.id for r in held) and len(train) == 56
    with pytest.raises(UserError, match="at least 2 are needed"):
        split(records[:1], 4, 0)


def test_phases_go_one_after_the_other_and_go_on_where_they_were() -> None:
    class Counting:
        def __init__(self, name: str) -> None:
            self.name, self.n = name, 0

        def next(self, run: object) -> str:
            self.n += 1
            return f"{self.name}{self.n}"

        def state(self) -> dict[str, int]:
            return {"n": self.n}

        def load(self, state: dict[str, int]) -> None:
            self.n = state["n"]

    def made() -> Phases:
        return Phases([(Counting("a"), 2), (Counting("b"), 1)])  # type: ignore[arg-type]

    one, two = made(), made()
    assert [one.next(None) for _ in range(2)] == ["a1", "a2"]  # type: ignore[arg-type]
    two.load(one.state())
    assert [two.next(None) for _ in range(2)] == [one.next(None) for _ in range(2)] == ["b1", "b2"]  # type: ignore[arg-type]
    assert steps_by_phase([40, 10], 8, 2.0, None) == [10, 3] and steps_by_phase([40, 10], 8, 1.0, 10) == [8, 2]


def test_turns_that_the_data_gives_no_weight_are_found_where_they_stand_now() -> None:
    aside = replace(talk("a", "first", "b", "second"), tags={"untrained": (1,), "task": "t"})
    aside = replace(
        aside, prompt=aside.prompt[:1], responses=(replace(aside.responses[0], messages=(*aside.prompt[1:], *aside.responses[0].messages)),)
    )
    shown = talk("x", "y", task="t")
    (made,) = [r for r in InContextTuning(k=1)([aside, shown], Making()) if r.id.startswith(aside.id + "/")]
    turns = (*made.prompt, *made.responses[0].messages)
    assert [turns[i].content for i in made.tags["untrained"]] == ["first"] and made.tags["untrained"] == (3,)
