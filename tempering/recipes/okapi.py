"""Okapi: in one language after another, learn from demonstrations, fit a reward model to ranked answers, and go on by PPO with that reward.

Lai et al. 2023, arXiv 2307.16039 (S215). Instructions are in 26 languages, and every language has a model of its own, made by the three steps of
InstructGPT (Ouyang et al. 2022, arXiv 2203.02155): cross-entropy on demonstrations, a Bradley-Terry reward model that begins with the fine-tuned
model, PPO on prompts alone with that model as its reference. A run is one language, `--language`: records say theirs in a field "language", and every
stage takes those of this language alone. No two stages share a prompt: what an earlier stage, or the test, has had is left out, and how many records
of which language each stage took stands in the run folder (`languages.json`). Translating instructions and ranking answers, which Okapi has done by
other models, is left to the data. All weights train.

The ledger compares the start model with the last one by the reward model; what the model after the demonstrations earns is in `sft.scores.json`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.credits import AnyCredit
from tempering.methods.credits.gae import GAE
from tempering.methods.environments.records import Records
from tempering.methods.rewards.judged import Judged
from tempering.methods.scopes.full import Full
from tempering.recipes.rl import AnyAlgorithm, act, refuse
from tempering.rollouts.settings import Rollouts
from tempering.types import Record

CATALOGUE = ("S215",)
LANGUAGE = "language"
"""The field of a record that says its language."""
FILE = "languages.json"


def spoken(records: Iterable[Record], language: str, where: str) -> list[Record]:
    """Those of a language; all, where none is asked for.

    Raises:
        UserError: a record does not say its language, or none is of this one.
    """
    every = list(records)
    if not language:
        return every
    if silent := next((record for record in every if not isinstance(record.tags.get(LANGUAGE), str)), None):
        raise UserError(f'{where}: {silent.source or "a record"} has no field "{LANGUAGE}"; give each row its language, or leave --language out')
    if not (found := [record for record in every if record.tags[LANGUAGE] == language]):
        raise UserError(f"{where}: no record is in language {language!r}; there are {', '.join(sorted({r.tags[LANGUAGE] for r in every})) or 'none'}")
    return found


class Spoken(Records):
    """Prompts of one language."""

    language: str = ""

    def tasks(self, split: Literal["train", "test"], n: int | None = None) -> Sequence[Record]:
        """As of `Records`, in this language alone."""
        return spoken(super().tasks(split), self.language, f"data {self.data}")[:n]


def okapi(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo",
    ranked: str = "builtin:demo-ratings",
    prompts: str | None = None,
    test: str | None = None,
    shape: str = "auto",
    language: str = "",
    algorithm: AnyAlgorithm = choices.choice("ppo")(),
    credit: AnyCredit = GAE(),
    rollouts: Rollouts = Rollouts(kl_cost=0.05),
    template: str | None = None,
    tasks: Annotated[int | None, Field(ge=1)] = None,
    max_length: int = 1024,
    max_new_tokens: Annotated[int, Field(ge=1)] = 128,
    attempts: Annotated[int, Field(ge=1)] = 1,
    lesson_steps: Annotated[int, Field(ge=1)] = 100,
    reward_steps: Annotated[int, Field(ge=1)] = 100,
    lesson_lr: Annotated[float, Field(gt=0)] = 2e-5,
    scope: Full = Full(),
    critic_lr: Annotated[float, Field(gt=0)] = 1e-4,
    optimizer: Optimizer = Optimizer(lr=2e-5),
    schedule: Schedule = Schedule(name="constant", warmup=0.05),
    training: Training = Training(steps=100, batch_size=8, micro_tokens=4096),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Fine-tuning, reward model and PPO in one language, no two stages with a prompt in common.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: demonstrations: file, folder or hub id.
        ranked: answers that are compared (chosen/rejected, or rated).
        prompts: what the policy answers in the third stage; by default the second half of the demonstrations, whose answers are not looked at then.
        test: held-out prompts; by default some of `prompts`.
        shape: how to read the rows.
        language: take records of this language alone, by their field "language"; by default all.
        algorithm: of the third stage.
        credit: how rewards become advantages.
        rollouts: what is sampled between updates.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        tasks: at most this many prompts of the third stage.
        max_length: longest ranked or demonstrated sequence in tokens; longer ones are dropped and counted.
        max_new_tokens: longest answer of the policy.
        attempts: above 1, each test prompt is also answered so often with sampled tokens: what the best answer earns.
        lesson_steps: optimizer steps on demonstrations.
        reward_steps: optimizer steps of the reward model.
        lesson_lr: learning rate of the first two stages.
        scope: which weights may move; an adapter would lie on weights that an earlier stage changed.
        critic_lr: learning rate of the critic.
        training: of the third stage; the others take as many rows a step.
        seed: of the order of rows, sampling, dropout and initialisation.
    """
    import copy
    from dataclasses import replace

    import torch

    from tempering import models
    from tempering.data import rewarded_row, sft_row
    from tempering.data.streams import Shuffled
    from tempering.methods.objectives.bradley_terry import BradleyTerry
    from tempering.methods.objectives.nll import NLL
    from tempering.methods.probes.episode_reward import EpisodeReward

    refuse(training)
    algorithm = choices.value(algorithm)
    run = Experiment.begin(okapi, {**locals(), "algorithm": algorithm})
    scorer = Path("reward") if run.rehearses else run.folder.path / "reward" / "model"
    env = Spoken(data=data if prompts is None else prompts, test=test, shape=shape, language=language, reward=Judged(model=str(scorer)))
    asked = env.tasks("train")
    half = len(asked) // 2
    first = asked[:half] if prompts is None else spoken(run.source(data, shape, None), language, f"data {data}")
    stages = {"sft": first, "reward": spoken(run.source(ranked, "auto", None), language, f"ranked {ranked}"), "rl": asked[half * (prompts is None) :]}
    stages = _apart(stages, env.tasks("test"))
    stages["rl"] = stages["rl"][:tasks]
    told = {stage: dict(Counter(str(record.tags.get(LANGUAGE, "")) for record in records)) for stage, records in stages.items()}
    if not run.rehearses:
        run.folder.write(FILE, {"language": language, "records": told})

    policy = run.load(model, template=template)

    def rows(stage: str, of: Any) -> list[Any]:
        made = [row for record in stages[stage] if (row := of(record, policy.tokenizer, max_length=max_length)) is not None]
        if not made:
            raise UserError(f"stage {stage}: none of its {len(stages[stage])} records gives a row to train on; look at max_length and at the data")
        return made

    lessons = rows("sft", sft_row)
    judged = rows("reward", rewarded_row)
    learn = optimizer.model_copy(update={"lr": lesson_lr})
    tuned = run.fit("sft", policy, NLL(), lessons, (), (Shuffled(lessons, training.batch_size, seed), lesson_steps), optimizer=learn)
    tuned = replace(tuned, handle=None)
    torch.manual_seed(seed)
    critic = models.with_outputs(replace(tuned, model=copy.deepcopy(tuned.model)), 1)
    run.fit("reward", critic, BradleyTerry(), judged, (), (Shuffled(judged, training.batch_size, seed), reward_steps), optimizer=learn)
    probe = EpisodeReward(name=env.name, environment=env, n=budget.max_test, max_new_tokens=max_new_tokens, side="target")
    run.measure("sft", tuned, (), probes=(probe,), only=(probe,))
    run.values = {**run.values, "env": env}
    return act(run, algorithm.build(), lambda _: tuned, stages["rl"])


def _apart(stages: dict[str, Sequence[Record]], held: Sequence[Record]) -> dict[str, list[Record]]:
    """Each stage without the prompts of the test and of the stages before it.

    Raises:
        UserError: nothing is left of one.
    """
    taken, found = {record.prompt for record in held}, dict[str, list[Record]]()
    for stage, records in stages.items():
        found[stage] = [record for record in records if record.prompt not in taken]
        if not found[stage]:
            raise UserError(f"stage {stage}: all of its {len(records)} prompts are in the test or in an earlier stage; give each stage its own")
        taken |= {record.prompt for record in records}
    return found
