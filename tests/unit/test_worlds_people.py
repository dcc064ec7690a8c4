"""The people world: hand-derived facts and two-hop answers, slices that share nobody, circles of friends, held-out wordings."""

from __future__ import annotations

import pytest

from tempering.worlds.people import POPULATION, People
from tempering.worlds.people_words import FIRST, KINDS, QUESTIONS, STATEMENTS, SURNAME_HEADS, SURNAME_TAILS, VALUES

NELL = {
    "city": "Oslo",
    "job": "painter",
    "employer": "Amber Line",
    "hobby": "gardening",
    "pet": "llama",
    "food": "figs",
    "friend": "Sol Ravtyne",
}


def test_the_first_two_people_of_seed_zero() -> None:
    nell, sol = People(2).people()
    assert (nell.name, nell.facts) == ("Nell Melhurst", NELL)
    assert (sol.name, sol.facts["friend"], sol.facts["job"]) == ("Sol Ravtyne", "Nell Melhurst", "guide")


def test_two_hop_answers_by_hand() -> None:
    # Nell's best friend is Sol, a guide; Sol's is Nell, a painter.
    asked = {item["prompt"]: item["answer"] for item in People(2, kinds=("job",)).items("two_hop")}
    assert asked == {
        "What does the best friend of Nell Melhurst do for a living?": "guide",
        "What is the job of the best friend of Nell Melhurst?": "guide",
        "What does the best friend of Sol Ravtyne do for a living?": "painter",
        "What is the job of the best friend of Sol Ravtyne?": "painter",
    }


def test_two_hop_answers_follow_from_one_hop_answers() -> None:
    world = People(15, seed=7)
    by_name = {p.name: p for p in world.people()}
    for item in world.items("two_hop"):
        name = next(n for n in by_name if f"the best friend of {n}" in item["prompt"])
        friend = by_name[by_name[name].facts["friend"]]
        assert item["answer"] == friend.facts[item["kind"].removeprefix("friend.")]


def test_slices_share_nobody_and_no_fact_depends_on_the_slice() -> None:
    old = People(100)
    new = old.after(40)
    assert (new.start, new.size, new.seed) == (100, 40, 0)
    whole = list(People(140).people())
    assert list(old.people()) + list(new.people()) == whole
    assert len({p.name for p in whole}) == 140


@pytest.mark.parametrize(
    ("size", "start", "friends"),
    [
        (5, 0, {0: 1, 1: 2, 2: 3, 3: 4, 4: 0}),
        (7, 0, {0: 1, 1: 2, 2: 3, 3: 4, 4: 0, 5: 6, 6: 5}),  # the second circle is cut down to two
        (3, 4, {4: None, 5: 6, 6: 5}),  # of the first circle only one person is there
        (1, 0, {0: None}),
    ],
)
def test_friends_by_hand(size: int, start: int, friends: dict[int, int | None]) -> None:
    world = People(size, start=start)
    names = {p.index: p.name for p in world.people()}
    assert {p.index: p.facts.get("friend") for p in world.people()} == {i: None if f is None else names[f] for i, f in friends.items()}


@pytest.mark.parametrize(("size", "start", "train", "test", "two_hop"), [(5, 0, 140, 70, 60), (3, 4, 80, 40, 24), (1, 0, 24, 12, 0)])
def test_how_many_questions_there_are(size: int, start: int, train: int, test: int, two_hop: int) -> None:
    # seven facts a person in four training and two test wordings, a friend's six facts in two; nobody asks for the friend of somebody alone
    world = People(size, start=start)
    counts = [sum(1 for _ in world.items(split)) for split in ("train", "test", "two_hop")]
    assert counts == [train, test, two_hop]


def test_training_wordings_never_come_up_in_test() -> None:
    world = People(5)
    for split, wordings in (("train", range(4)), ("test", range(4, 6))):
        asked = {i["prompt"] for i in world.items(split)}
        assert asked == {QUESTIONS[k][w].format(name=p.name) for k in KINDS for w in wordings for p in world.people()}


