"""ECO, embedding-corrupted prompts: nothing is trained; a classifier flags prompts about what is to go, and those are read through noise.

Liu et al. 2024 (S043, arXiv 2406.07933). The classifier and its threshold come from the forget and retain rows, the noise from a search that needs
forward passes only: it moves sigma until the flagged answers are as probable as `aim` says. The weights stay, so whoever holds them holds everything:
it is a method for models behind an interface, measured here as such.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from tempering.config import Budget
from tempering.experiment import Experiment, Report
from tempering.forgetting.attacked import Attacked, Request

CATALOGUE = ("S043",)


def eco(
    model: str = "builtin:tiny",
    request: Request = Request(),
    sigma: Annotated[float, Field(ge=0)] = 1.0,
    dims: Annotated[int, Field(ge=0)] = 0,
    aim: Annotated[float, Field(ge=0, le=1)] = 0.1,
    search_steps: Annotated[int, Field(ge=0)] = 5,
    search_rate: Annotated[float, Field(gt=0)] = 2.0,
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.05,
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Put a gate before a model that corrupts prompts about what is to be forgotten, and try to get it out all the same.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        request: what is to go and to stay, and how it is attacked.
        sigma: the noise to begin with, in standard deviations of the embeddings.
        dims: how many of an embedding's first numbers are moved; 0 moves all.
        aim: how probable a token of a forget answer shall be on average; that of a model that never saw them.
        search_steps: steps of the search for sigma; 0 keeps it.
        search_rate: how far a step goes for a slope of 1.
        false_alarms: the largest share of other prompts that may be flagged.
        seed: of the noise and of what is held out.
    """
    from tempering.forgetting import corrupt
    from tempering.measure import logps_of
    from tempering.types import Policy, Segment

    case = Attacked(Experiment.begin(eco, locals()))
    run, policy = case.run, case.policy
    run.trains_nothing()
    case.before(decodes=True)
    gone: list[Segment] = [s for row in case.going for s in row["forget"]]
    calm: list[Segment] = [s for row in case.staying for s in row["retain"]]
    held: list[Segment] = [s for row in case.held for s in row["retain"]]
    apart = min(500, max(1, len(calm) // 5))
    gate = corrupt.learn_gate(gone, calm[apart:] or calm, vocabulary=policy.model.config.get_text_config().vocab_size)  # type: ignore[union-attr]
    gate = replace(gate, threshold=corrupt.threshold(corrupt.probabilities(gate, calm[:apart]), false_alarms))
    caught, alarms = (sum(p >= gate.threshold for p in corrupt.probabilities(gate, of)) / len(of) for of in (gone, held))
    run.display.say(f"the gate flags {caught:.0%} of the forget prompts and {alarms:.0%} of the held-out others")
    pairs = [corrupt.pair_of(s) for s in gone[:: max(1, len(gone) // 40)]]

    def guarded(noise: float) -> Policy:
        return corrupt.guarded(policy, gate, noise, dims=dims, seed=seed)

    def off(noise: float) -> float:
        found = [float(logp.exp().mean()) for logp in logps_of(guarded(noise), pairs)]
        return abs(sum(found) / len(found) - aim)

    if search_steps:
        with run.display.phase("searching how much noise it takes", search_steps):
            sigma = corrupt.search(off, sigma, rate=search_rate, width=0.1, steps=search_steps)
        run.display.say(f"sigma {sigma:.3g}: a forget answer's token is off its aim by {off(sigma):.3f}")
    return case.after(guarded(sigma))
