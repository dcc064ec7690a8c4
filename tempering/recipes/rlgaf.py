"""RLGAF: a discriminator learns to tell demonstrations from the policy's samples, the policy learns to pass for one, and so on in turns.

    D:       max  log sigmoid( D(x, demonstration) - D(x, sample) )          one sample of the policy to each prompt, new in each round
    policy:  max  E[ D(x, y) ] - beta KL(policy || start)                    y sampled by the policy

Yu et al. 2023, "Fine-tuning Language Models with Generative Adversarial Feedback", arXiv 2305.06176 (S126): the policy never sees a demonstration
in its loss. Nets and schedule of the paper are not known for certain. D is a reward model (`bradley_terry`) that begins as the start model with a
head for one number and goes on from round to round. On pairs its optimum is D(x, y) = log p(y | x) - log q(y | x) + c(x), p of demonstrations, q
of samples: the logit of the classic discriminator up to a constant of the prompt, which a leave-one-out baseline takes away. So where p = q
nothing is learned, and the expected reward of q is -KL(q || p) (tests). All weights of both train. What a round left lies in the run folder
(`judge-1`, `round-1`, ...).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.credits import AnyCredit
from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.scopes.full import Full
from tempering.recipes.rl import AnyAlgorithm, refuse
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.types import Environment, Trajectory
from tempering.types import Message, Record, Response

if TYPE_CHECKING:
    import numpy as np

    from tempering.types import Policy

CATALOGUE = ("S126",)


class Passing(Environment):
    """One answer to a prompt, worth what a discriminator says."""

    judges: Any
    """A reward."""

    @property
    def name(self) -> str:
        return "passing"

    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        """Its logit."""
        return self.judges([one.task.prompt for one in played], [one.answer for one in played])


def against_samples(policy: Policy, demonstrations: Sequence[Record], max_new_tokens: int, seed: int, dtype: Any = None) -> list[Record]:
    """Pairs of each demonstration and a sample of the policy to the same prompt; one that says the same word for word is left out."""
    from tempering.rollouts.play import How, play

    played = play(policy, Passing(judges=None), list(enumerate(demonstrations)), 1, How(max_new_tokens, seed=seed, dtype=dtype))
    made = []
    for record, (one,) in zip(demonstrations, played, strict=True):
        shown = record.responses[0].messages[0].content
        if one.answer.strip() != shown.strip():
            sample = Response((Message("assistant", one.answer),))
            made.append(replace(record, responses=(record.responses[0], sample), better=((0, 1),)))
    return made


def rlgaf(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    algorithm: AnyAlgorithm = choices.choice("rloo")(),
    credit: AnyCredit = LeaveOneOut(),
    rollouts: Rollouts = Rollouts(samples=4, kl_cost=0.02),
    max_new_tokens: Annotated[int, Field(ge=1)] = 64,
    rounds: Annotated[int, Field(ge=1)] = 3,
    judge_steps: Annotated[int, Field(ge=1)] = 30,
    judge_lr: Annotated[float, Field(gt=0)] = 1e-4,
    scope: Full = Full(),
    optimizer: Optimizer = Optimizer(lr=2e-5),
    schedule: Schedule = Schedule(name="constant", warmup=0.05),
    training: Training = Training(steps=20, batch_size=8, micro_tokens=4096),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Learn to pass for demonstrations, by what a discriminator that is trained in turns says of samples.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of demonstrations: prompts with an answer of one turn; builtin:demo is made for this project.
        test: held-out demonstrations; by default 10% of the data, at most 200 records, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; demonstrations over it are dropped and counted.
        limit: read at most this many rows.
        algorithm: what is wanted of sampled tokens with advantages.
        credit: how the discriminator's word becomes advantages; one without a critic.
        rollouts: what is sampled between updates, and what a nat of distance from the start costs.
        max_new_tokens: longest answer of the policy.
        rounds: how often the discriminator learns anew and the policy after it.
        judge_steps: optimizer steps of the discriminator in each round.
        judge_lr: its learning rate.
        training: its steps are the policy's in each round.
        seed: of the split, sampling, shuffling, dropout and initialisation; each round has its own.
    """
    refuse(training)
    if not training.steps:
        raise UserError("rlgaf: say how many steps the policy takes in each round, with --steps")
    if credit.asks & {"value"}:
        raise UserError("rlgaf: --credit gae needs a critic, which is not made here; take leave_one_out or group_relative")
    if rollouts.anchor or rollouts.samplers or rollouts.staleness:
        raise UserError("rlgaf: --rollouts.anchor, --samplers and --staleness are for `temper run rl`; leave them at 0")
    algorithm = choices.value(algorithm)
    run = Experiment.begin(rlgaf, {**locals(), "algorithm": algorithm})
    return _in_turns(run, algorithm.build())


