"""Expert iteration: sample answers, keep the good ones, fine-tune on them, and again with the better model. ReST is the same loop with rising bars.

A round samples `samples` answers of the model to each task and keeps those that earn more than `above`, each text once. Then cross-entropy on them:

- Expert iteration (Havrilla et al. 2024, "Teaching Large Language Models to Reason with Reinforcement Learning", arXiv 2403.04642, S019): every round
  begins with the start model again and learns from what was kept in this round; what earns more than 0 is kept. This is the default.
- ReST (Gulcehre et al. 2023, "Reinforced Self-Training", arXiv 2308.08998, S123): `--begin last --above "[0, 0.5, 0.9]"`. One round of sampling
  (Grow) is learned from several times (Improve), by a higher bar each time, with `decay` times the last learning rate; each training goes on from the
  one before. The paper ends an Improve step when the held-out reward no longer rises; here each has its number of steps.

Measured is what the model earns on test tasks with its likeliest tokens (maj@1), and with `--attempts k` pass@k and what most of k attempts agree on
(maj@k). S019's reranking by a reward model is not here; its PPO is `temper run ppo`, its return-conditioned training `temper run return_conditioned`.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.lessons import FILE, from_lines, to_lines
from tempering.methods.environments import AnyEnvironment
from tempering.methods.environments.arithmetic import Arithmetic
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.recipes.rl import refuse
from tempering.types import Message, Response

CATALOGUE = ("S019", "S123")
if TYPE_CHECKING:
    from collections.abc import Sequence

    from tempering.types import Policy, Record


def expert_iteration(
    model: str = "builtin:smollm2-135m",
    env: AnyEnvironment = Arithmetic(),
    rounds: Annotated[int, Field(ge=1)] = 3,
    samples: Annotated[int, Field(ge=1)] = 8,
    temperature: Annotated[float, Field(gt=0)] = 1.0,
    above: Annotated[tuple[float, ...], Field(min_length=1)] = (0.0,),
    begin: Literal["start", "last"] = "start",
    decay: Annotated[float, Field(gt=0, le=1)] = 0.5,
    template: str | None = None,
    tasks: Annotated[int | None, Field(ge=1)] = None,
    max_new_tokens: Annotated[int, Field(ge=1)] = 128,
    attempts: Annotated[int, Field(ge=1)] = 1,
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=2e-4),
    schedule: Schedule = Schedule(),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Fine-tune on the model's own good answers, sample with the better model, and again.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        env: the tasks, and what an answer earns.
        rounds: how often answers are sampled (Grow).
        samples: answers to each task in a round.
        temperature: of sampling.
        above: what an answer must earn more than to be learned from; with several bars a round is trained on as often (Improve).
        begin: the model that a training begins with: the start model, or the last one.
        decay: with several bars, each training's learning rate over the one before.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        tasks: at most this many of the environment's training tasks.
        max_new_tokens: longest answer of the model.
        attempts: above 1, each test task is also tried so often with sampled tokens: what the best attempt earns, and what most agree on.
        scope: which weights may move; with `begin` last all of them, since an adapter would lie on weights that another one changed.
        training: of each training by itself.
        seed: of sampling, the order of rows, dropout and initialisation.
    """
    from tempering.data import sft_row
    from tempering.methods.objectives.nll import NLL
    from tempering.methods.probes.episode_reward import EpisodeReward
    from tempering.methods.probes.pass_at_k import PassAtK

    refuse(training)
    if list(above) != sorted(set(above)):
        raise UserError(f"--above {' '.join(map(str, above))}: give bars that rise")
    if begin == "last" and scope.kind == "lora":
        raise UserError("--begin last trains weights that the training before has changed, which an adapter cannot lie on; add --scope full")
    run = Experiment.begin(expert_iteration, locals())
    policy = run.load(model, template=template)
    asked: dict[str, Any] = {"environment": env, "n": budget.max_test, "max_new_tokens": max_new_tokens, "side": "target"}
    probes: tuple[Any, ...] = (EpisodeReward(name=env.name, **asked),)
    if attempts > 1:
        probes += (PassAtK(name=f"{env.name}, best of {attempts}", k=attempts, samples=attempts, temperature=temperature, **asked),)
    before = run.measure("before", policy, (), probes=probes)
    now, last = policy, (rounds - 1, len(above) - 1)
    for number in range(rounds):
        grown = _grown(run, now, number)
        for step, bar in enumerate(above):
            rows = [row for record in better(grown, bar) if (row := sft_row(record, policy.tokenizer)) is not None]
            run.display.say(f"round {number + 1}: {len(rows)} different answers to {len(grown)} tasks earn more than {bar:g}")
            if not rows:
                raise UserError(f"environment {env.name}: no answer of round {number + 1} earns more than {bar:g}; lower --above or raise --samples")
            name = "fit" if (number, step) == last else f"round-{number + 1}" + (f"-{step + 1}" if len(above) > 1 else "")
            first = policy if begin == "start" else now
            first = replace(first, model=copy.deepcopy(first.model), handle=None)
            slower = optimizer.model_copy(update={"lr": optimizer.lr * decay**step})
            now = run.fit(name, first, NLL(), rows, (), offset=number, optimizer=slower)
    return run.finish(now, before, run.measure("after", now, (), probes=probes))


def better(grown: Sequence[Record], bar: float) -> list[Record]:
    """A record for each answer that earned more than `bar`, in order."""
    return [replace(record, responses=(one,)) for record in grown for one in record.responses if one.score is not None and one.score > bar]


def tried(policy: Policy, env: Any, tasks: Sequence[Record], samples: int, temperature: float, max_new_tokens: int, seed: int) -> list[Record]:
    """The tasks with the policy's own answers, each text once, and what it earned as its score; what nobody can score is left out."""
    from tempering.rollouts.play import How, play

    groups = play(policy, env, list(enumerate(tasks)), samples, How(max_new_tokens, temperature, seed))
    earned = iter(env.judge([one for group in groups for one in group]))
    made = []
    for task, group in zip(tasks, groups, strict=True):
        answers = {one.state.messages[len(task.prompt) :]: float(next(earned)) + sum(one.rewards) for one in group}
        made.append(replace(task, responses=tuple(Response(said, score) for said, score in answers.items() if math.isfinite(score)), better=()))
    return made


def _grown(run: Experiment, policy: Policy, number: int) -> list[Record]:
    """A round's answers, kept in the run folder (`grown-N/records.jsonl`); a plan takes one to each task that is as long as it may be."""
    v = run.values
    env, new = v["env"], v["max_new_tokens"]
    tasks = env.tasks("train", v["tasks"])
    if run.rehearses:
        return [replace(task, responses=(Response((Message("assistant", "one " * new),), math.inf),), better=()) for task in tasks]

    def work(folder: Path) -> None:
        made = tried(policy, env, tasks, v["samples"], v["temperature"], new, v["seed"] + number)
        (folder / FILE).write_text(to_lines(made), encoding="utf-8")

    with run.display.phase(f"round {number + 1}, answering"):
        folder = run.stage(f"grown-{number + 1}", {"run": run.key, "round": number}, work)
    return list(from_lines((folder / FILE).read_text(encoding="utf-8")))
