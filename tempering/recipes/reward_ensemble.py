"""Training several reward models that differ in their seeds, to be used as one: `temper run reward_ensemble --members 5`.

Coste et al. 2023, arXiv 2310.02743 (`methods/rewards/ensemble.py`). Each member starts from the same model with a random head of its own and sees the
pairs in an order of its own; its metrics and checkpoints lie in `member-K`, so a run that was stopped goes on with the member it was at. `model/` has
the members and `ensemble.json`; probes take the folder where they take a reward model's. The ledger says
how often the ensemble scores the better of two held-out answers higher; each member by itself is in `member-K.scores.json`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.home import write_atomic
from tempering.methods.rewards.ensemble import Ensemble, How
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.recipes._family import writes_nothing
from tempering.recipes.reward import FAMILY, AnyReward

if TYPE_CHECKING:
    from tempering.types import Policy


def reward_ensemble(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo-ratings",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    loss: AnyReward = choices.default(FAMILY, "bradley_terry"),
    members: Annotated[int, Field(ge=1)] = 5,
    how: How = "worst",
    penalty: Annotated[float, Field(ge=0)] = 0.5,
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=1e-4),
    schedule: Schedule = Schedule(warmup=0.1),
    training: Training = Training(),
    budget: Budget = Budget(keep="none"),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Train several reward models on the same pairs, to be used as one reward.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m; its output head is not used.
        data: file, folder or hub id of pairs (chosen/rejected, or a prompt with rated responses); builtin:demo-ratings is made for this project.
        test: held-out pairs; by default 10% of the data, at most 200 pairs, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; pairs over it are dropped and counted, never cut silently.
        limit: read at most this many rows.
        loss: what is wanted of the answers' rewards; of those with one output.
        members: how many reward models; each has a seed of its own.
        how: what their scores become: their mean, the worst of them, or their mean less penalty times their variance (uncertainty).
        penalty: for uncertainty; the paper has 0.5 for best-of-n and 0.1 for PPO.
        scope: which weights of the body may move, full or lora; the new head always trains.
        seed: of the first member; the others have the next ones.
    """
    import torch

    from tempering.data import Numbered, rewarded_row
    from tempering.methods.probes.held_score import HeldScore
    from tempering.methods.rewards._saved import FILE
    from tempering.methods.rewards.reward_model import RewardModel
    from tempering.scored import Rewards

    writes_nothing(budget)
    loss = choices.value(loss)
    run = Experiment.begin(reward_ensemble, {**locals(), "loss": loss})
    objective = loss.build()
    if len(getattr(objective, "attributes", ())) > 1 or "prior.entropy" in objective.needs.get("chosen", ()):
        raise UserError(f"reward_ensemble: loss {loss.kind} has more than one output, or reads rewards elsewhere than at the end; take another")

    def start(member: int) -> Policy:
        policy: Any = run.load(model, template=template, outputs=1)
        torch.manual_seed(seed + member)
        torch.nn.init.normal_(policy.model.value_head.weight, std=0.02)
        return policy

    policies = [start(0)]
    learned, held = run.rows(data, test, rewarded_row, shape=shape, limit=limit, max_length=max_length)
    run.check(objective, learned)
    train, watched = (Numbered(rows, held=i == 1) if "index" in objective.needs["chosen"] else rows for i, rows in enumerate((learned, held)))
    before = run.measure("before", policies[0], held, objective, watched)
    for member in range(members):
        policy = policies.pop() if member == 0 else start(member)
        policies.append(run.fit(f"member-{member}", policy, objective, train, watched, offset=member, to=f"model/{member}"))
        run.measure(f"member-{member}", policies[-1], held, objective, watched)
    said = {"how": how, "penalty": penalty, "members": [str(member) for member in range(members)]}
    write_atomic(run.folder.path / "model" / FILE, json.dumps(said))
    together = Ensemble((RewardModel(""),) * members, how, penalty).combine
    own = {"logs": "margin", "objective": Rewards(), "rows": held, "training": training, "limit": budget.max_test}
    probe = HeldScore(name="held_reward", members=tuple(policies), combine=together, **own)
    return run.finish(policies[0], before, run.measure("after", policies[0], held, only=(probe,)))
