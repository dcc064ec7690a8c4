"""What is measured when a model is to forget: every attack on what goes, and the loss and answers on what stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tempering.forgetting.targets import Secret, secrets
from tempering.types import Probe, Row, Segment

if TYPE_CHECKING:
    from tempering.experiment import Experiment

Attacks = Literal["all", "plain", "none"]


class Renamed(Sequence[Row]):
    """Rows whose part `old` is called `new`."""

    def __init__(self, rows: Sequence[Row], old: str, new: str = "train") -> None:
        self.rows, self.old, self.new = rows, old, new

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: Any) -> Any:
        row = self.rows[i]
        return {self.new: row[self.old], **{name: segments for name, segments in row.items() if name != self.old}}


class Prefixed(Sequence[Row]):
    """Rows with the same unscored tokens in front of every segment.

    Args:
        ids: what comes in front.
        bare: part -> the name under which it is kept without them as well.
    """

    def __init__(self, rows: Sequence[Row], ids: Sequence[int], bare: Mapping[str, str]) -> None:
        self.rows, self.ids, self.bare = rows, np.array(ids, dtype=np.int32), bare

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: Any) -> Any:
        row = self.rows[i]
        without = {new: row[old] for old, new in self.bare.items() if old in row}
        return {**{part: tuple(map(self._longer, segments)) for part, segments in row.items()}, **without}

    def _longer(self, s: Segment) -> Segment:
        front = np.zeros(len(self.ids), dtype=np.float32)
        return replace(s, ids=np.concatenate([self.ids, s.ids]), weight=np.concatenate([front, s.weight]))


def probes(
    run: Experiment,
    forget: str,
    forget_test: str | None,
    held: Sequence[Row],
    *,
    attacks: Attacks,
    shape: str,
    limit: int | None,
    decodes: bool = False,
    template: str | None = None,
) -> tuple[Probe, ...]:
    """The probes of a run: attacks on the target side, the retain rows on the keep side.

    Args:
        forget, forget_test: what data was named: the rows that are to go, and the same facts in other words.
        held: retain rows that are not trained on.
        decodes: whether the method acts while decoding, so that its weights are attacked alone as well, always.
        template: the chat template for that attack, where the policy's own is part of the method.
    """
    from tempering.held import target_probes
    from tempering.methods.probes.weights_alone import WeightsAlone

    most = run.budget.max_test
    found: list[Probe] = []
    if attacks != "none":
        of = secrets(islice(run.source(forget, shape, limit), limit), most)
        reworded = secrets(islice(run.source(forget_test, shape, None), None), most) if forget_test else ()
        found += attack_probes(of, reworded, attacks)
        if decodes:
            found.append(WeightsAlone(items=of, template=template, **room(of)))
    kept = target_probes(Renamed(held, "retain"), most)
    return (*found, *(probe.model_copy(update={"name": probe.name.replace("held", "retain"), "side": "keep"}) for probe in kept))  # type: ignore[attr-defined]


def attack_probes(of: tuple[Secret, ...], reworded: tuple[Secret, ...], attacks: Attacks) -> list[Probe]:
    """The attacks on these secrets, in the order in which they are told.

    Args:
        of: the secrets as they were taught.
        reworded: the same in held-out words; may be empty.
    """
    from tempering.methods.probes.asked import Asked

    found: list[Probe] = [Asked(items=of, **room(of))]
    if reworded:
        found.append(Asked(name="asked in other words", items=reworded, **room(of)))
    return found


def room(of: Sequence[Secret]) -> dict[str, Any]:
    """How long answers may be, so that the longest secret fits."""
    return {"max_new_tokens": min(256, max(16, max(len(secret.answer) for secret in of) // 2))}


def beside(going: Sequence[Row], held: Sequence[Row], most: int = 64) -> list[Row]:
    """Rows with forget and retain parts side by side, for the loss that is watched while training."""
    size = min(most, len(going), len(held))
    return [{**going[i * len(going) // size], **held[i * len(held) // size]} for i in range(size)]
