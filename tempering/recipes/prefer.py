"""Preference tuning on chosen/rejected pairs with any paired loss: `--loss simpo`, or `temper run simpo`.

Every file of `methods/objectives` that says `FAMILY = "pairs"` is a loss of this recipe. A reference is made only where the loss asks for one: the
starting model, with LoRA by switching the adapter off. Runs by the method's own name also take the defaults that its file sets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA

FAMILY = "pairs"
if TYPE_CHECKING:
    AnyPairs = Any
else:
    AnyPairs = choices.family(FAMILY)


def prefer(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo-pairs",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    loss: AnyPairs = choices.choice("dpo")(),
    sft: Annotated[float, Field(ge=0)] = 0.0,
    reference: Literal["auto", "live", "cached"] = "auto",
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=5e-5),
    schedule: Schedule = Schedule(warmup=0.1),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Tune on chosen/rejected pairs with a paired loss.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of pairs (chosen/rejected, or a prompt with rated responses); builtin:demo-pairs is made for this project.
        test: held-out pairs; by default 10% of the data, at most 200 pairs, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; pairs over it are dropped and counted, never cut silently.
        limit: read at most this many rows.
        loss: what is wanted of a pair.
        sft: adds this much of the chosen answers' negative log-likelihood, each answer's mean per token (Pang et al. 2024, arXiv 2404.19733).
        reference: live computes the reference's log-probs beside the policy's, with a frozen copy where the scope has no switch; cached computes them
            once before training; auto is live for adapters and cached otherwise. Losses without a reference never make one.
        scope: which weights may move: full or lora.
        seed: of shuffling, dropout, initialisation and sampling.
    """
    loss = choices.value(loss)
    run = Experiment.begin(prefer, {**locals(), "loss": loss})
    return on_pairs(run, loss.build(), sft)


def on_pairs(run: Experiment, objective: Any, sft: float = 0.0) -> Report:
    """The steps of an opened run on pairs, whatever the loss; what else it needs stands in the run's values."""
    from tempering.data import pair_row
    from tempering.methods.objectives.nll import NLL

    v = run.values
    if sft:
        objective = objective + sft * NLL(part="chosen", norm="segment_mean")
    asks = any("reference.logp" in names for names in objective.needs.values())
    policy = run.load(v["model"], template=v["template"])
    train, held = run.rows(v["data"], v["test"], pair_row, shape=v["shape"], limit=v["limit"], max_length=v["max_length"])
    before = run.measure("before", policy, held)
    if asks and (v["reference"] == "cached" or (v["reference"] == "auto" and v["scope"].kind != "lora")):
        train, held = run.cache_reference(policy, train, held)
    tuned = run.fit("fit", policy, objective, train, held)
    after = run.measure("after", tuned, held)
    return run.finish(tuned, before, after)