def _in_turns(run: Experiment, objective: Any) -> Report:
    """The rounds of an opened run."""
    import torch

    from tempering.data import sft_row
    from tempering.lessons import Made, divided
    from tempering.models import with_outputs

    v = run.values
    policy = run.load(v["model"], template=v["template"])
    records, held_records, _ = divided(run)
    shown = [record for record in records if record.prompt and record.responses and len(record.responses[0].messages) == 1]
    if not shown:
        raise UserError(f"data {v['data']}: none of its {len(records)} records has a prompt and an answer of one turn to pass for")
    held = run.made_rows("test", Made(v["data"], tuple(held_records)), sft_row, max_length=v["max_length"])
    before = run.measure("before", policy, held)
    start = policy.model
    torch.manual_seed(v["seed"])
    judge = policy if run.rehearses else with_outputs(copy.deepcopy(policy), 1)
    for number in range(1, v["rounds"] + 1):
        last = number == v["rounds"] or run.rehearses
        if not run.rehearses:
            judge = _judge(run, judge, against_samples(policy, shown, v["max_new_tokens"], v["seed"] + number), number)
        first = replace(policy, model=copy.deepcopy(policy.model), handle=None) if not run.rehearses else policy
        policy = _round(run, first, start, judge, objective, shown, number, last)
        if last:
            break
    return run.finish(policy, before, run.measure("after", policy, held))


def _judge(run: Experiment, judge: Policy, pairs: Sequence[Record], number: int) -> Policy:
    """The discriminator after some more steps, on this round's samples."""
    from tempering.data import pair_row
    from tempering.data.streams import Shuffled
    from tempering.methods.objectives.bradley_terry import BradleyTerry

    v, whole = run.values, Full()
    rows = [row for record in pairs if (row := pair_row(record, judge.tokenizer, max_length=v["max_length"])) is not None]
    if not rows:
        raise UserError("rlgaf: every sample of the policy says word for word what its demonstration says, so there is nothing left to tell apart")
    stream = Shuffled(rows, v["training"].batch_size, v["seed"] + number), v["judge_steps"]
    optimizer = v["optimizer"].model_copy(update={"lr": v["judge_lr"]})
    tuned = run.fit(f"judge-{number}", judge, BradleyTerry(), rows, (), stream, offset=number, scope=whole, optimizer=optimizer)
    return replace(tuned, handle=None)


def _round(run: Experiment, first: Policy, start: Any, judge: Policy, objective: Any, shown: Any, number: int, last: bool) -> Policy:
    """The policy after a round of reinforcement by the discriminator's word."""
    from tempering.data.streams import Shuffled
    from tempering.methods.rewards.reward_model import RewardModel
    from tempering.rollouts.stream import Conversations, longest
    from tempering.types import Role, Stream

    v, training = run.values, run.values["training"]
    roles = {"reference": Role(copy.deepcopy(start))} if v["rollouts"].kl_cost or "reference.logp" in objective.needs[objective.part] else {}
    if run.rehearses:
        stream: Stream = Shuffled(longest(first.tokenizer, shown, v["rollouts"].samples, v["max_new_tokens"], objective.needs), training.batch_size)
    else:
        env = Passing(judges=RewardModel(judge))
        how: Any = {"training": training, "max_new_tokens": v["max_new_tokens"], "seed": v["seed"] + 1000 * number}
        stream = Conversations(first.tokenizer, env, shown, v["credit"], v["rollouts"], **how)
    name = "fit" if last else f"round-{number}"
    tuned = run.fit(name, first, objective, shown, (), (stream, training.steps), roles=roles, offset=number)
    return tuned if last else replace(tuned, handle=None)
