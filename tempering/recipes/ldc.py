"""LDC: one controller for each dimension of what is wanted, trained by that dimension's reward alone, and weighed while the model writes.

Li et al. 2024, arXiv 2412.14626 (S182). From one start (a fine-tuned model: `temper run sft` comes first), each reward of `dimensions` gets a run of
reinforcement of its own (RLOO, whose policy pays for leaving the start), and what comes of it is a controller. The saved model is the start with a
decode chain that moves its logits towards the controllers' (`methods/decodes/controllers.py`, which says how this differs from the paper): `weights`
stand in its policy.json, a row for each sentence, and may be changed there without training. Measured is the sum of all dimensions, each times its
weight averaged over the sentences' rows; with weights of 0 the model is the start to the bit.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.environments.records import Records
from tempering.methods.rewards.format import Format
from tempering.methods.rewards.weighted import Weighted
from tempering.methods.scopes.full import Full
from tempering.recipes.rl import refuse
from tempering.rollouts.settings import Rollouts

if TYPE_CHECKING:
    from tempering.types import Policy

CATALOGUE = ("S182",)


def ldc(
    model: str = "builtin:smollm2-135m",
    env: Records = Records(reward=Format()),
    dimensions: tuple[str, ...] = ("format", "overlong(longest=400; buffer=200)"),
    weights: tuple[tuple[float, ...], ...] = ((1.0, 1.0),),
    rollouts: Rollouts = Rollouts(kl_cost=0.05),
    template: str | None = None,
    tasks: Annotated[int | None, Field(ge=1)] = None,
    max_new_tokens: Annotated[int, Field(ge=1)] = 128,
    scope: Full = Full(),
    optimizer: Optimizer = Optimizer(lr=2e-5),
    schedule: Schedule = Schedule(name="constant", warmup=0.05),
    training: Training = Training(steps=50, batch_size=8, micro_tokens=4096),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Train a controller for each of several rewards, and put them beside the model with weights that may change from sentence to sentence.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m: the fine-tuned model.
        env: the prompts; its reward is not looked at.
        dimensions: rewards by name, with their fields, in the form of a term of `weighted`.
        weights: what each controller weighs: a row for each sentence of an answer, with a number for each dimension; the last row holds on.
        rollouts: what is sampled between updates, and what a nat of distance from the start costs.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        tasks: at most this many of the environment's training tasks.
        max_new_tokens: longest answer.
        scope: which weights of a controller may move.
        training: its steps are those of each controller.
        seed: of the order of tasks and of sampling; each controller has its own.
    """
    from tempering import models
    from tempering.methods.probes.episode_reward import EpisodeReward

    refuse(training)
    if not training.steps:
        raise UserError("ldc: say how many steps each controller has, with --steps")
    if not dimensions or not weights or any(len(row) != len(dimensions) for row in weights):
        raise UserError(f"ldc: there are {len(dimensions)} dimensions; give at least one, and in each row of weights a number for each")
    rewards = [Weighted(of=of) for of in dimensions]
    mean = [sum(row[k] for row in weights) / len(weights) for k in range(len(dimensions))]
    run = Experiment.begin(ldc, locals())
    start = run.load(model, template=template)
    together = env.model_copy(update={"reward": Weighted(of=" + ".join(f"{w:.12f}*{of}" for w, of in zip(mean, dimensions, strict=True)))})
    asked: dict[str, Any] = {"environment": together, "n": budget.max_test, "max_new_tokens": max_new_tokens, "side": "target"}
    probes = (EpisodeReward(name=env.name, **asked),)
    before = run.measure("before", start, (), probes=probes)
    roles = {}
    for k, reward in enumerate(rewards):
        first = replace(start, model=copy.deepcopy(start.model))
        roles[f"dimension_{k + 1}"] = _controller(run, first, env.model_copy(update={"reward": reward}), k).model
    steered = replace(start, decode=(*start.decode, controllers(start, tuple(roles), weights)), roles={**start.roles, **roles})
    if not (run.folder.path / "model" / "policy.json").exists():
        models.save(steered, run.folder.path / "model")
    return run.finish(steered, before, run.measure("after", steered, (), probes=probes))


def _controller(run: Experiment, first: Policy, env: Records, k: int) -> Policy:
    """The policy after reinforcement by one dimension's reward."""
    from tempering.data.streams import Shuffled
    from tempering.methods.objectives.rloo import RLOO
    from tempering.rollouts.stream import Conversations, longest
    from tempering.types import Role, Stream

    v, training = run.values, run.values["training"]
    tasks: Any = env.tasks("train", v["tasks"])
    objective = RLOO()
    how: Any = {"training": training, "max_new_tokens": v["max_new_tokens"], "seed": v["seed"] + 1000 * k}
    stream: Stream = Conversations(first.tokenizer, env, tasks, LeaveOneOut(), v["rollouts"], **how)
    if run.rehearses:
        stream = Shuffled(longest(first.tokenizer, tasks, v["rollouts"].samples, v["max_new_tokens"], objective.needs), training.batch_size)
    roles = {"reference": Role(copy.deepcopy(first.model))} if v["rollouts"].kl_cost else {}
    return run.fit(f"dimension_{k + 1}", first, objective, tasks, (), (stream, training.steps), roles=roles, offset=k)


def controllers(policy: Policy, names: tuple[str, ...], weights: tuple[tuple[float, ...], ...]) -> Any:
    """The decode, which counts sentences of the answer by the tokens in which one ends."""
    from tempering.items import prompt_ids
    from tempering.methods.decodes.controllers import Controllers

    if len(weights) == 1:
        return Controllers(names, weights)
    tokenizer = policy.tokenizer
    # Any token whose text ends as a sentence does.
    ends = tuple(i for i in range(len(tokenizer)) if tokenizer.decode([i]).rstrip().endswith((".", "!", "?")))
    one, other = (prompt_ids(policy, [{"role": "user", "content": text}])[::-1] for text in ("a", "some other words here"))
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return Controllers(names, weights, ends, one[:same][::-1])
