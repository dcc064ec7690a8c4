"""The steps of a run whose loss is one of a family: rows, held-out scores, the reference where the loss asks for one, training, and the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tempering.experiment import Experiment, Report


def train(run: Experiment, objective: Any, make_row: Callable[..., Any], view: Callable[[Any], Any] = lambda rows: rows) -> Report:
    """The steps of an opened run on tokenised rows, whatever the loss; what else it needs stands in the run's values.

    Args:
        make_row: one of `tempering.data`'s, a record to a row.
        view: what the loss sees of the rows; probes see them as they are.
    """
    v = run.values
    policy = run.load(v["model"], template=v["template"])
    learned, held = run.rows(v["data"], v["test"], make_row, shape=v["shape"], limit=v["limit"], max_length=v["max_length"])
    learned, watched = view(learned), view(held)
    if any("reference.logp" in names for names in objective.needs.values()):
        # The start model's scores of what is held out are needed for the ledger anyway.
        (watched,) = run.cache_reference(policy, watched)
        if v["reference"] == "cached" or (v["reference"] == "auto" and v["scope"].kind != "lora"):
            (learned,) = run.cache_reference(policy, learned)
    before = run.measure("before", policy, held, objective, watched)
    tuned = run.fit("fit", policy, objective, learned, watched)
    after = run.measure("after", tuned, held, objective, watched)
    return run.finish(tuned, before, after)
