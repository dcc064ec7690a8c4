"""The files that `temper new` starts from: a method or recipe, and a test with hand-worked values that passes as it stands."""

from __future__ import annotations


def camel(name: str) -> str:
    """my_loss -> MyLoss."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def render(kind: str, name: str) -> dict[str, str]:
    """File name -> text: the method first, then its test."""
    method, test = {"objective": (_OBJECTIVE, _OBJECTIVE_TEST), "recipe": (_RECIPE, _RECIPE_TEST), "probe": (_PROBE, _PROBE_TEST)}[kind]
    fill = {"@NAME@": name, "@CLASS@": camel(name)}
    texts = {f"{name}.py": method, f"test_{name}.py": test}
    for old, new in fill.items():
        texts = {path: text.replace(old, new) for path, text in texts.items()}
    return texts


_OBJECTIVE = '''"""@CLASS@: say in one paragraph what is wanted of the model, with the formula.

    loss = (1 - p_t)^gamma * (- log p_t)

Paper, arXiv id, equation; and where this differs from it. (The formula above is the focal loss, Lin et al. 2017, arXiv 1708.02002, eq. 4.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tempering.cases import Case
from tempering.types import Context, Objective, Parts, Signals


@dataclass(frozen=True)
class @CLASS@(Objective):
    """Likely tokens count for less."""

    gamma: float = 2.0
    """How much less; 0 is the plain negative log-likelihood."""
    norm = "tokens"
    part = "train"
    per = "token"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {self.part: frozenset({"logp"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        logp_T = signals[self.part]["logp"]
        return (1 - logp_T.exp()) ** self.gamma * -logp_T


# Worked by hand, not by the code above: they must notice every change of it (the test beside this file makes them all).
CASES = (
    Case(
        "two answers, of probabilities 1/2, 1/4 and 4/5, with weights 1, 1/2 and 2",
        @CLASS@(),
        {"train": {"logp": [[math.log(0.5), math.log(0.25)], [math.log(0.8)]]}},
        weights={"train": [[1, 0.5], [2]]},
        loss=(0.5**2 * math.log(2) + 0.5 * 0.75**2 * math.log(4) + 2 * 0.2**2 * math.log(1.25)) / 3.5,
    ),
    Case(
        "gamma 0 is the negative log-likelihood, and a certain token has no loss",
        @CLASS@(gamma=0.0),
        {"train": {"logp": [[math.log(0.5)], [0]]}},
        loss=math.log(2) / 2,
        gradient={"train/logp": [[-0.5], [-0.5]]},
    ),
)
'''

_OBJECTIVE_TEST = """from __future__ import annotations

import @NAME@
import pytest

from tempering.cases import Case
from tempering.proof import contract, hand, mutants


@pytest.mark.parametrize("case", @NAME@.CASES, ids=lambda case: case.what)
def test_values_worked_by_hand(case: Case) -> None:
    hand.check(case)


def test_the_cases_notice_every_change_of_the_file() -> None:
    mutants.check(@NAME@.__file__)


def test_it_keeps_the_contract_of_every_objective() -> None:
    contract.check(@NAME@.CASES)
"""

_RECIPE = '''"""@NAME@: say what this recipe does and why, in one paragraph. Paper, arXiv id.

Run it with: temper run @NAME@.py:@NAME@ --help
"""

from __future__ import annotations

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA


def @NAME@(
    model: str = "builtin:tiny",
    data: str = "builtin:demo",
    test: str | None = None,
    max_length: int = 512,
    scope: AnyScope = LoRA(),  # noqa: B008 - values are frozen
    optimizer: Optimizer = Optimizer(lr=2e-4),  # noqa: B008
    schedule: Schedule = Schedule(),  # noqa: B008
    training: Training = Training(),  # noqa: B008
    budget: Budget = Budget(),  # noqa: B008
    seed: int = 0,
) -> Report:
    """One sentence that `temper run` shows.

    Args:
        model: hub id, folder, .gguf file or builtin name.
        data: file, folder or hub id.
        test: held-out rows; by default a share of the data.
        max_length: longest sequence in tokens.
        scope: which weights may move.
        seed: of shuffling, initialisation and sampling.
    """
    from tempering.data import sft_row
    from tempering.methods.objectives.nll import NLL

    run = Experiment.begin(@NAME@, locals())
    policy = run.load(model)
    train, held = run.rows(data, test, sft_row, max_length=max_length)
    before = run.measure("before", policy, held)
    tuned = run.fit("fit", policy, NLL(), train, held)
    after = run.measure("after", tuned, held)
    return run.finish(tuned, before, after)
'''

_RECIPE_TEST = """from __future__ import annotations

import json
from pathlib import Path

import pytest

from tempering.cli import main

RECIPE = f"{Path(__file__).with_name('@NAME@.py')}:@NAME@"


def test_flags_reach_the_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", RECIPE, "--lr", "1e-3", "--steps", "3", "--dry-run"]) == 0
    values = json.loads(capsys.readouterr().out)["values"]
    assert (values["optimizer"]["lr"], values["training"]["steps"], values["model"]) == (1e-3, 3, "builtin:tiny")


def test_a_wrong_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", RECIPE, "--stepz", "3"]) == 2
    assert "--steps" in capsys.readouterr().err
"""

_PROBE = '''"""@CLASS@: say what is measured, and what its score means. Paper, arXiv id.

This one asks how often the greedy answer contains a word.
"""

from __future__ import annotations

from typing import Literal

from tempering.items import Item, ProbeValue, mean, prompt_ids, read_items
from tempering.types import ItemScore, Policy, ProbeScores


class @CLASS@Item(Item):
    prompt: str
    word: str


class @CLASS@(ProbeValue):
    """How often the answer contains the word."""

    kind: Literal["@NAME@"] = "@NAME@"
    name: str = "@NAME@"
    items: str | tuple[@CLASS@Item, ...]
    """A JSON-lines file of {"prompt", "word"}, or the items themselves."""
    max_new_tokens: int = 32

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.sample import sample

        items = read_items(self.items, @CLASS@Item, self.limit)
        prompts = [prompt_ids(policy, item.prompt, chat=self.chat) for item in items]
        answers = [episodes[0].text for episodes in sample(policy, prompts, max_new_tokens=self.max_new_tokens)]
        scored = tuple(
            ItemScore(item.id, float(contains(answer, item.word)), item.prompt, answer, item.word)
            for item, answer in zip(items, answers, strict=True)
        )
        return ProbeScores(self.name, "contains the word", "binary", True, scored, self.side, {"share": mean([s.score for s in scored])})


def contains(answer: str, word: str) -> bool:
    """Whether the word occurs in the answer, in any case."""
    return word.casefold() in answer.casefold()
'''

_PROBE_TEST = """from __future__ import annotations

import pytest
from @NAME@ import @CLASS@, @CLASS@Item, contains

from tempering.errors import UserError
from tempering.types import Policy


@pytest.mark.parametrize(("answer", "word", "found"), [("It is Paris.", "paris", True), ("Rome", "Paris", False), ("", "a", False)])
def test_the_rule(answer: str, word: str, found: bool) -> None:
    assert contains(answer, word) is found


def test_no_items_are_refused() -> None:
    with pytest.raises(UserError, match="no items"):
        @CLASS@(items=())(Policy(None, None))  # type: ignore[arg-type]


def test_an_item_needs_a_word() -> None:
    with pytest.raises(ValueError, match="word"):
        @CLASS@Item(prompt="What is the capital of France?")  # type: ignore[call-arg]
"""
