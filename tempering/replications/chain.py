"""Who learns where its own steps lead makes fewer mistakes on a long walk than who learns from walks without mistakes for as long.

Sun 2023 (arXiv 2310.06147) explains what reinforcement adds to supervised fine-tuning by compounding errors: a policy that was cloned from
demonstrations meets, after a slip, states that no demonstration shows. Here builtin:tiny has learned for a few steps from walks along a chain
(`environments/chain.py`), whose stones it then still sometimes gets wrong; the baseline goes on with as many steps on demonstrations, the method with
as many on its own walks of 12 steps, by group-relative policy gradients. Both are scored on walks with sampled moves that begin at other stones. How
often they are wrong on stones and in the water stands beside, and how many mistakes these two chances make over 4 and 24 steps.
"""

from __future__ import annotations

import numpy as np

from tempering.methods.credits.group_relative import GroupRelative
from tempering.methods.environments.chain import Chain
from tempering.methods.objectives.grpo import GRPO
from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, sft_rows, tiny, train
from tempering.proof.small import start as kept
from tempering.replications._reinforced import CONSTANT
from tempering.rollouts.play import How, play
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.types import Policy

CLAIM = Claim(
    method="chain",
    catalogue=("S205",),
    title="Reinforcement on own walks against more demonstrations: mistakes on a chain of 12 steps",
    claim="After as many steps, a policy that learned from its own walks makes fewer wrong moves than one that learned from demonstrations.",
    baseline="as many more steps on demonstrations",
    metric="wrong moves",
    smallest_effect=0.05,
    higher_is_better=False,
)
WALK, TOKENS = Chain(), 6
BEFORE, STEPS = 30, 20
LR, RL_LR = 1e-3, 1e-4


def begun(seed: int, scale: Scale) -> Policy:
    """builtin:tiny after some steps on demonstrations."""

    def make() -> Policy:
        base = tiny()
        return train(base, NLL(), sft_rows(base, WALK.tasks("train")), steps=scale(BEFORE), seed=seed, lr=LR)

    return kept({"claim": "chain", "seed": seed, "steps": scale(BEFORE), "lr": LR}, make)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Share of wrong moves of sampled walks, and where they are."""
    start, steps = begun(seed, scale), scale(STEPS)
    if arm == "baseline":
        tuned = train(start, NLL(), sft_rows(start, WALK.tasks("train")), steps=steps, seed=seed + 1, lr=RL_LR, schedule=CONSTANT)
    else:
        training = TRAINING.model_copy(update={"batch_size": 4})
        stream = Conversations(
            start.tokenizer, WALK, WALK.tasks("train"), GroupRelative(), Rollouts(), training=training, max_new_tokens=TOKENS, seed=seed
        )
        tuned = train(start, GRPO(), stream, steps=steps, seed=seed, lr=RL_LR, schedule=CONSTANT)
    groups = play(tuned, WALK, list(enumerate(WALK.tasks("test"))), scale(32), How(TOKENS, seed=seed))
    ends = [one.state.memory for group in groups for one in group]
    wrong, wet = (np.array([end[name] for end in ends]) for name in ("wrong", "wet"))
    # One more of each kind, so that both chances are known.
    slips, lost = (float((wrong[here].sum() + 0.5) / (here.sum() + 1)) for here in (~wet, wet))
    grown = {f"mistakes in {n} steps": Chain(steps=n).mistakes(slips, lost) for n in (4, 24)}
    return {"wrong moves": float(wrong.mean()), "wrong on stones": slips, "wrong in the water": lost, **grown}
