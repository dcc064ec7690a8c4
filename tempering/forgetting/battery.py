"""What is measured when a model is to forget: every attack on what goes, and the loss and answers on what stays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from tempering.forgetting.targets import Secret, secrets
from tempering.types import Probe, Row

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


def probes(run: Experiment, held: Sequence[Row]) -> tuple[Probe, ...]:
    """The probes of a run: attacks on the target side, the retain rows on the keep side.

    Args:
        held: retain rows that are not trained on.
    """
    from tempering.forgetting import benchmarks
    from tempering.held import target_probes

    v, most = run.values, run.budget.max_test
    test = v["forget_test"] or (f"{v['forget']}-test" if v["forget"].startswith("builtin:") else None)
    found: list[Probe] = []
    if v["attacks"] != "none":
        of = secrets(islice(run.source(v["forget"], v["shape"], v["limit"]), v["limit"]), most)
        reworded = secrets(run.source(test, v["shape"], None), most) if test else ()
        found += attack_probes(of, reworded, v["attacks"])
    if v["attacks"] == "all":
        found += benchmarks.probes(run, v["forget"], shape=v["shape"], limit=v["limit"])
    kept = target_probes(Renamed(held, "retain"), most)
    return (*found, *(probe.model_copy(update={"name": probe.name.replace("held", "retain"), "side": "keep"}) for probe in kept))  # type: ignore[attr-defined]


def questions(going: Sequence[Row], run: Experiment) -> list[str]:
    """The prompts of the forget rows as the model sees them; the whole text where a row has no prompt."""
    from tempering.methods.probes.held_answer import prompt_and_answer

    found = {}
    for i in range(len(going)):
        segment = going[i]["forget"][0]
        found[run.tokenizer.decode(prompt_and_answer(segment)[0] or segment.ids)] = None
    return list(found)


def attack_probes(of: tuple[Secret, ...], reworded: tuple[Secret, ...], attacks: Attacks) -> list[Probe]:
    """The attacks on these secrets, in the order in which they are told.

    Args:
        of: the secrets as they were taught.
        reworded: the same in held-out words; may be empty.
    """
    from tempering.methods.probes.asked import Asked

    longest = max(len(secret.answer) for secret in of)
    room: dict[str, Any] = {"max_new_tokens": min(256, max(16, longest // 2))}
    found: list[Probe] = [Asked(items=of, **room)]
    if reworded:
        found.append(Asked(name="asked in other words", items=reworded, **room))
    return found


def beside(going: Sequence[Row], held: Sequence[Row], most: int = 64) -> list[Row]:
    """Rows with forget and retain parts side by side, for the loss that is watched while training."""
    size = min(most, len(going), len(held))
    return [{**going[i * len(going) // size], **held[i * len(held) // size]} for i in range(size)]
