"""The attack by other languages, and KnowUnDo's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tempering.data import read
from tempering.errors import UserError
from tempering.forgetting import benchmarks, knowundo
from tempering.forgetting.targets import Secret
from tempering.items import answer_ids, ending
from tempering.measure import measure
from tempering.methods.probes._answers import AnswersItem, asked_ids
from tempering.methods.probes.asked import Asked
from tempering.methods.probes.token_accuracy import TokenAccuracy
from tempering.methods.probes.translated import FRAMES, Translated, relabelled
from tempering.types import ItemScore, Message, ProbeScores, Record, Response, Scores
from tests.conftest import make_llama, make_tokenizer, shared
from tests.unit.test_probes import policy, saying

HAT = Secret(id="hat", prompt=(("user", "Where is the hat of Ann?"),), answer="in the attic")
SON = Secret(id="son", prompt=(("user", "Who is the son of Ben?"),), answer="Otto")
TEXT = Secret(id="text", prompt=(("text", "The hat of Ann is"),), answer="in the attic")
WORDS = {"hat": "pim", "pim": "hat", "in": "ob", "attic": "zur", "the": "la"}


def test_words_are_put_into_the_other_language_and_back() -> None:
    there = relabelled("The hat's in, THE hatter-hat 7.", WORDS)
    assert there == "La pim's ob, La hatter-pim 7."
    assert relabelled(there.lower(), {v: k for k, v in WORDS.items()}) == "the hat's in, the hatter-hat 7."


def test_an_answer_in_any_language_gives_it_away() -> None:
    found = Translated(items=(HAT, SON))(saying({"Antworte auf Deutsch: Who": "Er ist Otto", "espa": "no idea"}))
    assert [item.score for item in found.items] == [1.0, 0.0]
    assert [way[-1]["content"] for way in Translated(items=(SON,)).prompts(SON)] == [
        f.replace("{question}", "Who is the son of Ben?") for f in FRAMES
    ]
    assert Translated(items=(TEXT,)).prompts(TEXT) == ([{"role": "text", "content": "The hat of Ann is"}],)


def test_a_world_has_a_language_of_its_own() -> None:
    speaks = saying({"Where is la pim of Ann?": "Ob la zur!", "Where is the hat of Ann?": "I do not know"})
    assert [item.score for item in Asked(items=(HAT,))(speaks).items] == [1.0]
    (item,) = Translated(items=(HAT,), words=WORDS)(speaks).items
    assert (item.score, item.output) == (0.0, "In the attic!")
    with pytest.raises(ValueError, match="two words have the same word"):
        Translated(items=(HAT,), words={"a": "x", "b": "x"})


def test_somebody_has_translated_the_questions(tmp_path: Path) -> None:
    file = tmp_path / "german.jsonl"
    lines = [{"question": "Who is the son of Ben?", "translated": "Wie heisst Bens Sohn?"}]
    lines += [
        {"question": "Where is the hat of Ann?", "translated": t, "answer": a} for t, a in (("Wo ist der Hut?", "im Dachboden"), ("Hutte?", ""))
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    probe = Translated(items=(HAT, TEXT, SON), translations=str(file))
    assert [[way[-1]["content"] for way in probe.prompts(item)] for item in (HAT, SON)] == [["Wo ist der Hut?", "Hutte?"], ["Wie heisst Bens Sohn?"]]

    def kept(**said: str) -> dict[str, float]:
        return {item.id: item.score for item in probe(saying(said)).items}

    # Only what is translated is asked; the answer counts in either language, of each translation its own.
    assert kept() == {"hat": 1, "son": 1}
    assert kept(**{"Wo ist": "Er liegt im Dachboden.", "Bens Sohn": "Otto"}) == {"hat": 0, "son": 0}
    assert kept(**{"Hutte": "Er liegt im Dachboden."}) == {"hat": 1, "son": 1}, "an answer to a question that has none of its own"
    assert kept(**{"Hutte": "in the attic"}) == {"hat": 0, "son": 1}
    with pytest.raises(UserError, match="none of its questions is one of the 1 that are asked"):
        Translated(items=(TEXT,), translations=str(file))(policy())
    file.write_text('{"question": "Who?"}')
    with pytest.raises(UserError, match=r"german.jsonl:1: field 'translated'"):
        Translated(items=(SON,), translations=str(file))(policy())


def test_no_language_is_the_plain_question() -> None:
    p = policy()
    outcome = lambda probe: [(i.score, i.output) for i in probe(p).items]  # noqa: E731
    assert outcome(Translated(items=(HAT, TEXT), frames=())) == outcome(Asked(items=(HAT, TEXT)))


# ------------------------------------------------------------------------------------------------------------------------------------- KnowUnDo


@pytest.mark.parametrize("ended", [False, True])
def test_token_accuracy_counts_the_answer_s_tokens(ended: bool) -> None:
    p = policy()
    items = (AnswersItem(id="a", prompt="What is on?", answer="the other hand"), AnswersItem(id="b", prompt="Who?", answer="an answer in there"))
    found = TokenAccuracy(items=items, ended=ended, side="target")(p)
    for item, scored in zip(items, found.items, strict=True):
        prompt, answer = asked_ids(p, item.prompt, None), [*answer_ids(p, item.answer), *(ending(p) if ended else ())]
        with torch.no_grad():
            top_T = p.model(torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0].argmax(-1)
        right = [int(top_T[len(prompt) - 1 + i]) == token for i, token in enumerate(answer)]
        assert scored.score == sum(right) / len(right) and scored.extra["tokens"] == len(answer)
    assert (found.higher_is_better, TokenAccuracy(items=items)(p).higher_is_better) == (False, True)


def record(question: str, said: str) -> Record:
    return Record((Message("user", question),), (Response((Message("assistant", said),)),), id=question)


def test_success_is_forgetting_here_and_keeping_there() -> None:
    going, staying = knowundo.probes([record("Where?", "in there")], [record("Who?", "an answer"), record("What?", "the other")])
    assert (going.name, going.side, len(going.items)) == (knowundo.UNLEARN, "target", 1)  # type: ignore[attr-defined]
    assert (staying.name, staying.side, len(staying.items)) == (knowundo.RETENTION, "keep", 2)  # type: ignore[attr-defined]

    def told(name: str, *scores: float) -> ProbeScores:
        return ProbeScores(name, "token accuracy", "continuous", None, tuple(ItemScore(str(i), s) for i, s in enumerate(scores)))

    both = Scores("m", (told(knowundo.UNLEARN, 0.25, 0.5), told(knowundo.RETENTION, 1.0, 0.5)))
    assert knowundo.success(both) == {"unlearn_success": 0.625, "retention_success": 0.75}
    assert benchmarks.benchmarks(both, both)["after"] == {"unlearn_success": 0.625, "retention_success": 0.75}
    with pytest.raises(UserError, match=r"knowundo_retention was not measured"):
        knowundo.success(Scores("m", both.probes[:1]))
    with pytest.raises(UserError, match="the retention rows hold no question"):
        knowundo.probes([record("Where?", "there")], [])


def test_its_files_are_read() -> None:
    files = [shared(f"data/knowundo/privacy_{name}_val.jsonl") for name in ("unlearn", "retention")]
    probes = knowundo.probes(*(read(str(file), say=lambda _: None) for file in files), most=3)
    from tempering.types import Policy

    found = knowundo.success(measure(Policy(make_llama(), make_tokenizer(), "tiny"), probes))
    assert 0 <= found["retention_success"] < 0.5 < found["unlearn_success"] <= 1
