"""R1-Searcher: learn to search, then learn to answer by what is found.

Song et al. 2025, arXiv 2503.05592 (S062). Both stages are reinforcement on questions with a search over passages (`--env search`), in which what was
found is read and never learned. The first pays 0.5 for the first search that is in order and 0.5 for a well-formed answer, whatever it says; the
second pays F1 with the right answer, and 2 less for a bad form (`methods/rewards/answer_f1.py`). Searching earns nothing by itself then. Advantages
are REINFORCE++'s (returns, whitened over the step), ratios are clipped, a question has 16 conversations; the price of a nat is `--rollouts.kl_cost`.
Questions of the second stage are others than those of the first. The paper picks questions of each stage by how hard they are; that is left to
`--env.data`. A call is JSON here, in the form that chat templates teach, not text between tokens of its own. All weights train.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.credits import AnyCredit
from tempering.methods.credits.returns import Returns
from tempering.methods.environments.search import Search
from tempering.methods.rewards.answer_f1 import AnswerF1
from tempering.methods.scopes.full import Full
from tempering.recipes.rl import AnyAlgorithm, act, refuse
from tempering.rollouts.settings import Rollouts

if TYPE_CHECKING:
    from tempering.types import Policy

CATALOGUE = ("S062",)


def searching(env: Search) -> Search:
    """The environment of the first stage: the same questions, paid for the first search and for the form."""
    return env.model_copy(update={"searching": 0.5, "reward": AnswerF1(right=0.0, formed=0.5, malformed=0.0)})


def r1_searcher(
    model: str = "builtin:smollm2-135m",
    env: Search = Search(reward=AnswerF1()),
    algorithm: AnyAlgorithm = choices.choice("grpo")(),
    credit: AnyCredit = Returns(whiten=True),
    rollouts: Rollouts = Rollouts(samples=16),
    template: str | None = None,
    tasks: Annotated[int | None, Field(ge=2)] = None,
    max_new_tokens: Annotated[int, Field(ge=1)] = 128,
    attempts: Annotated[int, Field(ge=1)] = 1,
    search_steps: Annotated[int, Field(ge=1)] = 50,
    scope: Full = Full(),
    optimizer: Optimizer = Optimizer(lr=2e-5),
    schedule: Schedule = Schedule(name="constant", warmup=0.05),
    training: Training = Training(steps=100, batch_size=8, micro_tokens=4096),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Learn to search by what searching earns, then to answer by what answers earn.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        env: the questions, the passages, and what an answer earns in the second stage.
        algorithm: what is wanted of sampled tokens with advantages.
        credit: how rewards become advantages.
        rollouts: what is sampled between updates.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        tasks: at most this many of the environment's training tasks, half for each stage.
        max_new_tokens: longest turn of the policy.
        attempts: above 1, each test task is also tried so often with sampled tokens: what the best attempt earns, and what most agree on.
        search_steps: optimizer steps of the first stage.
        scope: which weights may move; an adapter would lie on weights that the first stage changed.
        training: of the second stage; the first takes as many tasks a step.
        seed: of the order of tasks, sampling, dropout and initialisation.
    """
    import copy
    from dataclasses import fields, replace

    from tempering.data.streams import Shuffled
    from tempering.rollouts.stream import Conversations, longest
    from tempering.types import Role, Stream

    refuse(training)
    if "value" in credit.asks:
        raise UserError(f"--credit {credit.kind} wants a critic, and the first stage has none; take another credit")
    algorithm = choices.value(algorithm)
    run = Experiment.begin(r1_searcher, {**locals(), "algorithm": algorithm})
    objective = algorithm.build()
    if "budget" in {field.name for field in fields(objective)}:
        objective = replace(objective, budget=max_new_tokens)
    asked: Any = env.tasks("train", tasks)
    if len(asked) < 2:
        raise UserError(f"environment {env.name}: it has one question to learn from, and each stage needs one at least")
    first, second = asked[: len(asked) // 2], asked[len(asked) // 2 :]

    def warm(policy: Policy) -> Policy:
        stream: Stream = Conversations(
            policy.tokenizer, searching(env), first, credit, rollouts.model_copy(update={"staleness": 0, "samplers": 0}), training=training,
            max_new_tokens=max_new_tokens, seed=seed,
        )  # fmt: skip
        if run.rehearses:
            stream = Shuffled(longest(policy.tokenizer, first, rollouts.samples, max_new_tokens, objective.needs), training.batch_size)
        roles = {"reference": Role(copy.deepcopy(policy.model))} if rollouts.kl_cost else {}
        return replace(run.fit("stage-1", policy, objective, first, (), (stream, search_steps), roles=roles), handle=None)

    return act(run, objective, warm, second)
