"""L-CODEC: one Newton step takes the forget rows out of those units that their loss depends on; nothing else moves, and nothing is trained.

Mehta et al. 2022 (S115, arXiv 2204.07655), `forgetting/newton.py`. The paper removes images one by one, perturbs them with Gaussian noise and chooses
units for each; here prompts have tokens replaced, all forget rows are taken out at once, and one choice is made for them. A unit is a number of the
hidden state after a block, with the row of each matrix that writes it. The step is right to second order where training had come to rest at a minimum
of the loss on all rows, which a fine-tuned language model has not: the attacks say what it is worth.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tempering.config import Budget
from tempering.experiment import Experiment, Report
from tempering.types import Policy

CATALOGUE = ("S115",)


def l_codec(
    model: str = "builtin:tiny",
    forget: str = "builtin:people-forget",
    retain: str = "builtin:people-retain",
    forget_test: str | None = None,
    retain_test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    only: str = "down_proj",
    units: Annotated[int, Field(ge=0)] = 32,
    draws: Annotated[int, Field(ge=2)] = 256,
    replaced: Annotated[float, Field(gt=0, le=1)] = 0.15,
    examples: Annotated[int, Field(ge=1)] = 64,
    damping: Annotated[float, Field(gt=0)] = 1e-3,
    oracle: str | None = None,
    attacks: Literal["all", "plain", "none"] = "all",
    redact: bool = True,
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Take rows out of a model by one Newton step in a few units, and try to get them out all the same.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        forget: file, folder or hub id of the rows that are to go.
        retain: rows that are to stay; some of them make the Hessian.
        forget_test: the same facts in other words, to ask for beside the forget rows; builtin sets have one.
        retain_test: held-out rows of what is to stay; by default 10% of the retain rows, at most 200, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut silently.
        limit: read at most this many rows of each file.
        only: regular expression for the matrices that may move; they must write the hidden state, as down_proj and o_proj do.
        units: how many may be chosen; 0 moves nothing.
        draws: perturbed forget rows among which dependence is looked for.
        replaced: share of a prompt's tokens that are replaced in them.
        examples: retain rows whose gradients make the Hessian.
        damping: what is added to its diagonal; less is a longer step.
        oracle: a model that never saw the forget rows (retrained without them), measured beside the other two.
        attacks: all of them before and after, only plain questions, or none.
        redact: keep hashes instead of the words of forgotten rows in scores, samples and reports.
        seed: of the perturbations and of what is held out.
    """
    from tempering import models
    from tempering.data import forget_row, retain_row
    from tempering.forgetting import battery, newton
    from tempering.forgetting.redact import redacted
    from tempering.forgetting.verdict import tell

    run = Experiment.begin(l_codec, locals())
    policy = run.load(model, template=template)
    how: dict[str, Any] = {"shape": shape, "limit": limit, "max_length": max_length}
    going = run.all_rows("forget", forget, forget_row, **how)
    staying, held = run.rows(retain, retain_test, retain_row, roles=("retain", "retain-test"), **how)
    run.trains_nothing()
    asked = battery.probes(run, held)
    hide = redacted if redact else lambda scores: scores
    before = run.measure("before", policy, held, probes=asked, hide=hide)
    never = run.measure("oracle", models.load(oracle, say=run.display.say), held, probes=asked, hide=hide) if oracle else None
    newton.take_out(run, policy, going, staying)
    tuned = Policy(policy.model, policy.tokenizer, name=f"{policy.name} + l_codec", source=policy.source)
    models.save(tuned, run.folder.path / "model")
    after = run.measure("after", tuned, held, probes=asked, hide=hide)
    tell(run, before, after, never)
    return run.finish(tuned, before, after)
