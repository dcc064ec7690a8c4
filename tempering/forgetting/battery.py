"""What is measured when a model is to forget: every attack on what goes, and the loss and answers on what stays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tempering.forgetting.doors import BEGUN
from tempering.forgetting.targets import Secret, secrets, some_secrets
from tempering.types import Probe, Row, Segment

if TYPE_CHECKING:
    from tempering.experiment import Experiment

Attacks = Literal["all", "asking", "plain", "none"]
SOME = 48
"""Secrets that every attack but the plain questions is tried on at most, unless `--attack-limit` says otherwise."""
KNOWN = 400
"""Retain rows that are read for what an attacker knows."""


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


def probes(run: Experiment, held: Sequence[Row], *, decodes: bool = False, template: str | None = None) -> tuple[Probe, ...]:
    """The probes of a run: attacks on the target side, the retain rows on the keep side.

    Args:
        held: retain rows that are not trained on.
        decodes: whether the method acts while decoding, so that its weights are attacked alone as well, always.
        template: the chat template for that attack, where the policy's own is part of the method.
    """
    from tempering.forgetting import benchmarks
    from tempering.held import target_probes
    from tempering.methods.probes.asked import Asked
    from tempering.methods.probes.concept_vectors import ConceptVectors
    from tempering.methods.probes.weights_alone import WeightsAlone
    from tempering.methods.probes.wmdp import WMDP

    v, most = run.values, run.budget.max_test
    test = v["forget_test"] or (f"{v['forget']}-test" if v["forget"].startswith("builtin:") else None)
    found: list[Probe] = []
    if v["attacks"] != "none":
        of = some_secrets(islice(run.source(v["forget"], v["shape"], v["limit"]), v["limit"]), most, v["forget"])
        reworded = secrets(run.source(test, v["shape"], None), most) if test else ()
        shown = KNOWN if v["limit"] is None else min(v["limit"], KNOWN)
        known = secrets(islice(run.source(v["retain"], v["shape"], v["limit"]), shown), most) if v["attacks"] in ("all", "asking") else ()
        weights = v["attacks"] == "all" and not decodes
        start = run.model_spec if getattr(v.get("scope"), "quantise", "none") == "none" and weights else ""
        found += attack_probes(of, reworded, v["attacks"], known=known, start=start, few=v["attack_limit"], translations=v.get("translations") or "")
        if (begun := run.made.get(f"{v['forget']}, {BEGUN}")) is not None:
            found.append(Asked(name="asked to complete", items=secrets(begun, most), **room(of)))
        if decodes:
            found.append(WeightsAlone(items=of, template=template, **room(of)))
    if v["attacks"] in ("all", "asking"):
        found += benchmarks.probes(run, v["forget"], shape=v["shape"], limit=v["limit"])
    if v.get("forget_choices"):
        found.append(WMDP(items=v["forget_choices"], limit=most))
    if v.get("concept_vectors"):
        found.append(ConceptVectors(items=v["concept_vectors"], reference=run.model_spec))
    kept = target_probes(Renamed(held, "retain"), most)
    return (*found, *(probe.model_copy(update={"name": probe.name.replace("held", "retain"), "side": "keep"}) for probe in kept))  # type: ignore[attr-defined]


def check(values: Mapping[str, Any]) -> None:
    """Read the files that only attacks ask for, and look for the oracle, before anything has taken long.

    Raises:
        UserError: one is missing, or a line of it is not what is expected.
    """
    from tempering.items import read_items
    from tempering.methods.probes.multiple_choice import ChoiceItem
    from tempering.methods.probes.translated import TranslatedItem
    from tempering.models import places

    for name, kind in (("translations", TranslatedItem), ("forget_choices", ChoiceItem)):
        if values.get(name):
            read_items(values[name], kind)
    if values.get("oracle"):
        places.find(values["oracle"], lambda _: None)


def quick(run: Experiment, held: Sequence[Row]) -> list[Probe]:
    """What a look at a training measures (`looks`): attacks that only ask, on few secrets, and the loss of some retain rows."""
    from tempering.forgetting.looks import SOME as FEW
    from tempering.methods.probes.asked import Asked
    from tempering.methods.probes.begun import Begun
    from tempering.methods.probes.held_loss import HeldLoss
    from tempering.methods.probes.reworded import Reworded
    from tempering.methods.probes.role_play import RolePlay

    v = run.values
    of = secrets(islice(run.source(v["forget"], v["shape"], v["limit"]), v["limit"]), run.budget.max_test)
    how: dict[str, Any] = {"items": of, "limit": min(FEW, v["attack_limit"]), **room(of)}
    return [Asked(**how), Reworded(**how), RolePlay(**how), Begun(**how), HeldLoss(rows=held, part="retain", limit=4 * FEW, side="keep")]


def questions(going: Sequence[Row], run: Experiment) -> list[str]:
    """The prompts of the forget rows as the model sees them; the whole text where a row has no prompt."""
    from tempering.methods.probes.held_answer import prompt_and_answer

    found = {}
    for i in range(len(going)):
        segment = going[i]["forget"][0]
        found[run.tokenizer.decode(prompt_and_answer(segment)[0] or segment.ids)] = None
    return list(found)


def attack_probes(
    of: tuple[Secret, ...],
    reworded: tuple[Secret, ...],
    attacks: Attacks,
    *,
    known: tuple[Secret, ...] = (),
    start: str = "",
    few: int = SOME,
    translations: str = "",
) -> list[Probe]:
    """The attacks on these secrets, in the order in which they are told.

    Args:
        of: the secrets as they were taught.
        reworded: the same in held-out words; may be empty.
        known: facts that were to stay, for attacks that need what an attacker knows.
        attacks: which; "asking" is "all" without a start.
        start: the model before forgetting; "" leaves out the attacks on changed weights, which cannot be made of quantised ones.
        few: how many of the secrets all but the plain questions are tried on.
        translations: a file of the questions in other languages.
    """
    from tempering.methods.probes.asked import Asked

    most = room((*of, *reworded))
    found: list[Probe] = [Asked(items=of, **most)]
    if reworded:
        found.append(Asked(name="asked in other words", items=reworded, **most))
    if attacks in ("all", "asking"):
        some = {"items": of, "limit": few, **most}
        found += [*_of_words(known, some, translations), *(_of_weights(known, some) if start else ()), *_beside(known, start, some)]
    return found


def _of_words(known: tuple[Secret, ...], some: dict[str, Any], translations: str) -> list[Probe]:
    """What anybody can do who may ask."""
    from tempering.methods.probes.begun import Begun
    from tempering.methods.probes.few_shot import FewShot
    from tempering.methods.probes.in_context import InContext
    from tempering.methods.probes.reworded import Reworded
    from tempering.methods.probes.role_play import RolePlay
    from tempering.methods.probes.sampled import Sampled
    from tempering.methods.probes.translated import Translated

    words = [Reworded(**some), RolePlay(**some), Translated(translations=translations or (), **some), Begun(**some)]
    return [*words, InContext(known=some["items"], **some), FewShot(examples=known, **some), Sampled(**some)]


def _of_weights(known: tuple[Secret, ...], some: dict[str, Any]) -> list[Probe]:
    """What somebody can do who has the weights."""
    from tempering.methods.probes.quantised import Quantised
    from tempering.methods.probes.relearned import Relearned

    taught, asked = apart(some["items"])
    again = [("relearned on unrelated rows", ()), *([("relearned on what stays", known)] if known else [])]
    return [
        *(Quantised(name=f"quantised to {bits} bits", bits=bits, **some) for bits in (8, 4)),
        *([Relearned(name="relearned on other secrets", taught=taught, **{**some, "items": asked})] if taught else []),
        *(Relearned(name=name, taught=rows, **some) for name, rows in again),
    ]


def _beside(known: tuple[Secret, ...], start: str, some: dict[str, Any]) -> list[Probe]:
    """What is told beside the verdict."""
    from tempering.items import read_items
    from tempering.methods.probes.contrast_probe import ContrastProbe
    from tempering.methods.probes.linear_probe import LinearProbe
    from tempering.methods.probes.logit_lens import LogitLens
    from tempering.methods.probes.merged_back import MergedBack
    from tempering.methods.probes.resupplied import Resupplied

    # A wrong answer is another's.
    varied = all(len({secret.answer for secret in group}) > 1 for group in (read_items(some["items"], Secret, some["limit"]), known))
    return [
        Resupplied(known=some["items"], **some),
        *([MergedBack(start=start, **some)] if start else []),
        LogitLens(**some),
        *([LinearProbe(known=known, **some), ContrastProbe(known=known, **some)] if known and varied else []),
    ]


def apart(of: tuple[Secret, ...]) -> tuple[tuple[Secret, ...], tuple[Secret, ...]]:
    """Two halves of the secrets that share no answer: what the first teaches says nothing of the second, whatever the wording; by a hash of the
    answers. The first is empty where all answers are the same."""
    from tempering.methods.probes.exact_answer import normalised

    answers = sorted({normalised(secret.answer) for secret in of}, key=lambda answer: hashlib.sha256(answer.encode()).digest())
    taught = set(answers[: len(answers) // 2])
    return tuple(s for s in of if normalised(s.answer) in taught), tuple(s for s in of if normalised(s.answer) not in taught)


def room(of: Sequence[Secret]) -> dict[str, Any]:
    """How long answers may be, so that the longest secret fits."""
    return {"max_new_tokens": min(256, max(16, max(len(secret.answer) for secret in of) // 2))}


def beside(going: Sequence[Row], held: Sequence[Row], most: int = 64) -> list[Row]:
    """Rows with forget and retain parts side by side, for the loss that is watched while training."""
    size = min(most, len(going), len(held))
    return [{**going[i * len(going) // size], **held[i * len(held) // size]} for i in range(size)]
