"""Two roads from the same pairs: DPO, and a reward model with online DPO; is what comes of them different? `temper run roads --data pairs.jsonl`

Swamy et al. 2025 ("All Roads Lead to Likelihood"), arXiv 2503.01067 (S111): with rewards as rich as policies (r = the sum of log-probs) a
Bradley-Terry fit followed by KL-bound reinforcement has DPO's own optimum,

    argmin DPO = pi_ref exp(r_MLE / beta) / Z      where each answer can be reached from every other in the graph of who beat whom,

(computed to 1e-10 in tests/unit/test_likelihood.py). Where going online is better all the same, judging is simpler than writing: few policies are
best for one of the simple rewards. This recipe takes both roads from one start with what is theirs in common equal: the pairs and their prompts,
beta, the loss, the steps, the pairs in a step, the rate. The offline road learns from the pairs; the online one from the best and the worst of
`rollouts.samples` answers of its own to these prompts, by a reward model that was fitted to the pairs.

The ledger compares the start with the online road's end. What answers to held-out prompts are worth at the start and on both roads stands in
`roads.json`, with the interval of the difference, by the fitted reward and by `gold`, which knows nothing of the pairs. Both answer with their
likeliest tokens. The fitted reward flatters the road that used it, so without a `gold` nothing is shown but that.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.environments.records import Records
from tempering.methods.rewards.judged import Judged
from tempering.methods.rewards.weighted import Weighted
from tempering.methods.scopes.full import Full
from tempering.recipes.rl import refuse
from tempering.rollouts.settings import Rollouts

if TYPE_CHECKING:
    from tempering.types import Policy, Scores

CATALOGUE = ("S111",)
FILE = "roads.json"


def roads(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo-pairs",
    test: str | None = None,
    shape: str = "auto",
    gold: str = "",
    beta: Annotated[float, Field(gt=0)] = 0.1,
    rollouts: Rollouts = Rollouts(samples=4),
    template: str | None = None,
    max_length: int = 1024,
    max_new_tokens: Annotated[int, Field(ge=1)] = 128,
    reward_steps: Annotated[int, Field(ge=1)] = 100,
    reward_lr: Annotated[float, Field(gt=0)] = 1e-4,
    scope: Full = Full(),
    optimizer: Optimizer = Optimizer(lr=2e-5),
    schedule: Schedule = Schedule(name="constant", warmup=0.05),
    training: Training = Training(steps=100, batch_size=8, micro_tokens=4096),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Learn from pairs by DPO, and from the same start by a reward model of these pairs with online DPO; compare.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of pairs (chosen/rejected, or a prompt with rated responses).
        test: held-out rows, whose prompts are answered; by default some of the data.
        shape: how to read the rows.
        gold: what answers are truly worth: a reward by name with its fields, in the form of a term of `weighted`, for example
            "exact_answer(rule=text)"; none by default.
        beta: of both roads.
        rollouts: what the online road samples between updates.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest pair in tokens; longer ones are dropped and counted.
        max_new_tokens: longest answer.
        reward_steps: optimizer steps of the reward model.
        reward_lr: its learning rate.
        scope: which weights may move.
        training: of each road.
        seed: of the order of rows, sampling, dropout and initialisation.
    """
    from tempering.methods.objectives.dpo import DPO
    from tempering.methods.probes.episode_reward import EpisodeReward

    refuse(training)
    if not training.steps:
        raise UserError("roads: say how many steps each road has, with --steps")
    try:
        true = Weighted(of=gold) if gold else None
    except ValidationError as error:
        raise UserError(f"--gold: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    run = Experiment.begin(roads, locals())
    scorer = Path("reward") if run.rehearses else run.folder.path / "reward" / "model"
    prompts = Records(data=data, test=test, shape=shape, reward=Judged(model=str(scorer)))
    start = run.load(model, template=template)
    pairs = _pairs(start, prompts, max_length)
    asked: dict[str, Any] = {"n": budget.max_test, "max_new_tokens": max_new_tokens, "side": "target"}
    probes = [EpisodeReward(name="by the fitted reward", environment=prompts, **asked)]
    if true is not None:
        probes.append(EpisodeReward(name=f"by {gold}", environment=prompts.model_copy(update={"reward": true}), **asked))

    if not run.rehearses:  # A plan ends at a run's first training: DPO on the pairs.
        _fitted(run, start, prompts, max_length)
    before = run.measure("before", start, (), probes=probes)
    offline = run.fit("offline", _again(start), DPO(beta=beta), pairs, (), (_shuffled(run, pairs), training.steps))
    beside = run.measure("offline", offline, (), probes=probes, only=probes)
    tuned = _online(run, _again(start), prompts)
    after = run.measure("after", tuned, (), probes=probes)
    found = told(before, beside, after)
    run.folder.write(FILE, found)
    for name, of in found.items():
        span = "" if of["interval"][0] is None else f" [{of['interval'][0]:+.3g}, {of['interval'][1]:+.3g}]"
        means = ", ".join(f"{road} {of[road]:.3g}" for road in ("start", "offline", "online"))
        run.display.say(f"{name}: {means}; online - offline {of['online - offline']:+.3g}{span}")
    return run.finish(tuned, before, after)


def _again(policy: Policy) -> Policy:
    return replace(policy, model=copy.deepcopy(policy.model), handle=None)


def _shuffled(run: Experiment, rows: Any) -> Any:
    from tempering.data.streams import Shuffled

    return Shuffled(rows, run.values["training"].batch_size, run.values["seed"])


def _pairs(policy: Policy, prompts: Records, longest: int) -> list[Any]:
    """The pairs as DPO sees them.

    Raises:
        UserError: there are none.
    """
    from tempering.data import pair_row

    rows = [row for record in prompts.tasks("train") if (row := pair_row(record, policy.tokenizer, max_length=longest)) is not None]
    if not rows:
        raise UserError(f"data {prompts.data}: no row is a pair of at most {longest} tokens; give rows with chosen and rejected, or rated responses")
    return rows


def _fitted(run: Experiment, start: Policy, prompts: Records, longest: int) -> None:
    """The reward model of the pairs, saved in the run folder."""
    from tempering import models
    from tempering.data import rewarded_row
    from tempering.methods.objectives.bradley_terry import BradleyTerry

    rows = [row for record in prompts.tasks("train") if (row := rewarded_row(record, start.tokenizer, max_length=longest)) is not None]
    optimizer = run.values["optimizer"].model_copy(update={"lr": run.values["reward_lr"]})
    judge = models.with_outputs(_again(start), 1)
    run.fit("reward", judge, BradleyTerry(), rows, (), (_shuffled(run, rows), run.values["reward_steps"]), optimizer=optimizer)


def _online(run: Experiment, policy: Policy, prompts: Records) -> Policy:
    """The policy after online DPO by the fitted reward, on the pairs' prompts."""
    from tempering.methods.credits.leave_one_out import LeaveOneOut
    from tempering.methods.objectives.online_dpo import OnlineDPO
    from tempering.rollouts.stream import Conversations

    v, training = run.values, run.values["training"]
    objective, tasks = OnlineDPO(beta=v["beta"]), prompts.tasks("train")
    how: Any = {"training": training, "max_new_tokens": v["max_new_tokens"], "seed": v["seed"]}
    stream: Any = Conversations(policy.tokenizer, prompts, tasks, LeaveOneOut(), v["rollouts"], **how)
    return run.fit("fit", policy, objective, tasks, (), (stream, training.steps))  # type: ignore[arg-type]


def told(start: Scores, offline: Scores, online: Scores) -> dict[str, Any]:
    """What answers are worth on average, by each reward, and how much more on the online road: a paired interval over the prompts."""
    from tempering.stats import mean_interval

    found: dict[str, Any] = {}
    of = [{probe.probe: {item.id: item.score for item in probe.items} for probe in scores.probes} for scores in (start, offline, online)]
    for name, items in of[1].items():
        both = [item for item in items if item in of[2][name]]
        more = mean_interval([of[2][name][item] - items[item] for item in both])
        means = {
            road: sum(scores.values()) / len(scores) for road, scores in zip(("start", "offline", "online"), (one[name] for one in of), strict=True)
        }
        found[name] = {**means, "online - offline": more.point, "interval": [more.low, more.high], "prompts": len(both)}
    return found
