"""Objectives as light values: read from syntax trees, reachable by name, and their own defaults laid over the recipe's."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tempering import choices, index
from tempering.cli.values import Given, Signature
from tempering.errors import UserError

OBJECTIVE = '''"""A loss."""
from __future__ import annotations
import torch_that_is_not_there
FAMILY = "pairs"
HALF = 1 / 2
RECIPE = {"optimizer.lr": 5e-7, "training.batch_size": 128, "max_length": 9}
class MyLoss(Objective):
    """A loss."""
    beta: Annotated[float, Field(gt=0, le=HALF * 4)] = -(-2.0) * HALF
    """How strong."""
    how: Literal["one", "two"] = "two"
    many: tuple[float, ...] = (1.0, 2.0)
    pair: tuple[int, int] = (1, 2)
    flag: bool = False
    limit: int | None = None
    part: str = "chosen"
    norm = "segments"
'''


@pytest.fixture
def made(tmp_path: Path) -> Callable[[str], type[choices.Choice]]:
    def make(text: str) -> type[choices.Choice]:
        path = tmp_path / "my_loss.py"
        path.write_text(text)
        entry = index.read_entry(path, "objective", "nowhere.my_loss")
        assert entry is not None and entry.family == "pairs"
        return choices.read(entry)

    return make


def test_a_file_is_read_without_being_run(made: Callable[[str], type[choices.Choice]]) -> None:
    cls = made(OBJECTIVE)
    assert cls().model_dump() == {
        "kind": "my_loss", "beta": 1.0, "how": "two", "many": (1.0, 2.0), "pair": (1, 2), "flag": False, "limit": None,
    }  # fmt: skip
    assert cls.model_fields["beta"].description == "How strong."
    assert cls.overrides == {"optimizer.lr": 5e-7, "training.batch_size": 128, "max_length": 9}
    for wrong in ({"beta": 0}, {"beta": 2.1}, {"how": "three"}, {"pair": (1,)}, {"bets": 1}, {"beta": float("nan")}):
        with pytest.raises(ValueError):
            cls(**wrong)


@pytest.mark.parametrize("line", ["beta: Tensor = 1.0", "beta: float = make()", "beta: Annotated[float, Gt(0)] = 1.0"])
def test_what_cannot_be_read_is_named(made: Callable[[str], type[choices.Choice]], line: str) -> None:
    with pytest.raises(UserError, match=r"my_loss\.py: .* cannot be read without running the file"):
        made(f'FAMILY = "pairs"\nclass MyLoss:\n    {line}\n')


@pytest.mark.parametrize("entry", [e for e in index.methods("objective") if e.family], ids=lambda e: e.name)
def test_the_light_value_builds_the_objective_with_its_own_defaults(entry: index.Entry) -> None:
    objective = choices.choice(entry.name)().build()
    assert objective == index.load(entry)()
    assert {f.name for f in fields(objective)} - set(choices.STRUCTURE) == set(choices.choice(entry.name).model_fields) - {"kind"}
    assert choices.value(objective) == choices.choice(entry.name)()


def test_an_alias_is_the_recipe_with_that_loss() -> None:
    alias = Signature(index.load_recipe("simpo"), "simpo")
    whole = Signature(index.load_recipe("prefer"), "prefer")
    kind, beta = Given(("loss", "kind"), "simpo", "--loss"), Given(("loss", "beta"), "3", "--beta")
    assert alias.name == "prefer" and next(iter(alias.parameters)) == "loss"
    assert alias.resolve([beta]) == whole.resolve([kind, beta])
    assert alias.resolve([beta])["loss"].build().beta == 3.0
    assert set(alias.spellings["loss.gamma_beta_ratio"]) == {"gamma_beta_ratio", "loss.gamma_beta_ratio"}
    assert inspect.signature(index.load_recipe("dpo")).parameters["loss"].default == choices.choice("dpo")()  # a recipe file of the name wins
    assert index.load_recipe("dpo").__module__ == "tempering.recipes.dpo"


def test_a_method_s_own_defaults_are_laid_under_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices.choice("simpo"), "overrides", {"optimizer.lr": 5e-7, "training.batch_size": 128, "max_length": 9})
    kind = Given(("loss", "kind"), "simpo", "--loss")
    for signature, given in ((Signature(index.load_recipe("prefer")), [kind]), (Signature(index.load_recipe("simpo")), [])):
        found = signature.resolve(given)
        assert (found["optimizer"].lr, found["training"].batch_size, found["max_length"]) == (5e-7, 128, 9)
        assert signature.resolve([*given, Given(("optimizer", "lr"), "1e-3", "--lr")])["optimizer"].lr == 1e-3
    assert Signature(index.load_recipe("prefer")).resolve([])["max_length"] == 1024
    assert "optimizer.lr = 5e-07 by default here, from simpo.py" in (index.load_recipe("simpo").__doc__ or "")


def test_a_dataclass_is_taken_as_the_value() -> None:
    from tempering.methods.objectives.simpo import SimPO

    signature = Signature(index.load_recipe("prefer"))
    assert signature.resolve(signature.from_python({"loss": SimPO(beta=4.0)}))["loss"] == choices.choice("simpo")(beta=4.0)
    with pytest.raises(UserError, match=r"SimPO\.beta: Input should be greater than 0, got -1"):
        choices.value(SimPO(beta=-1.0))


def _message(spec: str, *given: Given) -> str:
    with pytest.raises(UserError) as error:
        Signature(index.load_recipe(spec)).resolve(given)
    return str(error.value)


def test_errors_name_the_field_and_what_is_near() -> None:
    assert "did you mean 'simpo'?" in _message("prefer", Given(("loss", "kind"), "simpoo", "--loss"))
    assert "belongs to loss simpo" in _message("prefer", Given(("loss", "gamma_beta_ratio"), "1", "--gamma-beta-ratio"))
    assert _message("simpo", Given(("loss", "beta"), "0", "--beta")) == "--beta: expected a number greater than 0, got '0'"
    assert "did you mean 'simpo'?" in _message("simpoo")


def test_a_refusal_of_the_objective_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**values: Any) -> None:
        raise ValueError("beta and gamma do not go together")

    monkeypatch.setattr(index, "load", lambda entry: refuse)
    with pytest.raises(UserError, match=r"^loss simpo: beta and gamma do not go together$"):
        choices.choice("simpo")().build()


def test_recipes_of_families_load_no_torch() -> None:
    program = "import sys\nfrom tempering import index\n[index.load_recipe(n) for n in index.aliases()]\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
