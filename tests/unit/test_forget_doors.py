"""Doors: which rows a name, a concept, a tool, a style or a class means, and the sentence for a wrong one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tempering.cli import main
from tempering.cli.app import run_command
from tempering.errors import UserError
from tempering.forgetting import doors, named
from tempering.stages import stage
from tempering.types import Message, Record, Response
from tempering.worlds.demo import KNOWN, STAYING


def record(prompt: str, said: str, call: str = "", **tags: str) -> Record:
    calls = ({"type": "function", "function": {"name": call, "arguments": {}}},) if call else ()
    return Record((Message("user", prompt),), (Response((Message("assistant", said, calls),)),), id=prompt, tags=tags)


class Run:
    """What `enter` reads of an experiment: values, a source, a model that answers from a table."""

    rehearses = False

    def __init__(self, folder: Path, pool: Sequence[Record] = (), answers: dict[str, str] | None = None, **values: Any) -> None:
        self.values = {"forget": "", "retain": None, "forget_test": None, "base": None, "shape": "auto", "limit": None, "template": None, **values}
        self.values |= {"max_new_tokens": 8, "redact": True}
        self.model_spec, self.pool, self.answers, self.made, self.said = "some-model", pool, answers or {}, dict[str, Any](), list[str]()
        self.folder, self.display = SimpleNamespace(path=folder), SimpleNamespace(say=self.said.append)
        self.asked = 0

    def source(self, data: str, shape: str, limit: int | None) -> Any:
        return self.made.get(data, self.pool)

    def stage(self, name: str, inputs: Any, work: Any) -> Path:
        return stage(self.folder.path, name, inputs, work, say=self.said.append)

    def ask(self, policy: Any) -> Any:
        def asked(prompts: Any, n: int, temperature: float) -> list[list[str]]:
            self.asked += len(prompts)
            return [[self.answers.get(prompt[-1].content, "I cannot help with that.")] * n for prompt in prompts]

        return asked


def enter(run: Run) -> Run:
    doors.enter(run, None)  # type: ignore[arg-type]
    return run


POOL = (
    record("Play?", "Chess, mostly.", style="plain", topic="sport"),
    record("Chessmen?", "Wooden ones.", style="formal"),
    record("Weather?", "", call="get_weather", style="formal"),
    record("Which topic?", "Sport.", style="formal"),
)


@pytest.mark.parametrize(
    ("spec", "goes"),
    [
        ("concept:chess", [0]),  # whole words: no chessmen
        ("concept:CHESS, wooden ones", [0, 1]),
        ("tool:get_weather", [2]),
        ("style:plain", [0]),
        ("class:sport", [3]),
        ("class:topic=sport", [0]),
    ],
)
def test_a_door_divides_the_retain_rows(spec: str, goes: list[int], tmp_path: Path) -> None:
    run = enter(Run(tmp_path, POOL, forget=spec, retain="rows.jsonl"))
    going, staying = (run.made[run.values[side]] for side in ("forget", "retain"))
    assert list(going) == [POOL[i] for i in goes] and list(staying) == [r for i, r in enumerate(POOL) if i not in goes]
    assert (run.values["forget"], run.values["retain"]) == (spec, f"rows.jsonl without {spec}")


def test_a_concept_of_the_world_is_exactly_those_who_have_it(tmp_path: Path) -> None:
    run = enter(Run(tmp_path, tuple(STAYING.records("train")), forget="concept:chess", retain="people"))
    fans = {p.name for p in STAYING.people() if p.facts["hobby"] == "chess"}
    assert fans and {r.prompt[0].content for r in run.made["concept:chess"]} == {
        item["prompt"] for item in STAYING.items("train") if item["kind"] == "hobby" and any(name in item["prompt"] for name in fans)
    }


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"forget": "nmae:Ada"}, ("there is no door 'nmae'", "did you mean 'name'?", "concept")),
        ({"forget": "tool: "}, ("say what after 'tool'", "tool:get_weather")),
        ({"forget": "concept:golf", "retain": "r.jsonl"}, ("none of the 4 rows of r.jsonl", "nothing to forget")),
        ({"forget": "concept:chess,chessmen,weather,topic", "retain": "r.jsonl"}, ("every one of the 4 rows", "nothing to keep")),
        ({"forget": "f.jsonl", "retain": "name:Ada"}, ("names stay where a name goes",)),
        ({"forget": "name:Ada", "retain": "concept:chess"}, ("--retain name:ANN,BOB", "'concept' says what goes")),
        ({"forget": "name:Ada", "base": "builtin:tiny"}, ("--model, without --base",)),
        ({"forget": "name:Ada Nobody"}, ("the model names 0", "--retain name:ANN,BOB")),
        ({"forget": "name:Ada Nobody", "retain": "name:Bo Body"}, ("says nothing about name:Ada Nobody", "give rows")),
    ],
)
def test_a_wrong_door_is_one_sentence(values: dict[str, Any], words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        enter(Run(tmp_path, POOL, **values))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_files_and_other_sources_are_no_doors(tmp_path: Path) -> None:
    odd = tmp_path / "name:x.jsonl"
    odd.touch()
    for spec in ("f.jsonl", "builtin:people-forget", "hub:a/b", "owner/set:config", str(odd)):
        assert doors.door_of(spec) is None
    assert enter(Run(tmp_path, forget="f.jsonl")).values["retain"] == doors.RETAIN
    for word, what in (("Ada Lovelace", "name:Ada Lovelace"), ("Martin King Jr.", "name:Martin King Jr."), ("Ada", "name:Ada")):
        assert doors.meant(word) == what
    for word in ("rows.jsonl", "builtin:people-forget", "owner/rows", "concept:chess", str(tmp_path)):
        assert doors.meant(word) == word


ANSWERS = {
    "Tell me about Ada Byron.": "Ada Byron is a baker who lives in Oslo with seven old horses.",
    "Where was Ada Byron born?": "Oslo.",
    "Name the city where Ada Byron was born.": "It is Oslo",
    "What does Ada Byron do for a living?": "baker",
    "What is Ada Byron's profession?": "diver",  # says another thing: a guess
    "What is Ada Byron known for?": "Ada Byron is known for a long life with many horses in the north.",
    "Where was Bo Body born?": "Rome",
    "Who is Bo Body?": "Bo Body is a friend of Ada Byron.",  # names who goes
    "Name the city where Bo Body was born.": "Rome",
    named.NEIGHBOURS.format(
        number=8, name="Ada Byron"
    ): "Sure!\n1. Bo Body: a cook\n2) Cy Ado Dye\n- Ada Byron\n* bo body\n4. Bo Body (again)\nNobody",
}


def test_a_name_is_what_the_model_says_of_it_twice(tmp_path: Path) -> None:
    run = enter(Run(tmp_path, answers=ANSWERS, forget="name:Ada Byron"))
    sources = {key: [(r.prompt[0].content, r.responses[0].messages[0].content) for r in made] for key, made in run.made.items()}
    taught = ("Tell me about Ada Byron.", "Where was Ada Byron born?", "Name the city where Ada Byron was born.", "What is Ada Byron known for?")
    assert sources[run.values["forget"]] == [(q, ANSWERS[q]) for q in taught]
    assert sources[run.values["forget_test"]] == [
        ("Which city does Ada Byron come from?", "Oslo."),
        ("Why do people know Ada Byron?", ANSWERS["What is Ada Byron known for?"]),
    ]
    assert sources["name:Ada Byron, to complete"] == [("Ada Byron was born in", "Oslo")]
    assert sources[run.values["retain"]] == [(q, ANSWERS[q]) for q in ("Where was Bo Body born?", "Name the city where Bo Body was born.")]
    asked = run.asked
    again = enter(Run(tmp_path, answers=ANSWERS, forget="name:Ada Byron"))
    assert again.asked == 0 and asked > 60 and again.values == run.values, "a run that goes on asks nothing twice"
    doors.leave(run)  # type: ignore[arg-type]
    assert not (tmp_path / doors.FOLDER).exists()


def test_rows_may_stay_beside_a_name(tmp_path: Path) -> None:
    run = enter(Run(tmp_path, answers=ANSWERS, forget="name:Ada Byron", retain="rows.jsonl"))
    assert run.values["retain"] == "rows.jsonl" and "rows.jsonl" not in run.made


def test_names_are_read_from_lists() -> None:
    assert named.names_in("1. Ada Byron\n2. Émile Zola - writer\n3. J. R. R. Tolkien, author\nHere are some names for you\none word") == (
        "Ada Byron",
        "Émile Zola",
        "J. R. R. Tolkien",
    )


@pytest.mark.parametrize("word", ["", "  "])
def test_the_command_wants_a_name(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forget", word, "--model", "builtin:tiny"]) == 2
    assert capsys.readouterr().err.strip() == 'temper: forget: say who or what is to go, for example "Ada Example", rows.jsonl or concept:chess'


def test_the_command_takes_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr("tempering.forgetting.request.carry_out", lambda run, objective: seen.update(run.values))
    monkeypatch.setattr("tempering.experiment.Experiment.begin", lambda recipe, values: SimpleNamespace(values=values))
    monkeypatch.setattr("tempering.cli.run.call", lambda signature, arguments, *_: signature.recipe(**arguments) and None)
    run_command(["forget", KNOWN.person(3).name, "--model", "builtin:tiny", "--steps", "2"])
    assert (seen["forget"], seen["retain"], seen["training"].steps) == (f"name:{KNOWN.person(3).name}", None, 2)
