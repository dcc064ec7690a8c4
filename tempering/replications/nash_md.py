"""Where preferences run in a circle, playing against a mixture with the start model ends where no answer beats the policy; a reward picks one.

Munos et al. 2023 (arXiv 2312.00886) learn from preferences of one answer over another: with a preference model, and an opponent between the policy
and the start model, the policy comes near the Nash equilibrium, while reinforcement by a Bradley-Terry reward raises one answer. Here a request has
three answers of a word; the first is preferred to the second, and that to the third, nine times in ten, the third to the first eight times. The
preference is exact. The baseline gets the differences of the Bradley-Terry rewards that fit these figures best, made as large as the figures' own,
against its own answers; for it the first answer is the best, and the third beats that. Both take as many steps of as many samples by the same loss,
with the same tau. The score is the exploitability, the chance of the best single answer against the policy less a half: 0 at the equilibrium without
a pull, 0.3 where the policy always gives the first. Rate and tau are the better of two pairs on seed 100, which is
none of the seeds that count; plain self-play stands beside.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tempering.against import Against, Prefer
from tempering.config import Schedule
from tempering.making import answer, user
from tempering.measure import logps_of
from tempering.methods.decodes.geometric import Geometric
from tempering.methods.objectives.nash_md import NashMD
from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import fingerprint, scratch, sft_rows, train
from tempering.proof.small import start as kept
from tempering.types import Message, Policy, Record, Role

CLAIM = Claim(
    method="nash_md",
    catalogue=("S051",),
    title="Nash-MD against reinforcement by a Bradley-Terry reward, where preferences run in a circle",
    claim="After as many steps, no single answer beats the policy by as much as it beats one trained by a Bradley-Terry reward.",
    baseline="the same policy gradient on the preference of the Bradley-Terry model that fits best",
    metric="exploitability",
    smallest_effect=0.05,
    higher_is_better=False,
    range=(0.0, 0.4),
)
WORDS = ("tea", "bread", "soup")
ASKED = (user("Choose."),)
GAME = np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.9], [0.8, 0.1, 0.5]])
"""P(row over column)."""
LR, TAU = 3e-4, 0.1
STEPS, SAMPLES = 120, 32


def bradley_terry(game: np.ndarray) -> np.ndarray:
    """The preferences that the rewards which fit a game best stand for: their differences, as large as the game's at most."""
    reward = np.zeros(len(game))
    for _ in range(2000):
        reward += 0.5 * (game - 1 / (1 + np.exp(reward[None] - reward[:, None]))).sum(1)
    apart = reward[:, None] - reward[None]
    return 0.5 + apart * (game.max() - 0.5) / apart.max()


def preferring(game: np.ndarray) -> Prefer:
    """The game over texts; what is none of its words loses to a word."""

    def prefer(prompts: Sequence[tuple[Message, ...]], answers: Sequence[str], others: Sequence[str]) -> list[float]:
        places = [[WORDS.index(text) if text in WORDS else None for text in texts] for texts in (answers, others)]
        return [0.5 * ((a is not None) - (b is not None) + 1) if None in (a, b) else float(game[a, b]) for a, b in zip(*places, strict=True)]

    return prefer


def chances(policy: Policy) -> np.ndarray:
    """Of the three words, exactly, as shares of their sum."""
    rows = sft_rows(policy, [Record(ASKED, (answer(word),)) for word in WORDS])
    segments = [row["train"][0] for row in rows]
    pieces = [(s.ids[: (first := int(s.weight.argmax()))].tolist(), s.ids[first:].tolist()) for s in segments]
    chance = np.array([math.exp(float(logp.sum())) for logp in logps_of(policy, pieces)])
    return chance / chance.sum()


def exploitability(chance: np.ndarray) -> float:
    """The best single answer's chance against the policy, less a half."""
    return float((GAME @ chance).max()) - 0.5


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Exploitability, and the chances of the three answers."""
    new = scratch(seed, num_hidden_layers=2, hidden_size=64)
    rows = sft_rows(new, [Record(ASKED, (answer(word),), id=word) for word in WORDS])
    begin = {"claim": "nash_md", "seed": seed, "rows": fingerprint(rows), "steps": scale(60)}
    start = kept(begin, lambda: train(new, NLL(), rows, steps=scale(60), seed=seed, lr=3e-3, batch_size=3))

    def played(game: np.ndarray, opponent: tuple[Any, ...] = ()) -> np.ndarray:
        stream = Against([ASKED], start.tokenizer, preferring(game), opponent=opponent, batch_size=1, n=SAMPLES, max_new_tokens=6, seed=seed)
        roles, objective = {"reference": Role(copy.deepcopy(start.model))}, NashMD(tau=TAU, scores="preferences")
        return chances(train(start, objective, stream, steps=scale(STEPS), seed=seed, lr=LR, roles=roles, schedule=Schedule(name="constant")))

    found = {"": played(bradley_terry(GAME))} if arm == "baseline" else {"": played(GAME, (Geometric(0.125),)), " of self-play": played(GAME)}
    chance = {f"{word}{name}": float(p) for name, chance in found.items() for word, p in zip(WORDS, chance, strict=True)}
    return {f"exploitability{name}": exploitability(chance) for name, chance in found.items()} | chance
