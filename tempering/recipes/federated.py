"""Federated averaging, and a client who leaves: the stored updates of one client are taken out of every round, and a few rounds more mend the rest.

    theta <- sum_c share_c theta_c   each round            without client k:  theta' = theta_0 + sum_rounds [ sum_{c != k} share'_c theta_c - theta ]

McMahan et al. 2017 (FedAvg, arXiv 1602.05629); removal by rolling back stored updates and calibrating, as the survey of federated unlearning has it
(S096, after Liu et al. 2021, FedEraser). Shares are by rows. In the last round, and so where there was one, the result is exactly the average over
the other clients; before that the others' updates began from weights that the leaving client had moved, which the rounds of recalibration mend and
nothing undoes for certain. The clients are simulated one after the other in this process: what is measured is the arithmetic, not a network. A
client's rows are those of one hash, so they do not depend on the others'.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.experiment import Experiment, Report
from tempering.forgetting.attacked import Attacked, Request
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.full import Full
from tempering.types import Policy, Row

if TYPE_CHECKING:
    from torch import Tensor

CATALOGUE = ("S096",)


def federated(
    model: str = "builtin:tiny",
    request: Request = Request(forget="builtin:authors-forget", retain="builtin:authors-retain"),
    clients: Annotated[int, Field(ge=2)] = 4,
    rounds: Annotated[int, Field(ge=1)] = 3,
    recalibrate: Annotated[int, Field(ge=0)] = 1,
    scope: AnyScope = Full(),
    optimizer: Optimizer = Optimizer(lr=1e-3),
    schedule: Schedule = Schedule(),
    training: Training = Training(epochs=1),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Train a model by federated averaging, take one client's updates out again, and try to get its rows out.

    Args:
        model: what the first round starts from, and which saw none of the rows: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        request: what is to go and to stay, and how it is attacked.
        clients: how many, with the one that leaves; some may get no rows and take no part.
        rounds: of averaging, before the client leaves; `training` is what a client does in a round.
        recalibrate: rounds among the other clients afterwards.
        scope: which weights a client may move, full or lora; what is averaged are whole weights.
        seed: of the first client's first round; every training after has the next one.
    """
    from tempering import models
    from tempering.forgetting import battery
    from tempering.forgetting.oracle import Chained
    from tempering.forgetting.shards import averaged, sharded
    from tempering.methods.objectives.nll import NLL
    from tempering.models.save import plain_model

    case = Attacked(Experiment.begin(federated, locals()))
    run, start, watched = case.run, case.policy, battery.Renamed(case.held, "retain")
    others = {f"client-{c}": of for c, of in enumerate(sharded(Chained((case.staying, "retain")), clients - 1), 1) if len(of)}
    everyone: dict[str, Sequence[Row]] = {"leaving": Chained((case.going, "forget")), **others}

    def weights(model: Any) -> dict[str, Tensor]:
        # A plan's have no contents that could move.
        return {name: (p if p.is_meta else p.cpu()).detach().double() for name, p in model.state_dict().items()}

    def with_weights(of: Mapping[str, Tensor]) -> Policy:
        made: Any = copy.deepcopy(start.model)
        made.load_state_dict(of)
        return Policy(made.requires_grad_(False).eval(), start.tokenizer, name=f"{start.name} + federated", source=start.source)

    def round_of(number: int, theta: Mapping[str, Tensor], who: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, Tensor]]:
        """Every client's weights after the round."""
        found = {}
        for client, rows in who.items():
            name = f"round-{number}-{client}"
            # A client's seed does not depend on who else takes part.
            offset = number * clients + list(everyone).index(client)
            found[client] = weights(plain_model(run.fit(name, with_weights(theta), NLL(), rows, watched, offset=offset)))
        return found

    def mean(of: Mapping[str, Mapping[str, Tensor]], who: Sequence[str]) -> dict[str, Tensor]:
        rows = [len(everyone[client]) for client in who]
        return averaged([of[client] for client in who], [n / sum(rows) for n in rows])

    theta = without = weights(start.model)
    for number in range(rounds):
        made = round_of(number, theta, everyone)
        without = averaged([without, mean(made, list(others)), theta], [1.0, 1.0, -1.0])
        theta = mean(made, list(everyone))
    taught = run.cost["seconds"]
    knowing = with_weights(theta)
    run.model_spec = str(models.save(knowing, run.folder.path / "knowing"))
    case.before(knowing)
    for number in range(rounds, rounds + recalibrate):
        without = mean(round_of(number, without, others), list(others))
    spent = run.cost["seconds"] - taught
    run.display.say(f"{rounds} rounds of {len(everyone)} clients took {taught:.1f} s; leaving took {spent:.1f} s of training")
    return case.after(with_weights(without), cost={"unlearning": {"seconds": spent}, "retraining": {"seconds": taught}})
