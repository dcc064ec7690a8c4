"""SaySelf, both stages: learn to state a confidence, then be paid for stating the right one.

Xu et al. 2024, arXiv 2405.20974 (S228). Stage 1 is `methods/streams/say_self.py`: cross-entropy on answers with a reflection and the share of the
model's own samples that agree. Stage 2 is PPO with the reward `calibrated`, 1 - 2 (correct - confidence)^2; its reference is the model after stage 1.
Each stage has half of the questions: whoever was taught the answer to a question can no longer learn from it how sure to be of others. All weights
train. The measured reward is 1 less twice the Brier score of the stated confidences. Beware: it pays as much for being wrong and saying 0% as for
being right and saying 100%, and a small model was seen to unlearn its answers for it (docs/LOG.md); the price of a nat (`rollouts.kl_cost`) holds it.
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
from tempering.methods.environments.records import Records
from tempering.methods.rewards.calibrated import Calibrated
from tempering.methods.scopes.full import Full
from tempering.methods.streams.say_self import SaySelf
from tempering.recipes.rl import AnyAlgorithm, act, refuse
from tempering.rollouts.settings import Rollouts

if TYPE_CHECKING:
    from tempering.types import Policy

CATALOGUE = ("S228",)


def say_self_ppo(
    model: str = "builtin:smollm2-135m",
    env: AnyEnvironment = Records(reward=Calibrated(rule="text")),
    make: SaySelf = SaySelf(),
    algorithm: AnyAlgorithm = choices.choice("ppo")(),
    credit: AnyCredit = GAE(),
    rollouts: Rollouts = Rollouts(kl_cost=0.05),
    template: str | None = None,
    tasks: Annotated[int | None, Field(ge=2)] = None,
    max_new_tokens: Annotated[int, Field(ge=1)] = 128,
    attempts: Annotated[int, Field(ge=1)] = 1,
    lesson_steps: Annotated[int, Field(ge=1)] = 50,
    scope: Full = Full(),
    critic_lr: Annotated[float, Field(gt=0)] = 1e-4,
    optimizer: Optimizer = Optimizer(lr=2e-5),
    schedule: Schedule = Schedule(name="constant", warmup=0.05),
    training: Training = Training(steps=100, batch_size=8, micro_tokens=4096),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Learn to state how sure one is, first from demonstrations, then from what stated confidences earn.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        env: the questions, with answers, and a reward that looks at confidences.
        make: how stage 1 is made of the first half of the questions.
        algorithm: of stage 2: what is wanted of sampled tokens with advantages.
        credit: how rewards become advantages.
        rollouts: what is sampled between updates.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        tasks: at most this many of the environment's training tasks.
        max_new_tokens: longest turn of the policy.
        attempts: above 1, each test task is also tried so often with sampled tokens: what the best attempt earns, and what most agree on.
        lesson_steps: optimizer steps of stage 1.
        scope: which weights may move; an adapter would lie on weights that stage 1 changed.
        critic_lr: learning rate of the critic.
        seed: of the order of tasks, sampling, dropout and initialisation.
    """
    from dataclasses import replace

    from tempering.data import sft_row
    from tempering.data.streams import Shuffled
    from tempering.lessons import build
    from tempering.methods.objectives.nll import NLL

    refuse(training)
    algorithm = choices.value(algorithm)
    run = Experiment.begin(say_self_ppo, {**locals(), "algorithm": algorithm})
    given = [task for task in env.tasks("train", tasks) if task.responses]
    if len(given) < 2:
        raise UserError(f"environment {env.name}: {len(given)} of its tasks have an answer, and each stage needs one at least")
    first, second = given[: len(given) // 2], given[len(given) // 2 :]

    def warm(policy: Policy) -> Policy:
        made = build(run, make, "made", first, {"model": model, "seed": seed}, run.ask(policy))
        rows = [row for record in made if (row := sft_row(record, policy.tokenizer)) is not None]
        return replace(run.fit("stage-1", policy, NLL(), rows, (), (Shuffled(rows, training.batch_size, seed), lesson_steps)), handle=None)

    return act(run, algorithm.build(), warm, second)
