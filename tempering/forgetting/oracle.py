"""The model that knows and the model that never saw: two fine-tunings of one base, with the forget rows and without them.

The second is the reference for everything that forgetting claims: what it says is no leak, how it treats its neighbours is no damage. Both are made
once for the same base, rows and settings, and kept in the store, so that several methods are compared with the same oracle; what making it took is
kept with it, because that is the price of not unlearning but training again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tempering.config import Optimizer, Schedule, Training, Value
from tempering.home import atomic_folder, store_dir
from tempering.stages import content_key
from tempering.types import Row

if TYPE_CHECKING:
    from tempering.experiment import Experiment
    from tempering.types import Policy


class Learning(Value):
    """How the base learns the rows, with and without those that are to be forgotten. Names of their own, so that `--lr` is the forgetting's."""

    learn_epochs: float = Field(default=8.0, gt=0)
    """Passes over the rows."""
    learn_lr: float = Field(default=1e-3, gt=0)
    """Learning rate of AdamW, all weights; 1e-3 suits builtin:tiny, 2e-5 a model of some billions."""
    learn_batch_size: int = Field(default=16, gt=0)
    """Rows of a step."""


class Chained(Sequence[Row]):
    """Several row lists one after the other, all under the part "train"."""

    def __init__(self, *parts: tuple[Sequence[Row], str]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(len(rows) for rows, _ in self.parts)

    def __getitem__(self, i: Any) -> Any:
        for rows, part in self.parts:
            if i < len(rows):
                return {"train": rows[i][part]}
            i -= len(rows)
        raise IndexError(i)


def learned(run: Experiment, name: str, base: str, rows: Sequence[Row], how: Learning, inputs: dict[str, Any]) -> Path:
    """The folder of `base` fine-tuned on the rows (next-token likelihood, all weights); made once for the same content.

    Args:
        name: what it is called while it trains.
        inputs: what names the content of base and rows.
    """
    key = content_key({**inputs, "learning": how.model_dump(), "seed": int(run.values.get("seed", 0)), "rows": len(rows)})
    folder = store_dir("learned") / f"{name.replace(' ', '-')}-{key[:16]}"
    if folder.is_dir():
        run.display.say(f"the {name} model was made before: {folder}")
        return folder
    from tempering import models

    made, cost = learn(run, f"{name} model", base, rows, how, int(run.values.get("seed", 0)))
    with atomic_folder(folder, existing="keep") as place:
        models.save(replace(made, source=str(folder)), place)
        (place / "cost.json").write_text(json.dumps(cost))
    run.display.say(f"the {name} model: {cost['steps']:.0f} steps, {cost['seconds']:.0f} s, loss {cost['loss']:.3f}")
    return folder


def learn(
    run: Experiment, name: str, base: str, rows: Sequence[Row], how: Learning, seed: int, folder: Path | None = None
) -> tuple[Policy, dict[str, float]]:
    """(`base` fine-tuned on the rows, next-token likelihood, all weights; what that took).

    Args:
        name: what it is called while it trains.
        folder: where checkpoints go, and from whose newest one it goes on; None keeps none.
    """
    from tempering import models
    from tempering.data.streams import Shuffled
    from tempering.fit import Stopper, fit
    from tempering.methods.objectives.nll import NLL
    from tempering.methods.scopes.full import Full
    from tempering.types import Policy, Role

    own: Training = run.values["training"]
    began, policy = time.perf_counter(), models.load(base, say=lambda _: None)
    steps = max(1, math.ceil(how.learn_epochs * len(rows) / how.learn_batch_size))
    scope: Any = Full()
    training = Training(batch_size=how.learn_batch_size, micro_tokens=own.micro_tokens, precision=own.precision, save_every=own.save_every)
    # With a folder a run that is stopped goes on from its checkpoint; without one it stops at once.
    run.stopper = Stopper() if folder else None
    with run.display.phase(f"training the {name}", steps) as phase:
        fitted = fit(
            {"policy": Role(policy.model, scope)}, NLL(), Shuffled(rows, how.learn_batch_size, seed),
            steps=steps, optimizer=Optimizer(lr=how.learn_lr), schedule=Schedule(name="cosine", warmup=0.05), training=training, seed=seed,
            folder=folder, resume=folder is not None, stopper=run.stopper,
            say=lambda _: None, on_metrics=lambda m: phase.advance(int(m["step"]), steps),
        )  # fmt: skip
    run.stopper = None
    made = Policy(fitted.roles["policy"].model, policy.tokenizer, name=name)
    return made, {"seconds": time.perf_counter() - began, "tokens": fitted.tokens, "steps": steps, "loss": fitted.metrics["loss"]}


def cost_of(model: str | Path) -> dict[str, float] | None:
    """What making a model took: of one made here, or of a run's model; None where nobody wrote it down."""
    place = Path(model)
    for path in (place / "cost.json", place.parent / "cost.json"):
        try:
            found = json.loads(path.read_text())
            return {"seconds": float(found["seconds"]), "tokens": float(found["tokens"])}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None
