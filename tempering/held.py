"""Held-out rows: a view of some rows of a table, the target probes that they make, and samples for the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tempering.types import Row

if TYPE_CHECKING:
    from tempering.config import Training
    from tempering.types import Objective, Probe, Scores


class Rows(Sequence[Row]):
    """Some rows of a table on disk."""

    def __init__(self, table: Any, indices: Sequence[int]) -> None:
        self.table, self.indices = table, indices
        self.fingerprint: str = table.fingerprint

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: Any) -> Any:
        return self.table[self.indices[i]]


def target_probes(held: Sequence[Row], most: int, training: Training | None = None) -> tuple[Probe, ...]:
    """What to measure on held rows: pairs by preference; labelled answers by order; demonstrations by loss and, if short, by generated answer.

    Args:
        training: pairs are scored as they are trained on, with its precision and micro-batches; None: in float32.
    """
    import numpy as np

    from tempering.methods.probes.held_answer import HeldAnswer, prompt_and_answer
    from tempering.methods.probes.held_labels import HeldLabels
    from tempering.methods.probes.held_loss import HeldLoss
    from tempering.methods.probes.held_pairs import HeldPairs

    first = held[0]
    if "chosen" in first:
        return (HeldPairs(rows=held, limit=most, training=training),)
    if "responses" in first:
        return ()
    if "label" in first["train"][0].extras:
        return (HeldLabels(rows=held, limit=most),)
    probes: tuple[Probe, ...] = (HeldLoss(rows=held, limit=most),)
    some = [prompt_and_answer(held[i]["train"][0]) for i in range(min(len(held), 50))]
    if all(prompt for prompt, _ in some) and np.median([len(answer) for _, answer in some]) <= 48:
        longest = max(len(answer) for _, answer in some)
        probes = (HeldAnswer(rows=held, limit=most, max_new_tokens=min(96, longest + 8)), *probes)
    return probes


def own_probes(objective: Objective, rows: Sequence[Row], most: int, training: Training, *, start: bool) -> tuple[Probe, ...]:
    """Held rows by the loss's own score, where its family has one: pairs by "margin", labelled answers by "reward", ranked ones by "value". A
    reward model is asked which answer of a pair it scores higher, whatever the loss; one that learns labels, how many of them it tells.

    Args:
        start: this is the model before training.
    """
    from tempering.methods.probes.held_score import HeldScore

    needs = objective.needs
    if any(name in ("reward", "rewards") for names in needs.values() for name in names):
        from tempering.scored import Rewards

        if "chosen" not in rows[0]:
            return (HeldScore(name="held_labels", logs="accuracy", objective=objective, rows=rows, training=training, limit=most),)
        # Its own reward where that is read elsewhere than at an answer's end.
        reward = objective if "prior.entropy" in needs.get("chosen", ()) else Rewards()
        return (HeldScore(name="held_reward", logs="margin", objective=reward, rows=rows, training=training, limit=most),)
    # Labelled answers have a reward where a reference gives them one.
    labelled = {"label", "reference.logp"} <= needs.get("train", frozenset())
    logs = "margin" if {"chosen", "rejected"} <= set(needs) else "reward" if labelled else ""
    logs = "value" if "score" in needs.get("responses", ()) else logs
    name = {"margin": "held_margin", "reward": "held_reward", "value": "held_order"}.get(logs, "")
    return (HeldScore(name=name, logs=logs, objective=objective, rows=rows, training=training, limit=most, start=start),) if logs else ()


def samples(before: Scores, after: Scores, most: int = 8) -> list[dict[str, str]]:
    """What the model wrote before and after on the first held items that were generated for; of the keep battery where there are none."""
    found = []
    for side in ("target", "keep"):
        for old, new in zip(before.probes, after.probes, strict=True):
            if old.side == side and old.kind == "binary" and any(item.output for item in old.items):
                pairs = zip(old.items, new.items, strict=True)
                changed = [(a, b) for a, b in pairs if a.output != b.output]
                found += [{"prompt": a.prompt, "before": a.output, "after": b.output, "expected": a.expected} for a, b in changed]
    return found[:most]
