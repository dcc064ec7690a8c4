"""Training a reward model on chosen/rejected pairs: a language model's body with a number per answer instead of words, read at its last token.

Every file of `methods/objectives` that says `FAMILY = "reward"` is a loss of this recipe. What is saved is a transformers sequence classifier:
`AutoModelForSequenceClassification` opens it, with adapters folded in. It writes nothing, so there is no keep battery to measure it on: the ledger
says how often it scores the better of two held-out answers higher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.recipes._family import train, writes_nothing

FAMILY = "reward"
if TYPE_CHECKING:
    from tempering.types import Policy

    AnyReward = Any
else:
    AnyReward = choices.family(FAMILY)


def reward(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo-ratings",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    prior: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    loss: AnyReward = choices.default(FAMILY, "bradley_terry"),
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=1e-4),
    schedule: Schedule = Schedule(warmup=0.1),
    training: Training = Training(),
    budget: Budget = Budget(keep="none"),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Train a reward model on chosen/rejected pairs.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m; its output head is not used. A reward model is trained on.
        data: file, folder or hub id of pairs (chosen/rejected, or a prompt with rated responses); builtin:demo-ratings is made for this project.
        test: held-out pairs; by default 10% of the data, at most 200 pairs, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        prior: for segment_reward: the model whose next-token entropy says where an answer's segments begin, with the same tokenizer; by default the
            start model.
        max_length: longest sequence in tokens; pairs over it are dropped and counted, never cut silently.
        limit: read at most this many rows.
        loss: what is wanted of the answers' rewards.
        scope: which weights of the body may move, full or lora; the new head always trains.
        seed: of shuffling, dropout, initialisation and sampling.
    """
    from tempering.data import Again, Numbered, rewarded_row

    writes_nothing(budget)
    loss = choices.value(loss)
    run = Experiment.begin(reward, {**locals(), "loss": loss})
    objective = loss.build()
    outputs = len(getattr(objective, "attributes", ())) or 1

    def hesitant(rows: Any, held: bool) -> Any:
        return run.cache_reference(writer(run, prior or model), rows, column="prior.entropy")[0]

    asked = frozenset().union(*objective.needs.values(), objective.needs)
    views = {"index": Numbered, "prior.entropy": hesitant, "chosen_again": Again}
    view = next((view for name, view in views.items() if name in asked), None)
    return train(run, objective, rewarded_row, view, outputs=outputs, trained=_places if "prior.entropy" in asked else None)


def _places(run: Experiment, tuned: Policy, rows: Any) -> None:
    """What rewards segments get by their place, for whoever learns from them: `location.json`."""
    from dataclasses import asdict

    from tempering.methods.rewards.location_aware import LocationAware

    v = run.values
    with run.display.phase("rewards by place"):
        found = LocationAware.of(tuned, rows, v["loss"].cutoff, v["training"])
    run.folder.write("location.json", asdict(found))


def writer(run: Experiment, spec: str) -> Policy:
    """A language model beside a run's reward model, which reads the same tokens.

    Raises:
        UserError: it has no vocabulary, or another one.
    """
    from tempering import models
    from tempering.types import Policy

    found = models.load(spec, say=lambda _: None)
    if hasattr(found.model, "value_head"):
        raise UserError(f"{spec}: it is a reward model and writes nothing; name the language model that wrote the answers (--prior, --policy)")
    if found.tokenizer.backend_tokenizer.to_str() != run.tokenizer.backend_tokenizer.to_str():
        raise UserError(f"{spec}: its tokenizer is another than the reward model's; take a model of the same family")
    return Policy(found.model, run.tokenizer, name=found.name, source=found.source)
