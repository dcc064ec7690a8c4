"""Arithmetic, stories, instructions, tickets and preferences: answers recomputed from the prompts, gold rewards by hand, exact noise."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from tempering.worlds.arithmetic import Arithmetic, WordProblems, last_number
from tempering.worlds.instructions import Instructions
from tempering.worlds.preferences import BLOCK, Gold, Preferences
from tempering.worlds.tickets import INSTRUCTION, Tickets

# ---------------------------------------------------------------------------------------------------------------------------------- arithmetic


def _holds(equation: str) -> bool:
    left, right = equation.split(" = ")
    a, sign, b = left.split(" ")
    return {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign] == int(right)


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_sums_are_right_and_their_steps_hold(digits: int) -> None:
    for item in islice(Arithmetic(digits=digits, steps=True).items("train"), 140):
        a, b = (int(x) for x in item["id"].split(".")[1:])
        assert int(item["answer"]) == {"add": a + b, "subtract": a - b, "multiply": a * b}[item["kind"]]
        assert len(str(max(a, b))) == digits
        assert sorted(int(x) for x in re.findall(r"\d+", item["prompt"])) == sorted((a, b))
        steps, _, answer = item["completion"].rpartition(". Answer: ")
        assert answer == item["answer"]
        assert all(_holds(step) for step in steps.split("; "))
        assert steps.endswith(f"= {answer}")


def test_one_digit_world_is_every_pair_once() -> None:
    world = Arithmetic(("add",), digits=1)
    train, test = list(world.items("train")), list(world.items("test"))
    pairs = [tuple(sorted(int(x) for x in i["id"].split(".")[1:])) for i in train + test]
    assert sorted(pairs) == [(a, b) for a in range(10) for b in range(a, 10)]
    assert len(test) == 6  # a tenth of 55, rounded


def test_two_digit_world_has_both_orders_and_shares_no_pair_between_splits() -> None:
    world = Arithmetic(("add", "multiply"), digits=2)

    def pairs(split: str) -> set[tuple[str, int, int]]:
        return {(i["kind"], *sorted(int(x) for x in i["id"].split(".")[1:])) for i in world.items(split)}

    assert not pairs("train") & pairs("test")
    assert len(pairs("train")) + len(pairs("test")) == 2 * (100 * 101 // 2 - 10 * 11 // 2)
    orders = [int(a) < int(b) for _, a, b in (i["id"].split(".") for i in world.items("train", 400))]
    assert 140 < sum(orders) < 260


def test_the_split_of_an_operation_does_not_depend_on_the_others() -> None:
    alone = {i["id"] for i in Arithmetic(("add",)).items("test")}
    among = {i["id"] for i in Arithmetic(("subtract", "add")).items("test") if i["kind"] == "add"}
    assert alone == among


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", 42),
        ("12 - 3 = 9.", 9),
        ("1,234,567", 1234567),
        ("-5", -5),
        ("7-3", 3),
        ("3.5", None),
        ("none", None),
        ("", None),
        ("x2 is 4", 4),
        ("4 then 5!", 5),
    ],
)
def test_last_number(text: str, number: int | None) -> None:
    assert last_number(text) == number


def test_stories_recomputed_from_their_words() -> None:
    gains, losses = ("finds", "gets", "buys"), ("gives away", "loses", "sells")
    for item in WordProblems(3).items("train", 300):
        first, *others = re.split(r"(?<=\.) ", item["prompt"])
        start = [int(x) for x in re.findall(r"\d+", first)]
        total = start[0] * (start[1] if "boxes" in first else 1)
        for sentence in others[:-1]:
            amount = int(re.findall(r"\d+", sentence)[0])
            assert any(g in sentence for g in gains) != any(x in sentence for x in losses)
            total += amount if any(g in sentence for g in gains) else -amount
            assert total > 0
        assert str(total) == item["answer"]
        steps = item["completion"].partition(". Answer: ")[0].split("; ")
        assert all(_holds(step) for step in steps)
        assert 1 <= len(steps) <= 3


def test_how_many_stories_there_are() -> None:
    # one step: boxes a*b, gain a,b, lose a,b: 3 * 4 of limit 2; a tenth of each four (at least one) is held out
    world = WordProblems(1, limit=2)
    assert (len(list(world.items("train"))), len(list(world.items("test")))) == (9, 3)


# -------------------------------------------------------------------------------------------------------------------------------- instructions


@pytest.mark.parametrize(
    ("task", "words", "answer"),
    [
        ("repeat", "oak lamp", "oak lamp"),
        ("uppercase", "oak lamp", "OAK LAMP"),
        ("count", "oak lamp tea", "3"),
        ("reverse", "oak lamp tea", "tea lamp oak"),
        ("first", "oak lamp", "oak"),
        ("last", "oak lamp", "lamp"),
        ("commas", "oak lamp tea", "oak, lamp, tea"),
    ],
)
def test_instruction_oracles_by_hand(task: str, words: str, answer: str) -> None:
    from tempering.worlds.instructions import _TASKS

    assert _TASKS[task][1](tuple(words.split())) == answer


def test_instructions_are_graded_to_the_letter() -> None:
    item = next(i for i in Instructions(("uppercase",)).items())
    assert Instructions().grade(f" {item['answer']}\n", item)
    assert not Instructions().grade(item["answer"].lower(), item)
    assert not Instructions().grade(item["answer"] + ".", item)


# ------------------------------------------------------------------------------------------------------------------------------------- tickets


def test_tickets_can_be_read_off_the_message() -> None:
    for split in ("train", "test"):
        for item in Tickets().items(split, 200):
            message = item["prompt"].removeprefix(INSTRUCTION)
            thing, fault, day, urgency = item["answer"].split(" | ")
            assert thing in message
            assert day in message
            assert fault == item["kind"]
            assert (urgency == "high") == any(p in message for p in ("urgent", "hurry!", "as soon as possible"))


def test_ticket_splits_share_no_thing() -> None:
    things = [{i["answer"].split(" | ")[0] for i in Tickets().items(split, 600)} for split in ("train", "test")]
    assert not things[0] & things[1]
    assert len(things[0]) == 20


# --------------------------------------------------------------------------------------------------------------------------------- preferences

ASK = "How do I get better with bread at home?"


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        ("Gladly! About bread: Let the dough rest.", 3.0),
        ("About bread: Let the dough rest.", 2.0),
        ("Gladly! The sky is blue.", 1.0),
        ("The sky is blue.", 0.0),
        ("Breadth matters.", 0.0),  # whole words count
        (" ".join(["word"] * 16), 0.0),
        (" ".join(["word"] * 20), -0.1),  # four words over the budget
        ("", -1.0),
        ("!!", -1.0),
    ],
)
def test_gold_reward_by_hand(reply: str, reward: float) -> None:
    assert Preferences().reward(ASK, reply) == pytest.approx(reward)


def test_every_pair_has_a_winner_by_the_gold_reward() -> None:
    world = Preferences(seed=5)
    for item in world.items("train", 1000):
        better, worse = (world.reward(item["prompt"], item[k]) for k in ("answer", "worse"))
        assert (better, worse) == item["gold"]
        assert better - worse > 0.3
        assert world.grade(item["answer"], item)
        assert not world.grade(item["worse"], item)


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.25, 1.0])
def test_noise_is_exact_in_every_block_and_moves_labels_only(noise: float) -> None:
    clean, noisy = list(Preferences().records("train", 5 * BLOCK)), list(Preferences(noise=noise).records("train", 5 * BLOCK))
    for start in range(0, 5 * BLOCK, BLOCK):
        flipped = [r.tags["flipped"] for r in noisy[start : start + BLOCK]]
        assert sum(flipped) == round(noise * BLOCK)
    for a, b in zip(clean, noisy, strict=True):
        assert a.id == b.id
        assert b.better == ((0, 1),)
        assert b.responses == (a.responses[::-1] if b.tags["flipped"] else a.responses)


def test_noise_falls_on_other_places_in_other_blocks() -> None:
    flips = [i["flipped"] for i in Preferences(noise=0.1).items("train", 2 * BLOCK)]
    assert flips[:BLOCK] != flips[BLOCK:]


def test_splits_share_no_request_and_no_pair_repeats() -> None:
    world = Preferences()
    train, test = list(world.items("train", 4000)), list(world.items("test", 4000))
    assert not {i["prompt"] for i in train} & {i["prompt"] for i in test}
    assert 900 < len({i["prompt"] for i in train}) <= 950  # 4,000 draws among 950 requests miss about 14
    assert len({i["prompt"] for i in test}) == 106
    for items in (train, test):
        assert len({(i["prompt"], *sorted((i["answer"], i["worse"]))) for i in items}) == len(items)


def test_views_by_hand() -> None:
    world = Preferences(noise=1.0)  # every label is wrong
    item = next(world.items())
    views = {view: next(world.records(view=view)) for view in ("pairs", "ratings", "labels", "demonstrations")}  # type: ignore[arg-type]
    assert [r.messages[0].content for r in views["pairs"].responses] == [item["worse"], item["answer"]]
    assert [(r.messages[0].content, r.score) for r in views["ratings"].responses] == [
        (item["answer"], item["gold"][1]),
        (item["worse"], item["gold"][0]),
    ]
    (labelled,) = views["labels"].responses
    assert labelled.label is (labelled.messages[0].content == item["worse"])
    assert len(views["demonstrations"].responses) == 1
    assert views["demonstrations"].responses[0].label is None


def test_another_gold_reward_can_be_chosen() -> None:
    world = Preferences(gold=Gold(topic=0.0, courtesy=-1.0, length=0.0))
    assert world.reward(ASK, "Gladly! About bread: Let the dough rest.") == -1.0
