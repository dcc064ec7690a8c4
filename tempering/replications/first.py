"""A student of a teacher's five likeliest tokens is better calibrated where the teacher's confidence was put right before.

Shum et al. 2024 (FIRST): fine-tuned teachers are too sure of themselves and students inherit it; a temperature that makes the teacher's confidence
honest mends that and costs no accuracy. Here the teacher is builtin:tiny after many passes over few rows: every fact of 20 people unknown to it in
one wording each, of which 30% are wrong. The student begins where the teacher began and sees the same rows for as many steps, with the teacher's five
likeliest tokens: as they are for the baseline, recalibrated for the method. The temperature is chosen on a quarter of the questions in wordings that
nobody trained on; the error is measured on the others: ten bins of the chance of the likeliest token, over the tokens of the true answers. Beside it
stand how often the likeliest token is right, and the teacher's own error.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tempering.items import mean
from tempering.methods.objectives.first import FIRST
from tempering.methods.objectives.nll import NLL
from tempering.methods.probes.calibration import ece
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import fingerprint, noisy, sft_rows, start, tiny, train
from tempering.recipes.distil import calibrated
from tempering.reference import columns
from tempering.signals import Engine
from tempering.types import Policy, Row
from tempering.worlds.people import People

CLAIM = Claim(
    method="first",
    catalogue=("S230",),
    title="Distillation from five recalibrated tokens against the same without recalibration",
    claim="A student of the five likeliest tokens of an overconfident teacher has a lower calibration error if the teacher was recalibrated.",
    baseline="the same student of the same tokens as the teacher gives them",
    metric="ece",
    smallest_effect=0.03,
    higher_is_better=False,
    range=(0.0, 0.5),
)
LOGPS, IDS = "teacher.top_logp.5", "teacher.top_id.5"
STEPS, RATE = 120, 3e-3


def kept(policy: Policy, rows: Sequence[Row]) -> list[Row]:
    """The rows with the policy's five likeliest tokens as columns."""
    return list(columns(policy, rows, Engine(), column=(LOGPS, IDS)))


def honesty(policy: Policy, rows: Sequence[Row]) -> dict[str, float]:
    """Expected calibration error, and how often the likeliest token is right."""
    chances, hits = list[float](), list[bool]()
    for segment in (segment for row in kept(policy, rows) for segment in row["train"]):
        scored = segment.weight != 0
        chances += np.exp(segment.extras[LOGPS][scored][:, 0]).tolist()
        hits += (segment.extras[IDS][scored][:, 0] == segment.ids[scored]).tolist()
    return {"ece": ece(chances, hits), "right": mean(hits)}


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The student's calibration error on questions in unseen wordings."""
    people, begin, steps = People(20, start=20_000, seed=seed), tiny(), scale(STEPS)
    rows = sft_rows(begin, [record for record in noisy(people, 0.3, seed) if record.id.endswith(".0")])
    asked = sft_rows(begin, people.records("test"))
    few, held = asked[: len(asked) // 4], asked[len(asked) // 4 :]
    how = {"steps": steps, "seed": seed, "lr": RATE}
    teacher = start({"claim": "first", "rows": fingerprint(rows), **how}, lambda: train(begin, NLL(), rows, **how))
    c = calibrated(kept(teacher, few), 5) if arm == "method" else 1.0
    beside = {"temperature": c} if arm == "method" else {f"teacher's {name}": value for name, value in honesty(teacher, held).items()}
    return {**honesty(train(begin, FIRST(c=c), kept(teacher, rows), **how), held), **beside}
