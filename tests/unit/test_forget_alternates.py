"""What the model is to say instead: which questions are asked, which answers are kept, and the rows they make. A stand-in answers."""

from __future__ import annotations

from collections.abc import Sequence

from tempering.data.forgetting import REFUSALS
from tempering.forgetting.alternates import REQUESTS, drawn, with_alternates
from tempering.making import Ask
from tempering.methods.objectives.altpo import AltPO
from tempering.methods.objectives.unstar import UnSTAR
from tempering.types import Message, Record, Response

RECORDS = [
    Record((Message("user", f"Where was {name} born?"),), (Response((Message("assistant", place),)),), id=name)
    for name, place in (("Ada", "In London."), ("Bo", "In Oslo."), ("Cy", "In Rome."))
] + [Record((), (Response((Message("text", "A plain text."),)),), id="text")]


def model(others: dict[str, list[str]], known: dict[str, str], asked: list[str]) -> Ask:
    """Answers by the name in a prompt."""

    def ask(prompts: Sequence[tuple[Message, ...]], n: int, temperature: float) -> list[list[str]]:
        asked.extend(prompt[-1].content for prompt in prompts)
        names = [next(name for name in ("Ada", "Bo", "Cy") if name in prompt[-1].content) for prompt in prompts]
        return [[known[name]] if temperature == 0 else others[name][:n] for name in names]

    return ask


OTHERS = {
    "Ada": ["In Paris.", " In Paris. ", "in london, I think", ""],
    "Bo": ["in OSLO"] * 4,
    "Cy": ["In Bern.", "In Kiel.", "In Graz.", "In Linz."],
}


def test_answers_that_give_the_secret_away_are_left_out_and_a_refusal_takes_their_place() -> None:
    asked: list[str] = []
    texts = drawn(model(OTHERS, {}, asked), RECORDS, AltPO(alternates=4))
    assert texts == [["In Paris."], [], ["In Bern.", "In Kiel.", "In Graz.", "In Linz."], None]
    assert asked == [REQUESTS["another"].format(question=r.prompt[0].content, answer=r.responses[0].messages[0].content) for r in RECORDS[:3]]
    made = with_alternates(RECORDS, texts)
    assert [r.id for r in made] == ["Ada#0", "Bo#0", "Cy#0", "Cy#1", "Cy#2", "Cy#3"]
    assert [r.tags["alternate"] for r in made if r.id[0] != "B"] == ["In Paris.", *OTHERS["Cy"]] and made[1].tags["alternate"] in REFUSALS
    assert all(r.responses == next(o for o in RECORDS if o.id == r.id[:-2]).responses for r in made)


def test_unstar_asks_first_and_leaves_alone_what_is_not_known() -> None:
    asked: list[str] = []
    known = {"Ada": "She was born in London.", "Bo": "In Bergen.", "Cy": "in rome"}
    texts = drawn(model(OTHERS, known, asked), RECORDS, UnSTAR())
    assert texts == [["In Paris."], None, ["In Bern."], None]
    assert asked[:3] == [r.prompt[0].content for r in RECORDS[:3]]
    assert [REQUESTS["wrong"].split("\n")[-1] in a for a in asked] == [False] * 3 + [True] * 2
    assert [r.id for r in with_alternates(RECORDS, texts)] == ["Ada#0", "Cy#0"]


def test_a_model_that_knows_nothing_makes_no_rows() -> None:
    asked: list[str] = []
    texts = drawn(model(OTHERS, dict.fromkeys(OTHERS, "No idea."), asked), RECORDS, UnSTAR())
    assert texts == [None] * 4 and len(asked) == 3 and with_alternates(RECORDS, texts) == ()
