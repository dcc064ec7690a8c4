"""ReFT: fine-tune on worked answers for a little, then learn from the policy's own answers to the same questions.

Luong et al. 2024, arXiv 2401.08967 (S088). The warm-up is supervised; then PPO, whose reference is the model after the warm-up: what a nat costs
is taken from each token's reward (0.05), gamma = 1, lambda = 0.95, two epochs, value weight 5. An answer earns 1 if it is right, 0.1 if it is a
number at all, else 0, at its end. One worked answer is all that supervised training has of a question; sampling finds others. Here `--env arithmetic`
brings questions and worked answers, `--env records` those of any data with answers. Constants are those of the released scripts. All weights train.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.credits import AnyCredit
from tempering.methods.credits.gae import GAE
from tempering.methods.environments import AnyEnvironment
from tempering.methods.environments.arithmetic import Arithmetic
from tempering.methods.scopes.full import Full
from tempering.recipes.rl import AnyAlgorithm, act, refuse
from tempering.rollouts.settings import Rollouts

if TYPE_CHECKING:
    from tempering.types import Policy

CATALOGUE = ("S088",)


def reft(
    model: str = "builtin:smollm2-135m",
    env: AnyEnvironment = Arithmetic(wrong=0.1),
    algorithm: AnyAlgorithm = choices.choice("ppo").model_validate({"value": 5.0}),
    credit: AnyCredit = GAE(),
    rollouts: Rollouts = Rollouts(epochs=2, kl_cost=0.05),
    template: str | None = None,
    tasks: Annotated[int | None, Field(ge=1)] = None,
    max_new_tokens: Annotated[int, Field(ge=1)] = 128,
    attempts: Annotated[int, Field(ge=1)] = 1,
    warmup_steps: Annotated[int, Field(ge=1)] = 50,
    scope: Full = Full(),
    critic_lr: Annotated[float, Field(gt=0)] = 1e-4,
    optimizer: Optimizer = Optimizer(lr=2e-5),
    schedule: Schedule = Schedule(name="constant", warmup=0.05),
    training: Training = Training(steps=100, batch_size=8, micro_tokens=4096),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Warm up on worked answers, then learn from what the policy's own answers to the same questions earn.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        env: the questions, with worked answers, and what an answer earns.
        algorithm: what is wanted of sampled tokens with advantages.
        credit: how rewards become advantages.
        rollouts: what is sampled between updates.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        tasks: at most this many of the environment's training tasks.
        max_new_tokens: longest turn of the policy.
        attempts: above 1, each test task is also tried so often with sampled tokens: what the best attempt earns, and what most agree on.
        warmup_steps: optimizer steps on the worked answers.
        scope: which weights may move; an adapter would lie on weights that the warm-up changed.
        critic_lr: learning rate of the critic.
        seed: of the order of tasks, sampling, dropout and initialisation.
    """
    from dataclasses import replace

    from tempering.data import sft_row
    from tempering.data.streams import Shuffled
    from tempering.methods.objectives.nll import NLL

    refuse(training)
    algorithm = choices.value(algorithm)
    run = Experiment.begin(reft, {**locals(), "algorithm": algorithm})

    def warm(policy: Policy) -> Policy:
        made = [row for task in env.tasks("train", tasks) if task.responses and (row := sft_row(task, policy.tokenizer)) is not None]
        if not made:
            raise UserError(f"environment {env.name}: its tasks have no worked answers to warm up on; take `temper run rl`")
        stream = Shuffled(made, training.batch_size, seed), warmup_steps
        return replace(run.fit("warmup", policy, NLL(), made, (), stream), handle=None)

    return act(run, algorithm.build(), warm)
