"""A gate that learns what each of three specialists counts at every token makes of them one model that is nearly each of them where it is best.

Ding et al. 2024 (arXiv 2403.08281, UltraFuser) fuse specialists of text, code and mathematics by a token-level gate over their last states, trained
on balanced rows, first alone and then with all weights. Here builtin:tiny is tuned on three things apart: facts about ten strangers, worked stories,
and lists of words turned around. The gate then learns alone, on the rows that the specialists learned, as many of each in every step, so that no
weight of a specialist moves. Scored is the mean over the three of the loss on held-out answers; the baseline is the three together without a gate,
which is the average of their logits. Beside it stand each specialist by itself, and what a few steps in which everything trains make of the
method's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tempering.config import Schedule
from tempering.data.streams import Balanced
from tempering.items import mean
from tempering.merging.specialists import BidsAlone, together
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.ultra_fuser import UltraFuser
from tempering.methods.scopes.full import Full
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import fingerprint, loss, sft_rows, start, tiny, train
from tempering.types import Policy, Role, Row
from tempering.worlds.arithmetic import WordProblems
from tempering.worlds.instructions import Instructions
from tempering.worlds.people import People

CLAIM = Claim(
    method="ultra_fuser",
    catalogue=("S246",),
    title="Three specialists behind a learned gate against the average of their logits",
    claim="Over three domains, specialists behind a gate that learned which of them counts have a lower loss than the average of their logits.",
    baseline="the same specialists, averaged in logits",
    metric="loss",
    smallest_effect=0.1,
    higher_is_better=False,
    range=(0.0, 3.9),
)
STEPS, RATE = 40, 1e-3
GATING, GATE_RATE, AFTER, AFTER_RATE, EACH = 40, 3e-2, 10, 1e-4, 5


def domains(seed: int, scale: Scale) -> dict[str, tuple[list[Row], list[Row]]]:
    """Rows to learn from and held-out ones of each."""
    base, people = tiny(), People(10, start=60_000 + 10 * seed)
    worlds: dict[str, Any] = {"people": people, "stories": WordProblems(seed=seed), "lists": Instructions(tasks=("reverse",), seed=seed)}
    found = {}
    for name, world in worlds.items():
        count = None if world is people else 16 * scale(STEPS)
        found[name] = sft_rows(base, world.records("train", count)), sft_rows(base, world.records("test", scale(70)))
    return found


def specialist(name: str, rows: Sequence[Row], scale: Scale) -> Policy:
    """builtin:tiny tuned on one of the domains; made once."""
    steps = scale(STEPS)
    inputs = {"claim": "ultra_fuser", "rows": fingerprint(rows), "steps": steps, "lr": RATE}
    return start(inputs, lambda: train(tiny(), NLL(), rows, steps=steps, seed=0, lr=RATE))


def trained(fused: Policy, kinds: Sequence[Sequence[Row]], steps: int, seed: int, lr: float, scope: Any) -> Policy:
    """The specialists after some steps together; the others move in place."""
    roles = {role: Role(model, scope) for role, model in fused.roles.items()}
    how: dict[str, Any] = {"steps": steps, "seed": seed, "lr": lr, "scope": scope, "roles": roles, "schedule": Schedule(name="cosine")}
    tuned = train(fused, UltraFuser(others=tuple(fused.roles)), Balanced(kinds, EACH * len(kinds), seed), **how)
    return replace(tuned, decode=fused.decode, roles=fused.roles)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The mean loss over the domains, and that on each."""
    rows = domains(seed, scale)
    each = {name: specialist(name, learned, scale) for name, (learned, _) in rows.items()}

    def losses(who: str, policy: Policy) -> dict[str, float]:
        return {f"{who}, {name}": loss(policy, held) for name, (_, held) in rows.items()}

    fused = together(list(each.values()))
    if arm == "baseline":
        found = losses("fused", fused)
        alone = {who: losses(who, policy) for who, policy in each.items()}
        told = {f"{who} alone": mean(list(of.values())) for who, of in alone.items()} | {
            f"{who} on its own": of[f"{who}, {who}"] for who, of in alone.items()
        }
        return {"loss": mean(list(found.values())), **found, **told}
    kinds = [learned for learned, _ in rows.values()]
    gated = trained(fused, kinds, scale(GATING), seed, GATE_RATE, BidsAlone())
    found = losses("fused", gated)
    whole = trained(gated, kinds, scale(AFTER), seed, AFTER_RATE, Full())
    return {"loss": mean(list(found.values())), **found, "then all weights": mean(list(losses("all", whole).values()))}
