"""Reinforcement: a policy acts in an environment and learns from its own tokens by what they earned: `--algorithm grpo`, or `temper run grpo`.

Every file of `methods/objectives` that says `FAMILY = "policy_gradient"` is an algorithm of this recipe, and what its paper takes as credit and
rollouts (`RECIPE` in its file) comes with it. One optimizer step takes `training.batch_size` tasks with `rollouts.samples` conversations each.
Measured is what the policy earns on test tasks, played with its likeliest tokens.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.credits import AnyCredit
from tempering.methods.credits.group_relative import GroupRelative
from tempering.methods.environments import AnyEnvironment
from tempering.methods.environments.arithmetic import Arithmetic
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.rollouts.settings import Rollouts

FAMILY = "policy_gradient"
if TYPE_CHECKING:
    from tempering.types import Policy, Record

    AnyAlgorithm = Any
else:
    AnyAlgorithm = choices.family(FAMILY)


def rl(
    model: str = "builtin:smollm2-135m",
    env: AnyEnvironment = Arithmetic(),
    algorithm: AnyAlgorithm = choices.choice("grpo")(),
    credit: AnyCredit = GroupRelative(),
    rollouts: Rollouts = Rollouts(),
    template: str | None = None,
    tasks: Annotated[int | None, Field(ge=1)] = None,
    max_new_tokens: Annotated[int, Field(ge=1)] = 128,
    attempts: Annotated[int, Field(ge=1)] = 1,
    thinking: tuple[Annotated[int, Field(ge=1)], ...] = (),
    cue: str = "\nAnswer:",
    scope: AnyScope = LoRA(),
    critic_lr: Annotated[float, Field(gt=0)] = 1e-4,
    optimizer: Optimizer = Optimizer(lr=2e-5),
    schedule: Schedule = Schedule(name="constant", warmup=0.05),
    training: Training = Training(steps=100, batch_size=8, micro_tokens=4096),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Learn from what the policy's own answers earn in an environment.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        env: where the policy acts, and what that earns.
        algorithm: what is wanted of sampled tokens with advantages.
        credit: how rewards become advantages; by its own name an algorithm takes its paper's.
        rollouts: what is sampled between updates.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        tasks: at most this many of the environment's training tasks.
        max_new_tokens: longest turn of the policy.
        attempts: above 1, each test task is also tried so often with sampled tokens: what the best attempt earns, and what most agree on.
        thinking: budgets of tokens: each test task is also answered with the thinking cut off there and an answer forced.
        cue: what is written behind a thought that was cut off; the policy goes on from there.
        scope: which weights may move: full or lora.
        critic_lr: learning rate of the critic, where the credit asks for one; all its weights train.
        seed: of the order of tasks, sampling, dropout and initialisation.
    """
    refuse(training, several=True)
    algorithm = choices.value(algorithm)
    run = Experiment.begin(rl, {**locals(), "algorithm": algorithm})
    return act(run, algorithm.build())


def refuse(training: Training, several: bool = False) -> None:
    """Raises `UserError` for what a run with rollouts cannot do.

    Args:
        several: whether this one may be several processes.
    """
    from tempering.distributed import word

    if word.several() and not several:
        raise UserError("this recipe goes on from an earlier training or sampling of its own, which one process has so far; leave out --processes")
    if training.eval_every or training.patience:
        raise UserError("--training.eval-every and --training.patience need held-out rows, and rollouts have none; leave them at 0")


def act(run: Experiment, objective: Any, warm: Callable[[Policy], Policy] = lambda policy: policy, given: Sequence[Record] | None = None) -> Report:
    """The steps of an opened run, whatever the algorithm.

    Args:
        warm: the start model, measured -> the policy that begins to act, and that is its reference.
        given: tasks, instead of the environment's.
    """
    from tempering.data.streams import Shuffled
    from tempering.distributed.world import current
    from tempering.methods.probes.episode_reward import EpisodeReward
    from tempering.methods.probes.pass_at_k import PassAtK
    from tempering.methods.probes.thinking_budget import ThinkingBudget
    from tempering.models import with_outputs
    from tempering.rollouts.anchored import Anchored, Following
    from tempering.rollouts.samplers import Beside, Here, Led
    from tempering.rollouts.stream import Conversations, longest
    from tempering.types import Role, Stream

    v, training = run.values, run.values["training"]
    env, rollouts, new = v["env"], v["rollouts"], v["max_new_tokens"]
    if "budget" in {field.name for field in fields(objective)}:
        objective = replace(objective, budget=new)
    critic, priced = "value" in v["credit"].asks, bool(rollouts.kl_cost)
    anchored = bool(rollouts.anchor) and (priced or "reference.logp" in objective.needs.get(objective.part, ()))
    # Rewards are priced before the loss, which has a reference of its own only if it asks for one.
    kept = priced and not anchored and v["scope"].kind != "lora"
    policy = run.load(v["model"], template=v["template"], whole=critic or anchored or kept)
    tasks: Any = env.tasks("train", v["tasks"]) if given is None else given
    asked: dict[str, Any] = {"environment": env, "n": v["budget"].max_test, "max_new_tokens": new, "side": "target"}
    probes: tuple[Any, ...] = (EpisodeReward(name=env.name, **asked),)
    if (k := v["attempts"]) > 1:
        probes += (PassAtK(name=f"{env.name}, best of {k}", k=k, samples=k, temperature=rollouts.temperature, **asked),)
    for b in dict.fromkeys(v.get("thinking", ())):
        forced: Any = {"environment": env, "n": v["budget"].max_test, "side": "target"}
        probes += (ThinkingBudget(name=f"{env.name}, answer after {b}", budget=b, cue=v["cue"], **forced),)
    before = run.measure("before", policy, (), probes=probes)
    policy, roles, whole = warm(policy), dict[str, Role](), cast("Any", Full())
    if critic:
        # A plan makes one of the policy's configuration.
        valued = policy if run.rehearses else with_outputs(copy.deepcopy(policy), 1)
        roles["critic"] = Role(valued.model, whole, v["optimizer"].model_copy(update={"lr": v["critic_lr"]}))
    if anchored or kept:
        roles["reference"] = Role(copy.deepcopy(policy.model), Following(v["scope"]) if anchored else None)
    steps = training.steps or max(1, math.ceil(training.epochs * rollouts.epochs * len(tasks) / training.batch_size))
    world = current()
    samplers = Led(Beside(rollouts.samplers, rollouts.samplers_at), world) if rollouts.samplers else Here(world)
    stream: Stream = Conversations(
        policy.tokenizer, env, tasks, v["credit"], rollouts, training=training, max_new_tokens=new, seed=v["seed"], samplers=samplers,
        rounds=math.ceil(steps / (rollouts.updates * rollouts.epochs)),
    )  # fmt: skip
    if anchored:
        stream = Anchored(stream, rollouts.anchor)
    if run.rehearses:
        stream = Shuffled(longest(policy.tokenizer, tasks, rollouts.samples, new, objective.needs), training.batch_size)
    try:
        tuned = run.fit("fit", policy, objective, tasks, (), (stream, steps), roles=roles)
    finally:
        samplers.close()
    return run.finish(tuned, before, run.measure("after", tuned, (), probes=probes))
