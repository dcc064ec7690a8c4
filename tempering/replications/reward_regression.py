"""One reward model with an output for each attribute serves every direction better than scalar models that share its budget.

Wang et al. 2024 (arXiv 2402.18571, directional preference alignment) fit a reward model to several ratings by regression; a user's preference is a
direction in their space, chosen after training, where a scalar reward has it built in. Here a reply is rated 0 to 1 for how well it serves (on the
topic, courteous) and for how long it is, with noise, and directions run from serving alone to length alone. The baseline trains a scalar model for
each of five directions, on the same rated replies; all five together take as many steps as the one model of the method. Scored on held-out pairs: is
the reply with the higher true value in a direction scored higher, on average over the directions? What one scalar model of the direction in the
middle, trained for all steps, makes of all directions stands beside it. The learning rate is the best of 3e-4, 1e-3 and 3e-3 for each arm on seed
100, which is none of the seeds that count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tempering.data import ranked_row
from tempering.methods.objectives.reward_regression import RewardRegression
from tempering.methods.rewards.reward_model import RewardModel
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import tiny, train
from tempering.types import Policy, Row
from tempering.worlds.base import Item, rng
from tempering.worlds.preferences import Gold, Preferences

CLAIM = Claim(
    method="reward_regression",
    catalogue=("S237",),
    title="One reward model of two attributes against a scalar model for each of five directions, at as many steps in all",
    claim="After as many steps in all, one model of two outputs orders held-out pairs by value in any direction better than five scalar models.",
    baseline="a scalar reward model for each direction, a fifth of the steps each",
    metric="pair accuracy",
    smallest_effect=0.03,
)
RATES = {"baseline": 3e-3, "method": 3e-3}
NOISE = 0.5
ANGLES = tuple(math.radians(angle) for angle in (0.0, 22.5, 45.0, 67.5, 90.0))
DIRECTIONS = tuple((math.cos(angle), math.sin(angle)) for angle in ANGLES)
_SERVES = Gold(length=0)


def ratings(prompt: str, reply: str) -> tuple[float, float]:
    """How well a reply serves and how long it is, each about 0 to 1."""
    return _SERVES(prompt, reply) / 3, len(reply.split()) / 40


def rated(rows: Sequence[Row], seen: np.ndarray, directions: Sequence[tuple[float, float]]) -> list[Row]:
    """Rows whose replies have a column for each direction: its product with the ratings seen [N, 2, 2]."""
    made = []
    for row, ratings_22 in zip(rows, seen, strict=True):
        both = zip(row["responses"], ratings_22, strict=True)
        columns = [(s, {f"value{k}": float(np.dot(r, direction)) for k, direction in enumerate(directions)}) for s, r in both]
        made.append({"train": tuple(replace(s, extras=values) for s, values in columns)})
    return made


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Share of held-out pairs in the order of their true values, over directions; and of directions one by one."""
    import torch

    from tempering.models.value import ValueModel

    world, start, steps = Preferences(seed=seed), tiny(), scale(60)
    records = list(world.records("train", 8 * steps, view="ratings"))
    rows = [row for record in records if (row := ranked_row(record, start.tokenizer))]
    true = [[ratings(record.prompt[0].content, r.messages[0].content) for r in record.responses] for record in records]
    seen = np.array(
        [[[x + rng("rating", seed, i, j, k).gauss(0, NOISE) for k, x in enumerate(r)] for j, r in enumerate(t)] for i, t in enumerate(true)]
    )

    def fitted(directions: Sequence[tuple[float, float]], steps: int) -> RewardModel:
        model = ValueModel(tiny().model, outputs=len(directions))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            torch.nn.init.normal_(model.value_head.weight, std=0.02)
        objective = RewardRegression(tuple(f"value{k}" for k in range(len(directions))))
        tuned = train(Policy(model, start.tokenizer), objective, rated(rows, seen, directions), steps=steps, seed=seed, lr=RATES[arm], batch_size=8)
        return RewardModel(tuned, direction=(1.0,) + (0.0,) * (len(directions) - 1))

    items: list[Item] = list(world.items("test", scale(300)))
    asked = [(item["prompt"], item[key]) for item in items for key in ("answer", "worse")]
    gold = np.array([ratings(*pair) for pair in asked])
    prompts, replies = zip(*asked, strict=True)

    def share(values: np.ndarray, direction: tuple[float, float]) -> float:
        found, wanted = (np.subtract(x[::2], x[1::2]) for x in (values, gold @ np.array(direction)))
        return float((np.sign(found) == np.sign(wanted))[wanted != 0].mean())

    others: dict[str, float] = {}
    if arm == "method":
        outputs = fitted(((1.0, 0.0), (0.0, 1.0)), steps).outputs(prompts, replies)
        shares = [share(outputs @ np.array(direction), direction) for direction in DIRECTIONS]
    else:
        shares = [share(fitted([direction], steps // len(DIRECTIONS))(prompts, replies), direction) for direction in DIRECTIONS]
        middle = fitted([DIRECTIONS[2]], steps)(prompts, replies)
        others = {"one scalar for all": float(np.mean([share(middle, direction) for direction in DIRECTIONS]))}
    by_angle = {f"at {math.degrees(angle):g} degrees": value for angle, value in zip(ANGLES, shares, strict=True)}
    return {"pair accuracy": float(np.mean(shares)), **by_angle, **others}
