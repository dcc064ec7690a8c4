"""A contract of a company that has many costs more to forget than one between companies that have no other.

Qiu et al. 2024 (PISTOL, arXiv 2406.16810) build data as graphs whose edges are contracts, and find that the more connected an edge is, the harder it
is to forget it alone. Here builtin:tiny first learns twelve invented contracts, six of one company and six of pairs without any other; of each four
attributes are asked for in three wordings. Then one contract is forgotten by gradient ascent alone, the method's one of the six, the baseline's one
of the others. Scored is what is still known of the other eleven, in a wording that no row has, at the first of 24 steps at which three of the four
attributes are gone (else at the last); less is worse. Mean over three contracts each. On seed 9, which does not count, 3e-4 harmed neither (0.86 and
0.83 kept), and 1e-3, which was taken, showed the opposite: 0.75 of the others kept for the connected one, 0.53 for the lonely one.
"""

from __future__ import annotations

from tempering.config import Schedule
from tempering.data.forgetting import forget_row
from tempering.forgetting.pistol import TAG, split
from tempering.forgetting.targets import secrets
from tempering.items import mean
from tempering.methods.objectives.gradient_ascent import GradientAscent
from tempering.methods.objectives.nll import NLL
from tempering.methods.probes.asked import Asked
from tempering.proof import small
from tempering.proof.claims import Claim, Scale
from tempering.types import Message, Policy, Record, Response
from tempering.worlds.base import rng
from tempering.worlds.people_words import SURNAME_HEADS, VALUES

CLAIM = Claim(
    method="gradient_ascent",
    catalogue=("S034",),
    title="Forgetting a contract of a company that has six against a lonely one",
    claim="When a contract of a well-connected company is forgotten, less is kept of the other contracts.",
    baseline="the same of a contract whose companies have no other",
    metric="accuracy on the other contracts",
    smallest_effect=0.05,
    higher_is_better=False,
)
ATTRIBUTES = {"place": "city", "contact": "job", "goods": "food", "bonus": "pet"}
WORDINGS = (
    "What is the {what} of the contract between {a} and {b}?",
    "{a} and {b} have a contract. Name its {what}.",
    "Which {what} does the contract of {a} with {b} give?",
    "Tell me the {what} that {a} and {b} agreed on.",
)
RATE, STEPS = 1e-3, 120


def contracts(seed: int, wordings: tuple[str, ...]) -> list[Record]:
    """Questions about all contracts; companies 0 to 6 are the connected ones."""
    draw, found = rng("contracts", seed), list[Record]()
    names = [f"{name} Ltd" for name in draw.sample(SURNAME_HEADS, 19)]
    edges = [*((0, i) for i in range(1, 7)), *((i, i + 1) for i in range(7, 19, 2))]
    for a, b in edges:
        for what, kind in ATTRIBUTES.items():
            answer = (Response((Message("assistant", draw.choice(VALUES[kind])),)),)
            prompts = [form.format(what=what, a=names[a], b=names[b]) for form in wordings]
            found += [Record((Message("user", prompt),), answer, tags={TAG: f"{a}_{b}"}) for prompt in prompts]
    return found


def cost(start: Policy, seed: int, edge: str, scale: Scale) -> tuple[float, float]:
    """What is kept of the other contracts once this one is gone, and what is left of it."""
    goes, near, far = split(contracts(seed, WORDINGS[-1:]), [edge])
    gone, left = (Asked(items=secrets(of, 1000)) for of in (goes, [*near, *far]))
    rows = [row for record in split(contracts(seed, WORDINGS[:-1]), [edge])[0] if (row := forget_row(record, start.tokenizer))]
    found: list[tuple[float, float]] = []

    def look(step: int, policy: Policy) -> None:
        if step % 2 == 0 and (not found or found[-1][1] > 0.25):
            found.append((1 - small.score(policy, left), 1 - small.score(policy, gone)))

    how = {"steps": scale(24, 4), "seed": seed, "lr": RATE, "batch_size": 12, "schedule": Schedule(name="constant")}
    small.train(start, GradientAscent(), rows, look=look, **how)
    return found[-1]


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Means over three contracts."""
    base = small.tiny()
    rows = small.sft_rows(base, contracts(seed, WORDINGS[:-1]))
    inputs = {"contracts": small.fingerprint(rows), "steps": scale(STEPS)}
    start = small.start(inputs, lambda: small.train(base, NLL(), rows, steps=scale(STEPS), seed=0, lr=1e-3))
    edges = ("0_1", "0_2", "0_3") if arm == "method" else ("7_8", "9_10", "11_12")
    kept, left = zip(*(cost(start, seed, edge, scale) for edge in edges), strict=True)
    return {CLAIM.metric: mean(kept), "of the forgotten one": mean(left)}