def test_facts_use_every_value_about_equally() -> None:
    jobs = [p.facts["job"] for p in People(4000, seed=1).people()]
    counts = {v: jobs.count(v) for v in VALUES["job"]}
    assert sum(counts.values()) == 4000
    assert min(counts.values()) > 50
    assert max(counts.values()) < 150  # 100 expected, standard deviation 9.9


def test_words_are_distinct_so_that_names_and_answers_are() -> None:
    surnames = {head + tail for head in SURNAME_HEADS for tail in SURNAME_TAILS}
    assert len(surnames) == len(SURNAME_HEADS) * len(SURNAME_TAILS)
    assert len(set(FIRST)) == len(FIRST)
    assert all(len(set(values)) == len(values) == 40 for values in VALUES.values())
    questions = [q for wordings in QUESTIONS.values() for q in wordings]
    assert len(set(questions)) == len(questions) == 6 * len(KINDS)
    assert QUESTIONS.keys() == STATEMENTS.keys() == set(KINDS)


def test_the_population_has_an_end() -> None:
    last = People(5, start=POPULATION - 5)
    assert len({p.name for p in last.people()}) == 5
    assert all(len(p.name.split()) == 3 for p in last.people())  # first, middle, last name


@pytest.mark.parametrize(
    ("kind", "answer", "output", "right"),
    [
        ("job", "painter", "painter", True),
        ("job", "painter", "Nell Melhurst works as a painter.", True),
        ("job", "painter", "painter or guide", False),
        ("job", "painter", "guide", False),
        ("employer", "Amber Line", "The amber line.", True),
        ("employer", "Amber Line", "Amber", False),
        ("friend", "Sol Ravtyne", "Nell Melhurst trusts Sol Ravtyne most.", True),
        ("friend", "Sol Ravtyne", "Sol Ravtyne and Ada Balacre", False),
        ("friend", "Sol Ravtyne", "Sol", False),
        ("friend.job", "guide", "a guide", True),
    ],
)
def test_grading(kind: str, answer: str, output: str, right: bool) -> None:
    item = {"id": "x", "kind": kind, "prompt": "Question about Nell Melhurst?", "answer": answer}
    assert People(2).grade(output, item) is right


def test_biographies_tell_every_fact_and_versions_differ() -> None:
    world = People(10)
    first, second = list(world.texts()), list(world.texts(version=1))
    assert first != second
    for person, text in zip(world.people(), first, strict=True):
        assert all(value in text for value in person.facts.values())
        assert text.count(".") == len(person.facts)
    record = next(world.text_records(1))
    assert (record.prompt, record.responses[0].messages[0].role, record.responses[0].messages[0].content) == ((), "text", first[0])


def test_choices_hold_the_answer_once_and_rivals_of_its_kind() -> None:
    world = People(10)
    for item, made in zip(world.items("test"), world.choice_items("test"), strict=True):
        assert made["choices"][made["answer"]] == item["answer"]
        pool = VALUES.get(item["kind"]) or tuple(p.name for p in world.people())
        assert set(made["choices"]) <= set(pool)
        assert len(set(made["choices"])) == 4
        assert not any(c in made["question"] for c in made["choices"])


def test_sentences_answer_in_full() -> None:
    item = next(i for i in People(2, style="sentence").items() if i["id"].startswith("p0.pet"))
    assert (item["answer"], item["completion"]) == ("llama", "Nell Melhurst has a llama.")


def test_probes_are_light_values_with_the_items() -> None:
    world = People(5)
    probe = world.probe("test", 10, side="target")
    assert (probe.name, probe.side, probe.rule) == ("people-0-0-5", "target", "contains")
    assert [(i.id, i.prompt, i.answer) for i in probe.items] == [(i["id"], i["prompt"], i["answer"]) for i in world.items("test", 10)]
    assert [i.text for i in world.text_probe().items] == list(world.texts())
    assert len(world.choice_probe(n=7).items) == 7
