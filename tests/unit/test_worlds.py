"""Every world: the same in every process, disjoint splits, no repetition, an oracle that accepts the gold answer and refuses the next item's."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path

import pytest

from tempering.errors import UserError
from tempering.types import Message, Response
from tempering.worlds.arithmetic import Arithmetic, WordProblems
from tempering.worlds.base import Item, Shuffle, World, draw, multiple_choice, normal, says
from tempering.worlds.demo import KNOWN, NEW, SETS, demo_records
from tempering.worlds.instructions import Instructions
from tempering.worlds.people import People
from tempering.worlds.preferences import Preferences
from tempering.worlds.tickets import Tickets

WORLDS = {
    "people": People(20, seed=3),
    "people-sentence": People(20, seed=3, style="sentence"),
    "sums-1": Arithmetic(digits=1),
    "sums-steps": Arithmetic(digits=2, steps=True),
    "stories": WordProblems(3),
    "instructions": Instructions(),
    "tickets": Tickets(),
}
each_world = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS.keys())

DIGEST = """
import hashlib
from tempering.worlds.arithmetic import Arithmetic, WordProblems
from tempering.worlds.demo import KNOWN, NEW, SETS, demo_records
from tempering.worlds.instructions import Instructions
from tempering.worlds.people import People
from tempering.worlds.preferences import Preferences
from tempering.worlds.tickets import Tickets
worlds = [People(20, seed=3), Arithmetic(), WordProblems(), Instructions(), Tickets(), Preferences(noise=0.2)]
lines = [repr(dict(item)) for w in worlds for split in ("train", "test") for item in w.items(split, 50)]
lines += list(People(20, seed=3).texts()) + [repr(i) for i in People(20, seed=3).items("two_hop", 50)]
lines += [repr(r) for r in Preferences(noise=0.2).records("train", 50, view="labels")]
print(hashlib.sha256("\\n".join(lines).encode()).hexdigest())
"""


def test_same_in_every_process_whatever_the_hash_seed() -> None:
    root = Path(__file__).resolve().parents[2]
    digests = [
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    ]
    assert digests[0] == digests[1] == digests[2]
    assert len(digests[0].strip()) == len(hashlib.sha256().hexdigest())


def test_worlds_need_no_torch() -> None:
    code = (
        "import sys, tempering.worlds.demo, tempering.worlds.people, tempering.worlds.preferences\nfrom tempering.worlds.people import People\n"
        "list(People(5).records())\nprint(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@each_world
def test_items_are_repeatable_and_a_prefix_stays(world: World) -> None:
    some = list(world.items("train", 30))
    assert some == list(islice(world.items("train"), 30))
    assert some == list(world.items("train", 30))


@each_world
def test_no_item_comes_twice_and_no_prompt_is_in_both_splits(world: World) -> None:
    train, test = list(world.items("train", 100)), list(world.items("test", 16))
    assert len({i["id"] for i in train}) == 100
    assert len({i["id"] for i in test}) == 16
    assert not {i["prompt"] for i in world.items("train", 400 if "people" in world.name else 140)} & {i["prompt"] for i in test}


@each_world
def test_oracle_accepts_gold_and_completion_and_refuses_others(world: World) -> None:
    for item in world.items("test", 16):
        assert world.grade(str(item["answer"]), item)
        assert world.grade(str(item.get("completion", item["answer"])), item)
        assert not world.grade("", item)
        assert not world.grade("zzz", item)
    items = list(world.items("train", 100))
    wrong = [(a, b) for a, b in pairwise(items) if a["answer"] != b["answer"] and a["kind"] == b["kind"]]
    assert not any(world.grade(str(b["answer"]), a) for a, b in wrong)


@each_world
def test_records_say_what_the_items_say(world: World) -> None:
    for item, record in zip(world.items("train", 5), world.records("train", 5), strict=True):
        assert record.prompt == (Message("user", item["prompt"]),)
        assert record.responses == (Response((Message("assistant", item.get("completion", item["answer"])),)),)
        assert (record.id, record.source) == (item["id"], f"{world.name}:{item['id']}")
        assert record.tags["answer"] == item["answer"]


@each_world
def test_impossible_sizes_and_splits_are_refused(world: World) -> None:
    with pytest.raises(UserError, match="different ones exist"):
        list(world.items("train", 10**15))
    with pytest.raises(UserError, match="must be 0 or more"):
        list(world.items("train", -1))
    with pytest.raises(UserError, match="unknown split"):
        list(world.items("tset", 1))
    assert list(world.items("train", 0)) == []


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000])
def test_shuffle_is_a_bijection(total: int) -> None:
    order = Shuffle(total, "key", total)
    assert sorted(order(i) for i in range(total)) == list(range(total))


def test_shuffle_depends_on_its_key_and_scatters() -> None:
    orders = [[Shuffle(1000, "key", k)(i) for i in range(1000)] for k in range(3)]
    assert orders[0] != orders[1] != orders[2]
    for order in orders:
        kept_next = sum(b == a + 1 for a, b in pairwise(order))
        assert kept_next < 10  # about 1 in 1000 pairs for a random order
        assert abs(sum(order[:500]) / 500 - 499.5) < 60  # 4.6 standard errors


def test_shuffle_of_a_huge_range_needs_no_table() -> None:
    order = Shuffle(10**15, "big")
    seen = {order(i) for i in range(1000)}
    assert len(seen) == 1000
    assert all(0 <= x < 10**15 for x in seen)


def test_draw_takes_turns_and_holds_out_the_first_tenth() -> None:
    totals = {"a": 30, "b": 10}
    train, test = list(draw(totals, "train", None, "w", "k")), list(draw(totals, "test", None, "w", "k"))
    assert [f for f, _ in test] == ["a", "b", "a", "a"]
    assert [f for f, _ in train[:6]] == ["a", "b"] * 3
    assert sorted(train + test) == sorted([("a", i) for i in range(30)] + [("b", i) for i in range(10)])
    # a family's split does not depend on which other families there are
    assert list(draw({"b": 10}, "test", None, "w", "k")) == [x for x in test if x[0] == "b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat!", "cat"),
        ("a dog, a cat", "dog a cat"),
        ("Oak-Hall.", "oak hall"),
        ("it's", "it's"),
        ("", ""),
        ("12,5", "12 5"),
        ("Ünder_score", "ünder score"),
    ],
)
def test_normal(text: str, expected: str) -> None:
    assert normal(text) == expected


@pytest.mark.parametrize(
    ("output", "phrase", "expected"),
    [
        ("She is a baker.", "baker", True),
        ("bakery", "baker", False),
        ("Oak hall it is", "Oak Hall", True),
        ("oak in hall", "Oak Hall", False),
        ("x", "", False),
    ],
)
def test_says(output: str, phrase: str, expected: bool) -> None:
    assert says(output, phrase) is expected


def test_multiple_choice_names_the_answer() -> None:
    item = {"id": "1", "prompt": "q", "answer": "b"}
    made = multiple_choice(item, ("a", "b", "c", "d", "e"), "key")
    assert made["question"] == "q"
    assert len(set(made["choices"])) == 4
    assert made["choices"][made["answer"]] == "b"
    with pytest.raises(UserError, match="3 wrong answers"):
        multiple_choice(item, ("a", "b", "c"), "key")


BAD: list[tuple[str, Callable[[], object]]] = [
    ("size=0", lambda: People(0)),
    ("start=-1", lambda: People(5, start=-1)),
    ("different names", lambda: People(10**9)),
    ("unknown kinds", lambda: People(5, kinds=("shoe",))),
    ("short or sentence", lambda: People(5, style="long")),  # type: ignore[arg-type]
    ("unknown operations", lambda: Arithmetic(("divide",))),
    ("between 1 and 12", lambda: Arithmetic(digits=13)),
    ("max_steps=0", lambda: WordProblems(0)),
    ("limit=1", lambda: WordProblems(limit=1)),
    ("unknown tasks", lambda: Instructions(("sing",))),
    ("max_words=9", lambda: Instructions(max_words=9)),
    ("between 0 and 1", lambda: Preferences(noise=1.5)),
    ("whole hundredths", lambda: Preferences(noise=0.125)),
    ("unknown view", lambda: list(Preferences().records(view="pair"))),  # type: ignore[arg-type]
    ("unknown split", lambda: list(Preferences().items("tset"))),
    ("different ones exist", lambda: list(Preferences().items("test", 10**9))),
]


@pytest.mark.parametrize(("says_so", "make"), BAD, ids=[b[0] for b in BAD])
def test_wrong_parameters_are_refused(says_so: str, make: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=says_so):
        make()


def test_millions_come_lazily_and_without_repetition() -> None:
    def ids(items: Iterator[Item]) -> set[str]:
        return {i["id"] for i in islice(items, 3000)}

    assert len(ids(Arithmetic(digits=6).items("train", 5_000_000))) == 3000
    assert len(ids(People(5_000_000).items("train", 30_000_000))) == 3000
    assert len(ids(Instructions().items("train", 5_000_000))) == 3000
    assert len(ids(Preferences().items("train", 3_000_000))) == 3000
    assert len(ids(WordProblems(3).items("train", 1_000_000))) == 3000


@pytest.mark.parametrize(
    ("name", "rows", "responses"),
    [
        ("demo", 240, 1),
        ("demo-test", 40, 1),
        ("demo-people", 1120, 1),
        ("demo-people-test", 120, 1),
        ("demo-pairs", 400, 2),
        ("demo-pairs-test", 100, 2),
        ("demo-ratings", 400, 2),
        ("demo-ratings-test", 100, 2),
        ("demo-steps", 400, 1),
        ("demo-steps-test", 100, 1),
        ("demo-classes", 320, 0),
        ("demo-classes-test", 80, 0),
    ],
)
def test_demo_sets_by_name(name: str, rows: int, responses: int) -> None:
    source = demo_records(f"builtin:{name}")
    records = list(source)
    assert len(records) == rows == int(SETS[name][0].split()[0].replace(",", ""))
    assert {len(r.responses) for r in records} == {responses}
    assert list(source) == records
    assert source.fingerprint == demo_records(f"builtin:{name}").fingerprint
    if not name.endswith("-test"):
        assert not {r.prompt for r in records} & {r.prompt for r in demo_records(f"builtin:{name}-test")}


def test_a_mistake_makes_all_that_follows_wrong() -> None:
    seen = set()
    for r in demo_records("builtin:demo-steps"):
        steps, labels = r.tags["steps"], r.tags["step_labels"]
        assert r.responses[0].messages[0].content == "\n".join(steps) and list(labels) == sorted(labels, reverse=True)
        seen.add(sum(labels) / len(labels))
        for step, label in zip(steps[:-1], labels, strict=False):
            a, sign, b, _, result = step.split()
            right = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign] == int(result)
            assert right or not label
        # The first wrong step is the miscalculated one.
        if 0 < sum(labels) < len(labels):
            first = labels.index(0.0)
            a, sign, b, _, result = steps[first].split() if first < len(steps) - 1 else (0, "+", 0, "=", 1)
            assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign] != int(result)
        assert steps[-1] == f"Answer: {steps[-2].split()[-1]}"
    assert {0.0, 1.0} < seen


def test_unknown_demo_set_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean builtin:demo-people"):
        demo_records("builtin:demo-peple")


def test_demo_people_are_new() -> None:
    assert not {p.name for p in NEW.people()} & {p.name for p in KNOWN.people()}
