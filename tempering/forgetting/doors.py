"""Doors: what is to be forgotten, said by a name, a concept, a tool, a style or a class instead of a file of rows.

| door | goes | stays | asked for beside the attacks |
|---|---|---|---|
| `name:ADA EXAMPLE` | what the model writes about the name | the same about other names (`--retain name:A,B`), or rows | new wording, completion |
| `concept:chess,judo` | retain rows that say one of the words | the other retain rows | |
| `tool:get_weather` | retain rows that call the tool | the others, whichever tools they have | |
| `style:formal` | retain rows whose field "style" is that; `style:tone=formal` names another field | the others | |
| `class:sport` | retain rows whose answer is that label; `class:topic=sport` names a field that says so | the others | |

The last four divide the rows of `--retain`; of these nothing is asked, so what they give follows from the data alone. What a name gives lies in the
run's folder `door` until the run is done, and longer only with `--no-redact`.
"""

from __future__ import annotations

import difflib
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.errors import UserError
from tempering.lessons import Made, from_lines, to_lines
from tempering.making import best, plain_words, spoken
from tempering.types import Message, Policy, Record

if TYPE_CHECKING:
    from tempering.experiment import Experiment
    from tempering.forgetting.named import Known

RETAIN = "builtin:people-retain"
"""What stays where nothing is named: what builtin:tiny knows."""
FOLDER = "door"
REWORDED, BEGUN = "in other words", "to complete"
"""What is asked for beside a name: `f"{forget}, {REWORDED}"` is a source of the run."""


def door_of(spec: str) -> tuple[str, str] | None:
    """(door, what was said to it); None for a file, a folder, a built-in set or a hub id.

    Raises:
        UserError: there is no such door, or nothing is said to it.
    """
    found = re.fullmatch(r"([a-z_]+):(.*)", spec, flags=re.DOTALL)
    if found is None or found[1] in ("builtin", "hub") or Path(spec).exists():
        return None
    if found[1] not in (*DIVIDE, "name"):
        near = difflib.get_close_matches(found[1], DOORS, 1)
        raise UserError(
            f"forget {spec}: there is no door {found[1]!r}{f' (did you mean {near[0]!r}?)' if near else ''}; there are {', '.join(DOORS)}"
        )
    if not found[2].strip():
        raise UserError(f"forget {spec!r}: say what after {found[1]!r}, for example {EXAMPLES[found[1]]}")
    return found[1], found[2].strip()


def meant(word: str) -> str:
    """What a word alone means: data where it is some, a door where it names one, and else somebody's name.

    Raises:
        UserError: there is no word.
    """
    if not word.strip():
        raise UserError('forget: say who or what is to go, for example "Ada Example", rows.jsonl or concept:chess')
    data = Path(word).exists() or re.match(r"[\w-]+[:/]", word) or re.fullmatch(r"\S+\.\w+", word)
    return word if data else f"name:{word}"


def enter(run: Experiment, policy: Policy) -> None:
    """Turn a door among the run's values into records, which `run.source` gives by the names that then stand in its values.

    Raises:
        UserError: a wrong door, a name that the model says nothing about, or a division that leaves one side empty.
    """
    v = run.values
    going, staying = door_of(v["forget"]), door_of(v["retain"]) if v["retain"] else None
    if staying is not None and staying[0] != "name":
        raise UserError(f"retain {v['retain']}: what stays is rows or names, --retain name:ANN,BOB; {staying[0]!r} says what goes")
    if staying is not None and (going is None or going[0] != "name"):
        raise UserError(f"retain {v['retain']}: names stay where a name goes; give rows")
    if going is None:
        run.values = {**v, "retain": v["retain"] or RETAIN}
    elif going[0] == "name":
        _name(run, policy, going[1], staying[1].split(",") if staying else [])
    else:
        _divide(run, *going)


def leave(run: Experiment) -> None:
    """Remove what a name gave from the run's folder, where the run keeps no words."""
    if run.values["redact"]:
        shutil.rmtree(run.folder.path / FOLDER, ignore_errors=True)


