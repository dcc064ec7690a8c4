"""A soft prompt makes a frozen model refuse what is to go, and costs the rest less than training the weights does.

Bhaila et al. 2024 (SPUL, arXiv 2406.12038) learn the embeddings of a prompt alone, and find a better trade of forgetting against utility than that of
fine-tuned models. Here ten known people are to go from builtin:tiny; eight new tokens stand before every prompt, and they learn to have questions
about the ten refused, with both retain terms at the paper's weights of one half. What is compared is the best difference between what stays and what
goes, at a step that each arm chooses. On seed 9, which is none of those that count, the baseline gave 0.46; thirty tokens gave 0.16, 0.24 and 0.13 at
1e-2, 3e-2 and 1e-1, and eight at 3e-2, which are taken, 0.20.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tempering import models
from tempering.data import with_template
from tempering.data.forgetting import forget_row, retain_row
from tempering.data.streams import Shuffled, Together
from tempering.forgetting.battery import Prefixed
from tempering.methods.objectives.spul import SPUL
from tempering.methods.scopes.soft_prompt import SoftPrompt
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import tiny
from tempering.replications._forgetting import BATCH, staying, ten
from tempering.replications._trade import graddiff, trade
from tempering.types import Segment

CLAIM = Claim(
    method="spul",
    catalogue=("S049",),
    title="A soft prompt that refuses (SPUL) against gradient ascent with the retain rows' likelihood",
    claim="What stays and what goes come further apart under a learned prompt before a frozen model than after training the weights.",
    baseline="gradient ascent on the same rows with the likelihood of the retain rows (GradDiff)",
    metric="best difference of accuracies",
    smallest_effect=0.1,
)
LENGTH, RATE = 8, 3e-2


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The best difference, and what it is made of."""
    start = tiny()
    if arm == "baseline":
        return graddiff(start, seed, scale)
    going = [row for record in ten(seed).records("train") if (row := forget_row(record, start.tokenizer, refusals=True))]
    kept = [row for record in staying(seed) if (row := retain_row(record, start.tokenizer))]
    names = [f"<|soft_{i}|>" for i in range(LENGTH)]
    ids = models.resize_tokens(start, names)
    start.tokenizer = with_template(start.tokenizer, "{{- '" + "".join(names) + "' -}}" + start.tokenizer.chat_template)
    rows: list[Sequence[Mapping[str, Sequence[Segment]]]] = [Prefixed(some, ids, {"retain": "bare"}) for some in (going, kept)]
    stream = Together(*(Shuffled(some, BATCH, seed) for some in rows))
    return trade(start, SPUL(), seed, scale, lr=RATE, rows=stream, scope=SoftPrompt(tokens=LENGTH, ids=tuple(ids)))
