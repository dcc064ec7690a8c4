"""ECO, embedding-corrupted prompts: nothing is trained; a classifier flags prompts about what is to go, and those are read through noise.

Liu et al. 2024 (S043, arXiv 2406.07933). The classifier and its threshold come from the forget and retain rows, the noise from a search that needs
forward passes only: it moves sigma until the flagged answers are as probable as `aim` says. The weights stay, so whoever holds them holds everything:
it is a method for models behind an interface, measured here as such.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from tempering.config import Budget
from tempering.experiment import Experiment, Report

CATALOGUE = ("S043",)


def eco(
    model: str = "builtin:tiny",
    forget: str = "builtin:people-forget",
    retain: str = "builtin:people-retain",
    forget_test: str | None = None,
    retain_test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    sigma: Annotated[float, Field(ge=0)] = 1.0,
    dims: Annotated[int, Field(ge=0)] = 0,
    aim: Annotated[float, Field(ge=0, le=1)] = 0.1,
    search_steps: Annotated[int, Field(ge=0)] = 5,
    search_rate: Annotated[float, Field(gt=0)] = 2.0,
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.05,
    oracle: str | None = None,
    attacks: Literal["all", "plain", "none"] = "all",
    redact: bool = True,
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Put a gate before a model that corrupts prompts about what is to be forgotten, and try to get it out all the same.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        forget: file, folder or hub id of the rows that are to go.
        retain: rows that are to stay; a fifth of them, at most 500, sets the threshold.
        forget_test: the same facts in other words, to ask for beside the forget rows; builtin sets have one.
        retain_test: held-out rows of what is to stay; by default 10% of the retain rows, at most 200, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut silently.
        limit: read at most this many rows of each file.
        sigma: the noise to begin with, in standard deviations of the embeddings.
        dims: how many of an embedding's first numbers are moved; 0 moves all.
        aim: how probable a token of a forget answer shall be on average; that of a model that never saw them.
        search_steps: steps of the search for sigma; 0 keeps it.
        search_rate: how far a step goes for a slope of 1.
        false_alarms: the largest share of other prompts that may be flagged.
        oracle: a model that never saw the forget rows (retrained without them), measured beside the other two.
        attacks: all of them before and after, only plain questions, or none.
        redact: keep hashes instead of the words of forgotten rows in scores, samples and reports.
        seed: of the noise and of what is held out.
    """
    from tempering import models
    from tempering.data import forget_row, retain_row
    from tempering.forgetting import battery, corrupt
    from tempering.forgetting.redact import redacted
    from tempering.forgetting.verdict import tell
    from tempering.measure import logps_of
    from tempering.types import Policy, Segment

    run = Experiment.begin(eco, locals())
    policy = run.load(model, template=template)
    going = run.all_rows("forget", forget, forget_row, shape=shape, limit=limit, max_length=max_length)
    staying, held = run.rows(retain, retain_test, retain_row, roles=("retain", "retain-test"), shape=shape, limit=limit, max_length=max_length)
    asked = battery.probes(run, held, decodes=True)
    hide = redacted if redact else lambda scores: scores
    before = run.measure("before", policy, held, probes=asked, hide=hide)
    never = run.measure("oracle", models.load(oracle, say=run.display.say), held, probes=asked, hide=hide) if oracle else None

    run.trains_nothing()
    gone: list[Segment] = [s for row in going for s in row["forget"]]
    calm: list[Segment] = [s for row in staying for s in row["retain"]]
    apart = min(500, max(1, len(calm) // 5))
    gate = corrupt.learn_gate(gone, calm[apart:] or calm, vocabulary=policy.model.config.get_text_config().vocab_size)  # type: ignore[union-attr]
    gate = replace(gate, threshold=corrupt.threshold(corrupt.probabilities(gate, calm[:apart]), false_alarms))
    caught = sum(p >= gate.threshold for p in corrupt.probabilities(gate, gone)) / len(gone)
    alarms = sum(p >= gate.threshold for p in corrupt.probabilities(gate, [s for row in held for s in row["retain"]])) / len(held)
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
    tuned = guarded(sigma)
    models.save(tuned, run.folder.path / "model")
    after = run.measure("after", tuned, held, probes=asked, hide=hide)
    tell(run, before, after, never)
    return run.finish(tuned, before, after)