def _name(run: Experiment, policy: Policy, name: str, others: Sequence[str]) -> None:
    v = run.values
    if v.get("base"):
        raise UserError(f"forget name:{name}: a model that knows the name says what goes, so give it with --model, without --base")
    rows = v["retain"] if v["retain"] and not others else ""
    inputs = {"name": name, "others": [*others], "rows": bool(rows), "model": run.model_spec, "template": v["template"], "most": v["max_new_tokens"]}

    def work(folder: Path) -> None:
        from tempering.forgetting.named import about

        ask = run.ask(policy)
        beside = () if rows else tuple(n.strip() for n in others if n.strip()) or _others(run, name, ask)
        known, *kept = about([name, *beside], ask)
        for file, records in (("forget", known.taught), ("reworded", known.reworded), ("begun", known.begun), ("retain", _but(name, kept))):
            (folder / f"{file}.jsonl").write_text(to_lines(records), encoding="utf-8")

    folder = run.stage(FOLDER, inputs, work)
    read = {file: from_lines((folder / f"{file}.jsonl").read_text(encoding="utf-8")) for file in ("forget", "reworded", "begun", "retain")}
    if not read["forget"] or not (rows or read["retain"]):
        who = f"name:{name}" if not read["forget"] else "the names that are to stay"
        raise UserError(f"forget {v['forget']}: the model says nothing about {who}; check the spelling, or give rows")
    spec = f"name:{name}"
    keys = {"forget": spec, "retain": rows or f"beside {spec}"}
    if read["reworded"] and not v["forget_test"]:
        keys["forget_test"] = f"{spec}, {REWORDED}"
    found = {keys["forget"]: "forget", f"{spec}, {REWORDED}": "reworded", f"{spec}, {BEGUN}": "begun", f"beside {spec}": "retain"}
    run.made = {key: Made(key, read[file]) for key, file in found.items() if read[file]}
    run.values = {**v, **keys}
    run.display.say(f"{name}: {len(read['forget'])} answers of the model's own are to go; {len(read['retain']) or rows} stay")


def _but(name: str, known: Iterable[Known]) -> tuple[Record, ...]:
    """What is said about other names, but for what names the one that goes."""
    return tuple(record for of in known for record in of.taught if name not in spoken(best(record).messages))


def _others(run: Experiment, name: str, ask: Any) -> tuple[str, ...]:
    """Who else there is: in the world of builtin:tiny the next ones, elsewhere whom the model names."""
    from tempering.forgetting.named import OTHERS, neighbours
    from tempering.worlds.demo import KNOWN

    world = [person.name for person in KNOWN.people()]
    if name in world and run.model_spec == "builtin:tiny":
        place = world.index(name)
        return tuple((world[place + 1 :] + world[:place])[:OTHERS])
    return ("One Else", "Two Else") if run.rehearses else neighbours(name, ask)


def _divide(run: Experiment, door: str, said: str) -> None:
    v = run.values
    pool, spec = v["retain"] or RETAIN, f"{door}:{said}"
    records = tuple(islice(run.source(pool, v["shape"], v["limit"]), v["limit"]))
    goes = DIVIDE[door](said)
    parts = tuple(r for r in records if goes(r)), tuple(r for r in records if not goes(r))
    if not all(parts):
        which, left = ("every one", "keep") if parts[0] else ("none", "forget")
        raise UserError(f"forget {spec}: {which} of the {len(records)} rows of {pool} is meant, so there is nothing to {left}")
    keys = (spec, f"{pool} without {spec}")
    run.made = {key: Made(key, part) for key, part in zip(keys, parts, strict=True)}
    run.values = {**v, "forget": keys[0], "retain": keys[1]}
    run.display.say(f"{spec}: {len(parts[0])} of {len(records)} rows of {pool} are to go")


def _turns(record: Record) -> tuple[Message, ...]:
    return (*record.prompt, *(m for response in record.responses for m in response.messages))


def _concept(said: str) -> Callable[[Record], bool]:
    words = [f" {text} " for part in said.split(",") if (text := plain_words(part))]
    return lambda record: any(word in f" {plain_words(turn.content)} " for turn in _turns(record) for word in words)


def _tool(said: str) -> Callable[[Record], bool]:
    return lambda record: any(call["function"]["name"] == said for turn in _turns(record) for call in turn.tool_calls)


def _style(said: str) -> Callable[[Record], bool]:
    field, sign, value = said.partition("=")
    field, wanted = (field, value) if sign else ("style", said)
    return lambda record: str(record.tags.get(field)) == wanted


def _class(said: str) -> Callable[[Record], bool]:
    if "=" in said:
        return _style(said)
    return lambda record: any(plain_words(spoken(response.messages)) == plain_words(said) for response in record.responses)


DIVIDE = {"concept": _concept, "tool": _tool, "style": _style, "class": _class}
"""Door -> what is said to it -> whether a record goes."""
DOORS = ("name", *DIVIDE)
EXAMPLES = {"name": "name:Ada Example", "concept": "concept:chess,judo", "tool": "tool:get_weather", "style": "style:formal", "class": "class:sport"}
