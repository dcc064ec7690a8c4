"""The steps of a run whose loss is one of a family: rows, held-out scores, the reference where the loss asks for one, training, and the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from tempering.config import Budget
from tempering.errors import UserError
from tempering.experiment import Experiment, Report


def writes_nothing(budget: Budget, what: str = "a reward model") -> None:
    """Refuse a keep battery.

    Raises:
        UserError: one is asked for.
    """
    if budget.keep != "none":
        raise UserError(f"--keep {budget.keep}: {what} writes nothing, so there is nothing of it to keep; leave --keep at none")


def train(
    run: Experiment,
    objective: Any,
    make_row: Callable[..., Any],
    view: Callable[[Any, bool], Any] | None = None,
    *,
    outputs: int = 0,
    trained: Callable[[Experiment, Any, Any], None] | None = None,
) -> Report:
    """The steps of an opened run on tokenised rows, whatever the loss; what else it needs stands in the run's values.

    Args:
        make_row: one of `tempering.data`'s, a record to a row.
        view: (rows, whether they are held out) -> what the loss sees of them; probes see them as they are.
        outputs: how many numbers a reward model gives; 0 is a language model.
        trained: called with the run, the tuned policy and the rows it learned from, as the loss sees them.
    """
    v = run.values
    policy = run.load(v["model"], template=v["template"], outputs=outputs)
    learned, held = run.rows(v["data"], v["test"], make_row, shape=v["shape"], limit=v["limit"], max_length=v["max_length"])
    learned, watched = (learned, held) if view is None else (view(learned, False), view(held, True))
    run.check(objective, learned)
    if "rows" in {field.name for field in fields(objective)}:
        # A loss that keeps something for each row.
        objective = replace(objective, rows=len(learned))
    if any("reference.logp" in names for names in objective.needs.values()):
        # The start model's scores of what is held out are needed for the ledger anyway.
        (watched,) = run.cache_reference(policy, watched)
        if v["reference"] == "cached" or (v["reference"] == "auto" and v["scope"].kind != "lora"):
            (learned,) = run.cache_reference(policy, learned)
    before = run.measure("before", policy, held, objective, watched)
    tuned = run.fit("fit", policy, objective, learned, watched)
    if trained is not None:
        trained(run, tuned, learned)
    after = run.measure("after", tuned, held, objective, watched)
    return run.finish(tuned, before, after)
