"""Flags, config files and Python callers give the same values, and every wrong one is named where it was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, model_validator

from tempering.cli import fields as f
from tempering.cli.files import MAX_NODES, parse, read_config, scalar
from tempering.cli.run import normalise
from tempering.cli.values import Given, Signature, jsonable
from tempering.config import Value
from tempering.errors import UserError


class Fast(Value):
    kind: Literal["fast"] = "fast"
    speed: float = Field(1.0, gt=0)
    """How fast."""
    shared: int = 1


class Slow(Value):
    kind: Literal["slow"] = "slow"
    care: int = Field(ge=0)
    """How careful; no default."""
    shared: str = "a"


class Mover(Value):
    name: str = "adamw"
    lr: float = Field(1e-4, gt=0)
    clip: float | None = 1.0
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Mover:
        if self.name == "bad":
            raise ValueError("bad is never right")
        return self


AnyPace = Annotated[Fast | Slow, Field(discriminator="kind")]


def recipe(
    data: str,
    pace: AnyPace = Fast(speed=3.0),  # noqa: B008
    mover: Mover = Mover(lr=0.5),  # noqa: B008
    second: Mover | None = None,
    steps: Annotated[int, Field(gt=0)] = 5,
    switch: bool = False,
    names: tuple[str, ...] = (),
    sizes: list[int] | None = None,
    limit: int | None = None,
    mode: Literal["one", "two"] = "one",
) -> None:
    """Do it.

    Args:
        data: what to read.
    """


S = Signature(recipe)


def resolve(*given: Given) -> dict[str, Any]:
    return S.resolve([Given(("data",), "d", "--data"), *given])


def flags(*tokens: str) -> dict[str, Any]:
    """As the command line does it, without cyclopts between."""
    found: list[Given] = []
    for token in normalise(tokens, S):
        name, equals, value = token[2:].partition("=")
        field = S.find(name)
        if field is None:
            owner = next(x for x in S.fields.values() if x.is_dict and name.startswith(x.dotted + "."))
            found.append(Given((*owner.path, name[len(owner.dotted) + 1 :]), value, f"--{name}"))
        elif field.is_list:
            found.append(Given(field.path, [value], f"--{name}"))
        else:
            found.append(Given(field.path, value if equals else True, f"--{name}"))
    return resolve(*found)


def config(tmp_path: Path, text: str, name: str = "c.yaml") -> dict[str, Any]:
    (tmp_path / name).write_text(text)
    path, values, _ = read_config(tmp_path / name)
    return resolve(*S.from_config(path, values))


# ------------------------------------------------------------------------------------------------------------------------------------- spellings


def test_spellings() -> None:
    assert S.spellings["mover.name"] == ("mover", "mover.name")
    assert S.spellings["pace.kind"] == ("pace", "pace.kind")
    assert S.spellings["pace.speed"] == ("speed", "pace.speed")
    assert S.spellings["mover.lr"] == ("mover.lr",), "second.lr has the same last name"
    assert S.spellings["steps"] == ("steps",)


def test_fields_carry_defaults_docs_kinds_and_choices() -> None:
    speed, care, kind = S.fields["pace.speed"], S.fields["pace.care"], S.fields["pace.kind"]
    assert (speed.default, speed.doc, speed.kinds) == (3.0, "How fast.", ("fast",))
    assert (care.default, care.kinds) == (f.MISSING, ("slow",))
    assert (kind.choices, kind.default) == (("fast", "slow"), "fast")
    assert S.fields["data"].doc == "what to read."
    assert S.fields["mover.lr"].default == 0.5


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "a whole number"),
        (Annotated[int, Field(gt=0)], "a whole number greater than 0"),
        (Annotated[float, Field(ge=0, lt=1)] | None, "a number, or none"),
        (float | None, "a number, or none"),
        (Literal["a", "b"], "one of a, b"),
        (bool, "true or false"),
        (tuple[str, ...], "a list (each a text)"),
        (dict[str, Any], "a mapping of names to values"),
        (int | str, "a whole number or a text"),
    ],
)
def test_expected(hint: Any, words: str) -> None:
    assert f.expected(hint) == words


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("def r(*args: int) -> None: ...", "cannot be a flag"),
        ("def r(a=1) -> None: ...", "has no type annotation"),
        ("from __future__ import annotations\ndef r(a: Missing = 1) -> None: ...", "names something that its file does not define"),
    ],
)
def test_signatures_that_cannot_be_flags(signature: str, message: str) -> None:
    space: dict[str, Any] = {}
    exec(compile(signature, "r.py", "exec", dont_inherit=True), space)  # a recipe file of our own making
    with pytest.raises(UserError, match=message):
        f.fields(space["r"])


# ---------------------------------------------------------------------------------------------------------------------------------------- values


def test_nothing_given_is_the_recipe_s_own_default() -> None:
    got = resolve()
    assert got["pace"] == Fast(speed=3.0)
    assert got["mover"] == Mover(lr=0.5)
    assert (got["second"], got["steps"], got["names"], got["limit"]) == (None, 5, (), None)


@pytest.mark.parametrize(
    ("tokens", "name", "value"),
    [
        (["--mover", "sgd"], "mover", Mover(name="sgd", lr=0.5)),
        (["--mover.lr", "1e-4"], "mover", Mover(lr=1e-4)),
        (["--mover.clip", "none"], "mover", Mover(lr=0.5, clip=None)),
        (
            ["--mover.options.betas", "[0.9, 1e-3]", "--mover.options.fused", "true"],
            "mover",
            Mover(lr=0.5, options={"betas": [0.9, 1e-3], "fused": True}),
        ),
        (["--second.lr=2"], "second", Mover(lr=2.0)),
        (["--pace.kind", "fast"], "pace", Fast(speed=3.0)),
        (["--pace", "slow", "--care", "2"], "pace", Slow(care=2)),
        (["--pace", "slow", "--care", "2", "--shared", "1"], "pace", Slow(care=2, shared="1")),
        (["--shared", "4"], "pace", Fast(speed=3.0, shared=4)),
        (["--steps", "7"], "steps", 7),
        (["--switch"], "switch", True),
        (["--switch", "true"], "switch", True),
        (["--switch=false"], "switch", False),
        (["--names", "--odd"], "names", ("--odd",)),
        (["--limit", "none"], "limit", None),
        (["--limit", "3"], "limit", 3),
        (["--mode", "two"], "mode", "two"),
    ],
)
def test_flags(tokens: list[str], name: str, value: Any) -> None:
    assert flags(*tokens)[name] == value


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--steps", "-1"], "--steps: expected a whole number greater than 0, got '-1'"),
        (["--steps", "2.5"], "--steps: expected a whole number greater than 0, got '2.5'"),
        (["--mover.lr", "nan"], "--mover.lr: expected a number greater than 0, got 'nan'"),
        (["--mover.lr", "inf"], "--mover.lr: expected a number greater than 0, got 'inf'"),
        (["--mode", "tow"], "--mode: expected one of one, two, got 'tow'; did you mean 'two'?"),
        (["--pace", "fats"], "--pace: expected one of fast, slow, got 'fats'; did you mean 'fast'?"),
        (["--pace", "slow"], "--pace.care is required for slow: a whole number"),
        (["--care", "2"], "--care: belongs to pace slow, but pace is fast; set pace to slow or leave it out"),
        (["--mover", "bad"], "--mover: bad is never right"),
        (["--lr", "1"], "recipe recipe has no flag --lr; did you mean --mover.lr or --second.lr?"),
        (["--options.a", "1"], "recipe recipe has no flag --options.a; did you mean --mover.options.a or --second.options.a?"),
        (["--step", "1"], "recipe recipe has no flag --step; did you mean '--steps'?"),
        (["--steps"], "--steps needs a value: a whole number greater than 0"),
        (["--mode", "--steps", "3"], "--mode needs a value: one of one, two"),
        (["file.jsonl"], "unexpected argument 'file.jsonl'; values are given as flags, for example --data file.jsonl"),
    ],
)
def test_wrong_flags(tokens: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        flags(*tokens)
    assert str(error.value) == message


def test_a_required_value_is_named_with_its_meaning() -> None:
    with pytest.raises(UserError, match=r"^--data is required: what to read\.$"):
        S.resolve([])


# ---------------------------------------------------------------------------------------------------------------------------------- config files


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("mover: {lr: 1e-4}", "mover", Mover(lr=1e-4)),
        ("mover.lr: 1e-4", "mover", Mover(lr=1e-4)),
        ("mover: sgd", "mover", Mover(name="sgd", lr=0.5)),
        ("pace: {kind: slow, care: 1}", "pace", Slow(care=1)),
        ("pace: slow\ncare: 1", "pace", Slow(care=1)),
        ("mover:\n  options:\n    betas: [0.9, 0.95]", "mover", Mover(lr=0.5, options={"betas": [0.9, 0.95]})),
        ("mover.options.betas: 3", "mover", Mover(lr=0.5, options={"betas": 3})),
        ("names: [a, b]", "names", ("a", "b")),
        ("sizes: [1, 2]", "sizes", [1, 2]),
        ("mover:\n  # lr: 3\n", "mover", Mover(lr=0.5)),
        ("switch: true", "switch", True),
        ("limit: ~", "limit", None),
        ("data: 'yes'", "data", "yes"),
        ("data: no", "data", "no"),
        ("data: 2024-01-01", "data", "2024-01-01"),
        ('{"steps": 3}', "steps", 3),
    ],
)
def test_config_files(tmp_path: Path, text: str, name: str, value: Any) -> None:
    assert config(tmp_path, text)[name] == value


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("steps: 3\nstpes: 4", 2, "unknown key 'stpes'; did you mean 'steps'?"),
        ("mover:\n  lrr: 3", 2, "unknown key 'mover.lrr'; did you mean 'lr'?"),
        ("mover:\n  momentum: 3", 2, "unknown key 'mover.momentum'"),
        ("lr: 3", 1, "unknown key 'lr'; did you mean 'mover.lr' or 'second.lr'?"),
        ("\n\nsteps: '3'", 3, "(steps): expected a whole number greater than 0, got '3'"),
        ("steps: 0", 1, "(steps): expected a whole number greater than 0, got 0"),
        ("steps: true", 1, "(steps): expected a whole number greater than 0, got True"),
        ("switch: no", 1, "(switch): expected true or false, got 'no'"),
        ("mover:\n  lr: fast", 2, "(mover.lr): expected a number greater than 0, got 'fast'"),
        ("mover:\n  - lr", 1, "(mover): expected a text, got ['lr']"),
        ("names: a", 1, "(names): expected a list (each a text), got 'a'"),
        ("sizes: [1, x]", 1, "(sizes): expected a list (each a whole number), or none, got [1, 'x'] in element 2"),
        ("pace:\n  kind: fast\n  care: 2", 3, "(pace.care): belongs to pace slow, but pace is fast; set pace to slow or leave it out"),
        ("steps: 1\nsteps: 2", 2, "'steps' is given twice, first on line 1; keep one"),
        ("mover:\n\tlr: 3", 2, "a tab used for indentation; use spaces"),
        ("steps: [1\nlimit: 2", 2, "not valid YAML"),
        ("- steps", 1, "expected a mapping of names to values"),
        ("steps: !!python/object/apply:os.getcwd []", 1, "is not allowed; write plain values"),
        ("data: !secret x", 1, "the tag !secret is not allowed; write plain values"),
        ("? [a, b]\n: 3", 1, "a key must be a name"),
        ("<<: {steps: 3}", 1, "unknown key '<<'"),
    ],
)
def test_wrong_config_files_name_the_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(UserError) as error:
        config(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path / 'c.yaml'} line {line}")
    assert message in str(error.value)


BOMB = b"a0: &a0 [1, 1, 1]\n" + b"".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n".encode() for i in range(9))
"""Aliases of aliases: more than a billion values in 500 bytes."""


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"a: \xff", "line 1: not UTF-8 text"),
        (b"steps: 3\n\x00", "not valid YAML"),
        (b"#" * 1_000_001, "larger than 1,000,000 bytes"),
        (b"[" * 5000, "c.yaml"),
        (BOMB, f"{MAX_NODES:,}"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "c.yaml").write_bytes(raw)
    with pytest.raises(UserError) as error:
        read_config(tmp_path / "c.yaml")
    assert message in str(error.value)


def test_json_files_name_the_line_and_may_be_indented_with_tabs(tmp_path: Path) -> None:
    assert config(tmp_path, '{\n\t"steps": 3\n}', "c.json")["steps"] == 3
    with pytest.raises(UserError, match=r"c\.json line 2: not valid JSON"):
        config(tmp_path, '{"steps": 3,\n}', "c.json")


def test_a_missing_file_gets_the_closest_name(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("steps: 1")
    with pytest.raises(UserError, match=r"did you mean 'train\.yaml'"):
        read_config(tmp_path / "tran.yaml")


def test_a_run_s_config_round_trips(tmp_path: Path) -> None:
    arguments = flags("--pace", "slow", "--care", "2", "--mover.options.a", "1", "--names", "x")
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "recipe", "values": jsonable(arguments)}, indent=1))
    path, values, named = read_config(tmp_path)
    assert named == "recipe"
    assert S.resolve(S.from_config(path, values)) == arguments


def test_flags_win_over_the_file_and_another_kind_replaces_the_file_s_value(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("pace: {kind: slow, care: 2}\nsteps: 3")
    path, values, _ = read_config(tmp_path / "c.yaml")
    from_file = S.from_config(path, values)
    assert resolve(*from_file, Given(("steps",), "9", "--steps"))["steps"] == 9
    assert resolve(*from_file, Given(("pace", "care"), "9", "--care"))["pace"] == Slow(care=9)
    assert resolve(*from_file, Given(("pace", "kind"), "fast", "--pace"))["pace"] == Fast(speed=3.0)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1", 1), ("-2", -2), ("1.", 1.0), (".5", 0.5), ("true", True), ("False", False), ("yes", "yes"), ("on", "on"),
        ("null", None), ("~", None), ("", None), ("1:30", "1:30"), ("0x10", "0x10"), ("010", 10), ("1_000", "1_000"), ("2024-01-01", "2024-01-01"),
        (".inf", float("inf")), ("-.inf", float("-inf")),
    ],
)  # fmt: skip
def test_scalars_have_their_yaml_1_2_meaning(text: str, value: Any) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_quoted_scalars_are_texts() -> None:
    assert parse("a: '3'\nb: \"true\"\nc: |\n  3\n", "c.yaml").plain() == {"a": "3", "b": "true", "c": "3\n"}


# ---------------------------------------------------------------------------------------------------------------------------------------- Python


@pytest.mark.parametrize(
    ("values", "name", "value"),
    [
        ({"steps": 3}, "steps", 3),
        ({"pace": "slow", "care": 2}, "pace", Slow(care=2)),
        ({"pace": Slow(care=2)}, "pace", Slow(care=2)),
        ({"pace": {"kind": "slow", "care": 2}}, "pace", Slow(care=2)),
        ({"mover": {"options": {"a": {"b": 1}}}}, "mover", Mover(lr=0.5, options={"a": {"b": 1}})),
        ({"mover__lr": 2}, "mover", Mover(lr=2.0)),
        ({"mover": Mover(name="sgd"), "mover__lr": 2}, "mover", Mover(name="sgd", lr=2.0)),
        ({"second": None}, "second", None),
        ({"names": ["a"]}, "names", ("a",)),
    ],
)
def test_python_callers(values: dict[str, Any], name: str, value: Any) -> None:
    assert S.resolve(S.from_python({"data": "d", **values}))[name] == value


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 3}, "recipe recipe has no argument 'stepz'; did you mean 'steps'?"),
        ({"steps": "x"}, "steps: expected a whole number greater than 0, got 'x'"),
        ({"pace": 3}, "pace: expected a Fast or Slow, got 3"),
        ({"pace": None}, "pace: expected a Fast or Slow, got None"),
        ({"mover": {"lrr": 1}}, "recipe recipe has no argument 'mover.lrr'; did you mean 'lr'?"),
    ],
)
def test_wrong_python_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        S.resolve(S.from_python({"data": "d", **values}))
    assert str(error.value) == message


@pytest.mark.parametrize(("text", "flag"), [("steps: many", "steps"), ("mode: tow", "mode"), ("pace: fats", "pace.kind")])
def test_a_mistake_in_a_file_is_found_even_where_a_flag_overrides_it(tmp_path: Path, text: str, flag: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    path, values, _ = read_config(tmp_path / "c.yaml")
    right = {"steps": "3", "mode": "two", "pace.kind": "fast"}[flag]
    with pytest.raises(UserError, match=r"c\.yaml line 1"):
        resolve(*S.from_config(path, values), Given(tuple(flag.split(".")), right, f"--{flag}"))
