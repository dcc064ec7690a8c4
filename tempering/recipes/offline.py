"""Reinforcement from answers that were written beforehand: no sampling while training. `--loss a_lol`, or `temper run a_lol`.

Every file of `methods/objectives` that says `FAMILY = "offline"` is a loss of this recipe. The environment scores the answers that its training
tasks bring (`--env records --env.data rated.jsonl`, any reward), and `value_samples` answers of the start model to each task: their mean is what the
task is worth. (A-LoL fits a small head to such rewards instead, which need not ask at each task.) Answers that earn less are left out, and rows are
drawn by how much more they earn. Measured is what the policy earns on test tasks, played with its likeliest tokens.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.environments import AnyEnvironment
from tempering.methods.environments.arithmetic import Arithmetic
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.recipes.rl import refuse

FAMILY = "offline"
CATALOGUE = ("S054",)
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tempering.types import Policy, Record, Row

    AnyOffline = Any
else:
    AnyOffline = choices.family(FAMILY)


def offline(
    model: str = "builtin:smollm2-135m",
    env: AnyEnvironment = Arithmetic(),
    loss: AnyOffline = choices.choice("a_lol")(),
    value_samples: Annotated[int, Field(ge=1)] = 8,
    template: str | None = None,
    tasks: Annotated[int | None, Field(ge=1)] = None,
    max_new_tokens: Annotated[int, Field(ge=1)] = 128,
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=5e-5),
    schedule: Schedule = Schedule(warmup=0.05),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Learn from written answers that earn more than the model's own.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        env: the tasks, with answers, and what an answer earns.
        loss: what is wanted of an answer and its advantage.
        value_samples: answers of the start model to each task, whose mean reward is the task's value.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        tasks: at most this many of the environment's training tasks.
        max_new_tokens: longest answer of the policy.
        scope: which weights may move: full or lora.
        seed: of sampling, the draw and the order of rows, dropout and initialisation.
    """
    from tempering.data.streams import Shuffled
    from tempering.methods.probes.episode_reward import EpisodeReward

    refuse(training)
    loss = choices.value(loss)
    run = Experiment.begin(offline, {**locals(), "loss": loss})
    policy = run.load(model, template=template)
    probe = EpisodeReward(name=env.name, environment=env, n=budget.max_test, max_new_tokens=max_new_tokens, side="target")
    before = run.measure("before", policy, (), probes=(probe,))
    value = (lambda _: 0.0) if run.rehearses else valued(policy, env, env.tasks("train", tasks), value_samples, max_new_tokens, seed)
    rows = advantages(policy, env, env.tasks("train", tasks), value)
    steps = training.steps or max(1, math.ceil(training.epochs * len(rows) / training.batch_size))
    stream = Shuffled(drawn(rows, steps * training.batch_size, seed), training.batch_size, seed)
    tuned = run.fit("fit", policy, loss.build(), rows, (), (stream, steps))
    return run.finish(tuned, before, run.measure("after", tuned, (), probes=(probe,)))


def valued(policy: Policy, env: Any, tasks: Sequence[Record], samples: int, max_new_tokens: int, seed: int) -> Callable[[int], float]:
    """The mean reward of the policy's own answers, by the task's place."""
    from tempering.rollouts.play import How, play

    groups = play(policy, env, list(enumerate(tasks)), samples, How(max_new_tokens, seed=seed))
    earned = env.judge([one for group in groups for one in group]) + [sum(one.rewards) for group in groups for one in group]
    return earned.reshape(len(tasks), samples).mean(1).tolist().__getitem__


def advantages(policy: Policy, env: Any, tasks: Sequence[Record], value: Callable[[int], float]) -> list[Row]:
    """Rows of the tasks' answers that earn more than the task is worth, with the column "advantage".

    Raises:
        UserError: no answer does.
    """
    from tempering.data import sft_row
    from tempering.rollouts.types import State, Trajectory, Turn

    given = [(i, replace(task, responses=(answer,), better=())) for i, task in enumerate(tasks) for answer in task.responses]
    said = ["\n".join(m.content for m in task.responses[0].messages if m.role == "assistant") for _, task in given]
    earned = env.judge(
        [Trajectory(task, (Turn((), (), (), text, True),), (0.0,), State(task.prompt)) for (_, task), text in zip(given, said, strict=True)]
    )
    rows = []
    for (i, task), reward in zip(given, earned, strict=True):
        # An unknown reward is nan, and not above anything.
        if (advantage := float(reward) - value(i)) > 0 and (row := sft_row(task, policy.tokenizer)) is not None:
            rows.append({"train": tuple(replace(s, extras={**s.extras, "advantage": advantage}) for s in row["train"])})
    if not rows:
        raise UserError(
            f"environment {env.name}: none of its {len(given)} written answers earns more than the model's own, so there is nothing to learn"
        )
    return rows


def drawn(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """`count` of the rows, each draw in proportion to the advantage."""
    import numpy as np

    chance = np.array([row["train"][0].extras["advantage"] for row in rows])
    return [rows[i] for i in np.random.Generator(np.random.PCG64([seed, 1])).choice(len(rows), count, p=chance / chance.sum())]
