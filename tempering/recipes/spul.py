"""SPUL: a soft prompt that makes a frozen model refuse what is to be forgotten.

Bhaila et al. 2024 (S049, arXiv 2406.12038). Before training the model is measured as it is; after, with the learned prompt in its chat template.
Whoever leaves the prompt out has the old model: it is a method for models behind an interface, and the attack "weights alone" says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.scopes.soft_prompt import SoftPrompt
from tempering.types import Segment

CATALOGUE = ("S049",)


def spul(
    model: str = "builtin:tiny",
    forget: str = "builtin:people-forget",
    retain: str = "builtin:people-retain",
    forget_test: str | None = None,
    retain_test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    retain_weight: Annotated[float, Field(ge=0)] = 0.5,
    kl_weight: Annotated[float, Field(ge=0)] = 0.5,
    oracle: str | None = None,
    attacks: Literal["all", "plain", "none"] = "all",
    redact: bool = True,
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
        forget: file, folder or hub id of the questions and answers that are to go.
        retain: rows that are to stay.
        forget_test: the same facts in other words, to ask for beside the forget rows; builtin sets have one.
        retain_test: held-out rows of what is to stay; by default 10% of the retain rows, at most 200, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens, without the soft prompt.
        limit: read at most this many rows of each file.
        retain_weight: of the likelihood of the retain rows.
        kl_weight: of the divergence from the model without the prompt.
        oracle: a model that never saw the forget rows (retrained without them), measured beside the other two.
        attacks: all of them before and after, only plain questions, or none.
        redact: keep hashes instead of the words of forgotten rows in scores, samples and reports.
        scope: the soft prompt, its length.
        seed: of shuffling, initialisation and sampling.
    """
    from tempering import models
    from tempering.data import forget_row, retain_row, with_template
    from tempering.data.streams import Shuffled, Together
    from tempering.forgetting import battery
    from tempering.forgetting.redact import redacted
    from tempering.forgetting.verdict import tell
    from tempering.methods.objectives.spul import SPUL

    run = Experiment.begin(spul, locals())
    objective = SPUL(retain_weight, kl_weight)
    policy = run.load(model, template=template)
    how: dict[str, Any] = {"shape": shape, "limit": limit, "max_length": max_length}
    going = run.all_rows("forget", forget, forget_row, refusals=True, **how)
    staying, held = run.rows(retain, retain_test, retain_row, roles=("retain", "retain-test"), **how)
    hide = redacted if redact else lambda scores: scores

    plain = policy.tokenizer.chat_template

    def asked(held: Sequence[Mapping[str, Sequence[Segment]]]) -> tuple[Any, ...]:
        return battery.probes(run, held, decodes=True, template=plain)

    before = run.measure("before", policy, held, probes=asked(held), hide=hide)
    never = run.measure("oracle", models.load(oracle, say=run.display.say), held, probes=asked(held), hide=hide) if oracle else None
    if plain is None:
        raise UserError(f"model {model}: a soft prompt stands in the chat template, and there is none; give one with --template")
    names = [f"<|soft_{i}|>" for i in range(scope.tokens)]
    ids = models.resize_tokens(policy, names)
    run.new_tokens = tuple(names)
    policy.tokenizer = with_template(policy.tokenizer, "{{- '" + "".join(names) + "' -}}" + plain)
    first, kept, later = (battery.Prefixed(rows, ids, {"retain": "bare"}) for rows in (going, staying, held))
    run.check(objective, [{**first[0], **kept[0]}])
    streams = Together(*(Shuffled(rows, training.batch_size, seed + i) for i, rows in enumerate((first, kept))))
    steps = training.steps or max(1, -(-round(training.epochs * len(going)) // training.batch_size))
    chosen = scope.model_copy(update={"ids": tuple(ids)})
    tuned = run.fit("fit", policy, objective, first, battery.beside(first, later), (streams, steps), scope=chosen)
    after = run.measure("after", tuned, later, probes=asked(later), hide=hide)
    tell(run, before, after, never)
    return run.finish(tuned, before, after)
