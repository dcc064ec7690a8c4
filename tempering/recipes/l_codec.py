"""L-CODEC: one Newton step takes the forget rows out of those units that their loss depends on; nothing else moves, and nothing is trained.

Mehta et al. 2022 (S115, arXiv 2204.07655), `forgetting/newton.py`. The paper removes images one by one, perturbs them with Gaussian noise and chooses
units for each; here prompts have tokens replaced, all forget rows are taken out at once, and one choice is made for them. A unit is a number of the
hidden state after a block, with the row of each matrix that writes it. The step is right to second order where training had come to rest at a minimum
of the loss on all rows, which a fine-tuned language model has not: the attacks say what it is worth. builtin:tiny is so sure of its answers that
their gradients are near 0, and the step takes next to nothing out.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tempering.config import Budget
from tempering.experiment import Experiment, Report
from tempering.forgetting.attacked import Attacked, Request
from tempering.types import Policy

CATALOGUE = ("S115",)


def l_codec(
    model: str = "builtin:tiny",
    request: Request = Request(),
    only: str = "down_proj",
    units: Annotated[int, Field(ge=0)] = 32,
    draws: Annotated[int, Field(ge=2)] = 256,
    replaced: Annotated[float, Field(gt=0, le=1)] = 0.15,
    examples: Annotated[int, Field(ge=1)] = 64,
    damping: Annotated[float, Field(gt=0)] = 1e-3,
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Take rows out of a model by one Newton step in a few units, and try to get them out all the same.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        request: what is to go and to stay, and how it is attacked.
        only: regular expression for the matrices that may move; they must write the hidden state, as down_proj and o_proj do.
        units: how many may be chosen; 0 moves nothing.
        draws: perturbed forget rows among which dependence is looked for.
        replaced: share of a prompt's tokens that are replaced in them.
        examples: retain rows whose gradients make the Hessian.
        damping: what is added to its diagonal; less is a longer step.
        seed: of the perturbations and of what is held out.
    """
    from tempering.forgetting import newton

    case = Attacked(Experiment.begin(l_codec, locals()))
    case.run.trains_nothing()
    case.before()
    policy = case.policy
    newton.take_out(case.run, policy, case.going, case.staying)
    return case.after(Policy(policy.model, policy.tokenizer, name=f"{policy.name} + l_codec", source=policy.source))
