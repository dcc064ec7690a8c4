"""Who is told what to do where its own steps lead makes fewer mistakes than who is told so along walks without mistakes.

Sun 2023 (arXiv 2310.06147) takes compounding errors as the reason why imitation that acts (and reinforcement) does better than behaviour cloning,
which is supervised fine-tuning: after a slip a cloned policy meets states that no demonstration shows. Here builtin:tiny has learned for a few steps
from walks along a chain (`environments/chain.py`), whose stones it then still sometimes gets wrong. Both arms go on with as many steps on as many
moves, all of them the right ones: the baseline's where demonstrations lead, the method's where sampled walks of its own led, in two rounds (Ross,
Gordon and Bagnell 2011, arXiv 1011.0686). Both are scored on walks of 12 sampled moves that begin at other stones. How often they are wrong on stones
and in the water stands beside, and how many mistakes these two chances make over 4 and 24 steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tempering.making import answer
from tempering.methods.environments.chain import Chain
from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import sft_rows, tiny, train
from tempering.proof.small import start as kept
from tempering.rollouts.play import How, play
from tempering.types import Message, Policy, Record

CLAIM = Claim(
    method="chain",
    catalogue=("S205",),
    title="Right moves along own walks against right moves along demonstrations: mistakes on a chain of 12 steps",
    claim="After as many steps, a policy that was told the right moves of its own walks makes fewer wrong ones than a cloned one.",
    baseline="behaviour cloning: as many steps on as many moves of demonstrations",
    metric="wrong moves",
    smallest_effect=0.05,
    higher_is_better=False,
)
WALK, TOKENS = Chain(), 6
BEFORE, STEPS, LR = 30, 15, 1e-3


def begun(seed: int, scale: Scale) -> Policy:
    """builtin:tiny after some steps on demonstrations."""

    def make() -> Policy:
        base = tiny()
        return train(base, NLL(), sft_rows(base, WALK.tasks("train")), steps=scale(BEFORE), seed=seed, lr=LR)

    return kept({"claim": "chain", "seed": seed, "steps": scale(BEFORE), "lr": LR}, make)


def told(conversations: Iterable[Sequence[Message]], begins: Iterable[int]) -> Iterator[Record]:
    """Each move of some walks with what would have been right there, behind all that was said before."""
    for messages, stone in zip(conversations, begins, strict=True):
        water = False
        for turn in range(WALK.length):
            right = WALK.right(stone, water)
            yield Record(tuple(messages[: 2 * turn + 1]), (answer(right),), id=f"{stone}.{turn}")
            good = messages[2 * turn + 1].content.strip().lower() == right
            stone, water = (stone + (good and not water)) % WALK.stones, not good


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Share of wrong moves of sampled walks, and where they are."""
    tuned = begun(seed, scale)
    tasks, records = WALK.tasks("train"), list[Record]()
    for turn in range(2):
        if arm == "baseline":
            walks = [(*task.prompt, *task.responses[0].messages) for task in tasks for _ in range(2)]
        else:
            walks = [one.state.messages for group in play(tuned, WALK, list(enumerate(tasks)), 2, How(TOKENS, seed=seed + turn)) for one in group]
        records += told(walks, [int(task.tags["stone"]) for task in tasks for _ in range(2)])
        tuned = train(tuned, NLL(), sft_rows(tuned, records), steps=scale(STEPS), seed=seed + turn, lr=LR)
    groups = play(tuned, WALK, list(enumerate(WALK.tasks("test"))), scale(32), How(TOKENS, seed=seed))
    ends = [one.state.memory for group in groups for one in group]
    wrong, wet = (np.array([end[name] for end in ends]) for name in ("wrong", "wet"))
    # One more of each kind, so that both chances are known.
    slips, lost = (float((wrong[here].sum() + 0.5) / (here.sum() + 1)) for here in (~wet, wet))
    grown = {f"mistakes in {n} steps": Chain(length=n).mistakes(slips, lost) for n in (4, 24)}
    return {"wrong moves": float(wrong.mean()), "wrong on stones": slips, "wrong in the water": lost, **grown}
