"""WARP: reinforcement from several sides, averaged in weight space three times over: `temper run warp --env E`.

    anchor:  theta_ema <- (1 - mu) theta_ema + mu theta,   what the policy pays to leave, in each of M runs from theta_init
    arc:     theta_slerp = theta_init + slerp(theta_1 - theta_init, ..., theta_M - theta_init), tensor by tensor
    back:    theta_init <- (1 - eta) theta_init + eta theta_slerp,   and again

Rame et al. 2024 (WARP). mu = 0.01, eta = 0.3 and M = 2 are the paper's as it is remembered, and were not looked up; for more than two runs the arc is
their spherical mean (`multislerp`). The policy gradient is RLOO, whose reward pays for the distance from the anchor (`rollouts.kl_cost`). All weights
train. Every run's model and every merge stand in the run folder, so `temper merge --along` between `start` and a round's `arc` draws the front of
reward and distance.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.environments import AnyEnvironment
from tempering.methods.environments.arithmetic import Arithmetic
from tempering.recipes.rl import refuse
from tempering.rollouts.settings import Rollouts

if TYPE_CHECKING:
    from tempering.types import Policy

CATALOGUE = ("S063",)


def warp(
    model: str = "builtin:smollm2-135m",
    env: AnyEnvironment = Arithmetic(),
    rollouts: Rollouts = Rollouts(kl_cost=0.05),
    template: str | None = None,
    tasks: Annotated[int | None, Field(ge=1)] = None,
    max_new_tokens: Annotated[int, Field(ge=1)] = 128,
    rounds: Annotated[int, Field(ge=1)] = 2,
    runs: Annotated[int, Field(ge=1)] = 2,
    mu: Annotated[float, Field(ge=0, le=1)] = 0.01,
    eta: Annotated[float, Field(ge=0, le=1)] = 0.3,
    optimizer: Optimizer = Optimizer(lr=2e-5),
    schedule: Schedule = Schedule(name="constant", warmup=0.05),
    training: Training = Training(steps=50, batch_size=8, micro_tokens=4096),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Learn in several runs at once, average their weights, go part of the way back, and begin again from there.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        env: where the policy acts, and what that earns.
        rollouts: what is sampled between updates, and what a nat of distance from the anchor costs.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        tasks: at most this many of the environment's training tasks.
        max_new_tokens: longest turn of the policy.
        rounds: how often the runs begin again from their average.
        runs: of each round, from one start with other samples.
        mu: how far the anchor follows the policy after each step; 0 holds it at the round's start.
        eta: how far the next start goes from the last one to the average.
        training: its steps are those of each run.
        seed: of the order of tasks and of sampling; each run has its own.
    """
    refuse(training)
    if not training.steps:
        raise UserError("warp: say how many steps each run has, with --steps")
    if rollouts.anchor:
        raise UserError("warp: how far the anchor follows is said by --mu; leave --rollouts.anchor at 0")
    run = Experiment.begin(warp, locals())
    return _averaged(run, run.load(model, template=template))


def _averaged(run: Experiment, start: Policy) -> Report:
    """The rounds of an opened run."""
    from tempering import models
    from tempering.methods.objectives.rloo import RLOO
    from tempering.methods.probes.episode_reward import EpisodeReward

    v = run.values
    env, tasks = v["env"], v["env"].tasks("train", v["tasks"])
    asked: Any = {"environment": env, "n": v["budget"].max_test, "max_new_tokens": v["max_new_tokens"], "side": "target"}
    probes = (EpisodeReward(name=env.name, **asked),)
    before = run.measure("before", start, (), probes=probes)
    if run.rehearses:
        return run.finish(_run(run, "fit", start, RLOO(), tasks, 0), before, run.measure("after", start, (), probes=probes))
    folder = run.folder.path
    begin = folder / "start"
    if not begin.exists():
        models.save(start, begin)
    now = start
    for number in range(v["rounds"]):
        made = []
        for one in range(v["runs"]):
            name = f"round-{number + 1}-{one + 1}"
            first = replace(now, model=copy.deepcopy(now.model), handle=None)
            _run(run, name, first, RLOO(), tasks, number * v["runs"] + one)
            made.append(folder / name / "model")
        last = number + 1 == v["rounds"]
        arc = merged(made, begin, folder / f"arc-{number + 1}", None)
        begin = merged([begin, arc], None, folder / ("model" if last else f"start-{number + 2}"), v["eta"])
        now = models.load(str(begin), say=run.display.say)
    return run.finish(now, before, run.measure("after", now, (), probes=probes))


def _run(run: Experiment, name: str, first: Policy, objective: Any, tasks: Any, number: int) -> Policy:
    """One run of reinforcement, anchored to the moving average of its own policy."""
    from tempering.data.streams import Shuffled
    from tempering.methods.scopes.full import Full
    from tempering.rollouts.anchored import Anchored, Following
    from tempering.rollouts.stream import Conversations, longest
    from tempering.types import Role, Stream

    v, training = run.values, run.values["training"]
    whole: Any = Full()
    how: Any = {"training": training, "max_new_tokens": v["max_new_tokens"], "seed": v["seed"] + 1000 * number}
    stream: Stream = Anchored(Conversations(first.tokenizer, v["env"], tasks, LeaveOneOut(), v["rollouts"], **how), v["mu"])
    if run.rehearses:
        rows = longest(first.tokenizer, tasks, v["rollouts"].samples, v["max_new_tokens"], objective.needs)
        stream = Shuffled(rows, training.batch_size)
    anchor = Role(copy.deepcopy(first.model), Following(whole))
    return run.fit(name, first, objective, tasks, (), (stream, training.steps), roles={"reference": anchor}, offset=number, scope=whole)


def merged(inputs: list[Path], base: Path | None, out: Path, share: float | None) -> Path:
    """A folder with the arc of several models' changes from a base, or with what lies `share` of the way from the first to the second; made once."""
    from tempering.merging.config import Config, Source
    from tempering.merging.run import merge

    if (out / "policy.json").exists():
        return out
    if base is None:
        weights = [{"weight": 1 - (share or 0.0)}, {"weight": share or 0.0}]
        sources = [Source(model=str(one), parameters=given) for one, given in zip(inputs, weights, strict=True)]
        return merge(Config(merge_method="linear", models=sources), out, say=lambda _: None)
    if len(inputs) == 1:
        return inputs[0]
    sources = [Source(model=str(one)) for one in inputs]
    return merge(Config(merge_method="nuslerp" if len(inputs) == 2 else "multislerp", models=sources, base_model=str(base)), out, say=lambda _: None)
