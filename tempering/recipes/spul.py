"""SPUL: a soft prompt that makes a frozen model refuse what is to be forgotten.

Bhaila et al. 2024 (S049, arXiv 2406.12038). Before training the model is measured as it is; after, with the learned prompt in its chat template.
Whoever leaves the prompt out has the old model: it is a method for models behind an interface, and the attack "weights alone" says so.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.forgetting.attacked import Attacked, Request
from tempering.methods.scopes.soft_prompt import SoftPrompt

CATALOGUE = ("S049",)


def spul(
    model: str = "builtin:tiny",
    request: Request = Request(),
    retain_weight: Annotated[float, Field(ge=0)] = 0.5,
    kl_weight: Annotated[float, Field(ge=0)] = 0.5,
    scope: SoftPrompt = SoftPrompt(),
    optimizer: Optimizer = Optimizer(lr=1e-2),
    schedule: Schedule = Schedule(warmup=0.1),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Learn a soft prompt under which a model refuses some questions and answers all others as before.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m; it needs a chat template, in which the prompt stands.
        request: what is to go and to stay, and how it is attacked.
        retain_weight: of the likelihood of the retain rows.
        kl_weight: of the divergence from the model without the prompt.
        scope: the soft prompt, its length.
        seed: of shuffling, initialisation and sampling.
    """
    from tempering import models
    from tempering.data import with_template
    from tempering.data.streams import Shuffled, Together
    from tempering.forgetting import battery
    from tempering.methods.objectives.spul import SPUL

    case = Attacked(Experiment.begin(spul, locals()), refusals=True)
    run, policy, objective = case.run, case.policy, SPUL(retain_weight, kl_weight)
    plain = policy.tokenizer.chat_template
    if plain is None:
        raise UserError(f"model {model}: a soft prompt stands in the chat template, and there is none; give one with --template")
    case.before(decodes=True)
    names = [f"<|soft_{i}|>" for i in range(scope.tokens)]
    ids = models.resize_tokens(policy, names)
    run.new_tokens = tuple(names)
    policy.tokenizer = with_template(policy.tokenizer, "{{- '" + "".join(names) + "' -}}" + plain)
    first, kept, later = (battery.Prefixed(rows, ids, {"retain": "bare"}) for rows in (case.going, case.staying, case.held))
    run.check(objective, [{**first[0], **kept[0]}])
    streams = Together(*(Shuffled(rows, training.batch_size, seed + i) for i, rows in enumerate((first, kept))))
    steps = training.steps or max(1, -(-round(training.epochs * len(first)) // training.batch_size))
    chosen = scope.model_copy(update={"ids": tuple(ids)})
    return case.after(run.fit("fit", policy, objective, first, battery.beside(first, later), (streams, steps), scope=chosen), later, save=False)
