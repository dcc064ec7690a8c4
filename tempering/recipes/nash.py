"""Playing against an opponent near the policy itself, under a preference model: Nash-MD, `temper run nash --preference RUN`.

Munos et al. 2023, arXiv 2312.00886 (`methods/objectives/nash_md.py`). At each step the policy answers some prompts, and so does its opponent, the
token-wise geometric mixture with the start model (`methods/decodes/geometric.py`); a preference model (`temper run pair_preference`) says how likely
each answer is preferred, and the policy gradient raises what wins. Preferences that run in circles have an answer here, which no reward has. With
`mixture` 0 the policy plays against itself. Nash-EMA's opponent, the mean of earlier weights, is not here.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.decodes.geometric import Geometric
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.recipes.rl import refuse

if TYPE_CHECKING:
    NashLoss = Any
else:
    NashLoss = choices.choice("nash_md")
_PREFERENCES: Any = {"scores": "preferences"}


def nash(
    model: str = "builtin:smollm2-135m",
    preference: str | None = None,
    data: str = "builtin:demo",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    limit: int | None = None,
    mixture: Annotated[float, Field(ge=0, le=1)] = 0.125,
    samples: Annotated[int, Field(ge=1)] = 2,
    max_new_tokens: Annotated[int, Field(ge=1)] = 64,
    loss: NashLoss = choices.choice("nash_md")(**_PREFERENCES),
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=2e-5),
    schedule: Schedule = Schedule(name="constant", warmup=0.05),
    training: Training = Training(batch_size=8, micro_tokens=4096),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Learn to be preferred to an opponent between the policy and the start model.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        preference: a folder that `temper run pair_preference` wrote.
        data: file, folder or hub id of anything with prompts; answers in it are not read. builtin:demo is made for this project.
        test: held-out prompts; by default 10% of the data, at most 200, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        limit: read at most this many rows.
        mixture: the start model's share in the opponent, the paper's beta (0.125); 0 is the policy itself.
        samples: answers of the policy to each prompt of a step, and as many of the opponent.
        max_new_tokens: longest answer.
        loss: tau, the pull towards the start model.
        scope: which weights may move: full or lora. A copy of the start model is held beside.
        seed: of the split, the order of prompts, sampling, dropout and initialisation.
    """
    from tempering import models
    from tempering.against import Against, Preferred, likeliest
    from tempering.lessons import divided
    from tempering.methods.rewards.preference_model import PreferenceModel
    from tempering.types import Role

    refuse(training)
    loss = choices.value(loss)
    if preference is None:
        raise UserError("nash: no preference model; train one with `temper run pair_preference` and name its model folder with --preference")
    if loss.scores != "preferences":
        raise UserError("--loss.scores: the answers of this recipe come with preferences; leave it at preferences")
    run = Experiment.begin(nash, {**locals(), "loss": loss})
    policy = run.load(model, template=template)
    records, held, _ = cast("Any", divided(run))
    prompts, asked = ([record.prompt for record in some if record.prompt] for some in (records, held))
    if not prompts or not asked:
        raise UserError(f"{data}: no record has a prompt; give conversations, not plain texts")
    prefer = PreferenceModel(preference if run.rehearses else models.load(preference, say=lambda _: None))
    others = likeliest(policy, asked, max_new_tokens) if not run.rehearses else [""] * len(asked)
    probe = Preferred(asked, others, prefer, max_new_tokens=max_new_tokens)
    before = run.measure("before", policy, (), probes=(probe,))
    opponent: Any = (Geometric(mixture),) if mixture else ()
    how = {"batch_size": training.batch_size, "n": samples, "max_new_tokens": max_new_tokens, "seed": seed}
    stream = Against(prompts, policy.tokenizer, prefer, opponent=opponent, **how)
    steps = training.steps or max(1, math.ceil(training.epochs * len(prompts) / training.batch_size))
    tuned = run.fit("fit", policy, loss.build(), records, (), (stream, steps), roles={"reference": Role(copy.deepcopy(policy.model))})
    return run.finish(tuned, before, run.measure("after", tuned, (), probes=(probe,)))
