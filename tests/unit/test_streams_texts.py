"""What the catalogue asks (`check_exact`) of the methods that make lessons of texts, tutoring, critiques and options, beyond their worked cases."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tempering.cases import plain, talk
from tempering.errors import UserError
from tempering.making import MADE_OF, Making, answer, spoken, user
from tempering.methods.streams import _texts
from tempering.methods.streams.cdf import CDF
from tempering.methods.streams.cdf_pairs import CDFPairs
from tempering.methods.streams.pedagogical import Pedagogical
from tempering.methods.streams.self_tuning import SelfTuning
from tempering.types import Message, Record, Response

TEXTS = [
    "Ada Stone\nAda Stone was born in Riga in 1970. She moved to Oslo in 1988. Her sister Eva lives in Lima.",
    "The Rhine flows from the Alps to Rotterdam. It is 1,230 km long! In Basel it turns north.",
    "nothing here has a capital. nor a number.",
]


@pytest.mark.parametrize("seed", range(5))
def test_s005_every_answer_stands_in_the_text(seed: int) -> None:
    records = [plain(text, id=str(i)) for i, text in enumerate(TEXTS)]
    made = list(SelfTuning(each=3)(records, Making(seed)))
    assert {record.tags.get("task") for record in made} == {None, *SelfTuning().tasks}
    for record in made:
        text, said = TEXTS[int(record.id.split("/")[0])], spoken(record.responses[0].messages)
        assert all(item in text for item in (said.split(", ") if record.tags.get("task") == "entities" else [said]))
        if record.tags.get("task") == "cloze":
            assert spoken(record.prompt).removeprefix("Fill in the blank: ").replace("____", said) in text
        if record.tags.get("task") == "completion":
            assert f"{spoken(record.prompt).removeprefix('Complete the sentence: ')} {said}" in text
        if record.tags.get("task") == "inference":
            shown = spoken(record.prompt).split("\n- ")[1:]
            assert len(shown) == 2 and [line for line in shown if line in text] == [said], "one of the two is false"
        if record.tags.get("task") == "choice":
            shown = spoken(record.prompt).split("\n- ")[1:]
            assert said in shown and len(set(shown)) == len(shown) <= 4


def test_s005_counts_depend_on_the_texts_alone_and_items_on_the_seed() -> None:
    records = [plain(text, id=str(i)) for i, text in enumerate(TEXTS)]
    first, again, other = (list(SelfTuning()(records, Making(seed))) for seed in (0, 0, 1))
    assert first == again != other
    assert Counter(r.tags.get("task") for r in first) == Counter(r.tags.get("task") for r in other)


def test_s005_phases_and_no_tasks_of_new_texts() -> None:
    old, new, asked = plain(TEXTS[0], id="old"), plain(TEXTS[1], id="new", new="yes"), talk("Who?", "Ada Stone")
    made = list(SelfTuning()([old, new, asked], Making()))
    by_phase = {phase: [r.id for r in made if r.tags["phase"] == phase] for phase in (0, 1, 2)}
    assert by_phase[1] == ["Who?/review", "new"] and by_phase[2] == ["new/again"] and not any("new" in name for name in by_phase[0])
    bare = list(SelfTuning(tasks=())([old, new], Making()))
    assert [(r.prompt, r.responses) for r in bare] == [((), r.responses) for r in (old, new, new)]


def test_s005_questions_of_another_form_are_refused_in_a_sentence() -> None:
    for wrong in (["Who?"], [["Who?", 3]], [{"question": "Who?"}], [["Who?", " "]], "ab", 3):
        with pytest.raises(UserError, match='"questions" must be a list'):
            list(SelfTuning()([plain("Ada.", questions=wrong)], Making()))
    (_, made) = SelfTuning(tasks=())([plain("Ada.", questions=[{"question": "Who?", "answer": "Ada"}])], Making())
    assert (spoken(made.prompt), spoken(made.responses[0].messages)) == ("Who?", "Ada")


def test_s005_names_and_numbers() -> None:
    assert _texts.entities("In Riga she met The Hague. It was 3.5 or 1,000.") == ["Riga", "The Hague", "3.5", "1,000"]
    assert _texts.entities("The Andes rise. Snow fell.") == ["Andes"]
    assert _texts.entities("Mia slept. Snow fell on Snow.") == ["Mia", "Snow"]
    assert _texts.swap("Mia met Mia Stone and Mia.", "Mia", "Eva") == "Eva met Mia Stone and Eva."


def test_s017_the_tutor_is_chosen_at_every_state_and_what_does_not_teach_is_rejected() -> None:
    lessons = [
        talk(
            f"{i} + 2 + 3?", f"Begin with {i} + 2.", str(i + 2), "Good. Now the last.", str(i + 5), "Well done.", solution=f"It is {i + 5}", id=str(i)
        )
        for i in range(20, 40)
    ]
    made = list(Pedagogical()(lessons, Making(4)))
    assert len(made) == 20 * 3 * 2
    for record in made:
        lesson = next(one for one in lessons if one.id == record.id.split("/")[0])
        turns = [message.content for message in (*lesson.prompt, *lesson.responses[0].messages)]
        chosen, rejected = (spoken(response.messages) for response in record.responses)
        at = len(record.prompt)
        assert record.prompt[-1].role == "user" and [m.content for m in record.prompt] == turns[:at] and chosen == turns[at]
        assert rejected in ({lesson.tags["solution"]} if record.tags["rejected"] == "direct" else set(turns[1::2]) - {chosen})


def test_s017_states_must_name_every_turn() -> None:
    for wrong in (["hint"], "ab", 3):
        with pytest.raises(UserError, match="a name for each of the 2 tutor turns"):
            list(Pedagogical()([talk("1 + 1?", "Try.", "2", "Yes.", states=wrong)], Making()))


def test_s017_a_turn_that_answers_no_student_is_no_state() -> None:
    turns = [Message("assistant", "Hello."), Message("user", "1 + 1?"), Message("assistant", "Try."), Message("assistant", "Go on.")]
    (only,) = Pedagogical(rejected=("direct",))([Record((), (Response(tuple(turns)),), id="x", tags={"solution": "2"})], Making())
    assert [m.content for m in only.prompt] == ["Hello.", "1 + 1?"] and spoken(only.responses[0].messages) == "Try."


def feedback(n: int, start: int = 0) -> list[Record]:
    """Prompts with two answers, of which the second is better, criticised both; a higher number is easier."""
    return [
        Record((user(f"q{i}"),), (answer("a", score=float(i)), answer("b", score=i + 0.5)), id=str(i), tags={"critiques": ["bad", "fair"]})
        for i in range(start, start + n)
    ]


@pytest.mark.parametrize(("easy", "medium"), [(1 / 3, 1 / 3), (0.25, 0.1), (0, 0), (1, 0), (0, 1), (0.5, 0.5)])
def test_s204_the_parts_are_disjoint_and_cover_every_prompt(easy: float, medium: float) -> None:
    records = feedback(21)
    taught = list(CDF(easy=easy, medium=medium)(records, Making(3)))
    paired = list(CDFPairs(easy=easy, medium=medium)(records, Making(3)))
    parts = {part: [int(r.tags[MADE_OF][0]) for r in (*taught, *paired) if r.tags["part"] == part] for part in ("hard", "medium", "easy")}
    assert parts["hard"] + parts["medium"] + parts["easy"] == list(range(21)), "in order of their scores"
    assert len(parts["easy"]) == round(easy * 21) and len(parts["medium"]) == round((easy + medium) * 21) - round(easy * 21)
    for record in paired:
        assert [spoken(response.messages) for response in record.responses] == ["b", "a"]
    assert {spoken(r.responses[0].messages) for r in taught} <= {"bad", "fair", "b"}


def test_s204_records_of_one_prompt_stay_in_one_part() -> None:
    records = [*feedback(6), *(Record(r.prompt, r.responses, id=f"{r.id}x", tags=r.tags) for r in feedback(6))]
    parts = {record.id: part for part, record in CDF().parts(records)}
    assert len(parts) == 12 and all(parts[str(i)] == parts[f"{i}x"] for i in range(6))


def test_s204_wrong_shares_and_prompts_of_unknown_difficulty_are_refused() -> None:
    with pytest.raises(UserError, match="more than 1 together"):
        list(CDFPairs(easy=0.7, medium=0.4)(feedback(3), Making()))
    for tags in (dict[str, Any](), {"difficulty": "hard"}, {"difficulty": None}):
        with pytest.raises(UserError, match="give rated answers or a number in the field 'difficulty'"):
            list(CDF()([Record((user("q"),), (answer("a"), answer("b")), ((0, 1),), "q", tags=tags)], Making()))
