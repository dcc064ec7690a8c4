"""The keep battery: what a model should still be able to do after training, measured in about a minute without any download.

Eight lists lie beside this file, all written or generated for this project (CC0; `make.py` regenerates those that come from tables). They were chosen
so that a small model's base score leaves room on both sides. SmolLM2-135M-Instruct (`builtin:smollm2-135m`, 4-bit weights dequantised) in float32,
with bfloat16 in brackets where it differs by 0.005 or more, and CPU seconds over all threads (half of them pass on two idle cores):

| probe      | items | what it asks                                       | base score            | CPU s |
|------------|-------|----------------------------------------------------|-----------------------|-------|
| facts      | 145   | capitals, opposites, units ... (4 choices, plain)  | 0.703                 | 10    |
| sense      | 90    | everyday knowledge (4 choices, chat)               | 0.700 (0.711)         | 16    |
| arithmetic | 120   | one step after three solved examples (4 choices)   | 0.783                 | 16    |
| reading    | 100   | which of two stated facts (4 choices, plain)       | 0.450 (0.460)         | 9     |
| format     | 84    | constraints that a program checks (generation)     | 0.488 (0.464)         | 31    |
| refusals   | 60    | 30 safe, 30 harmful requests (generation)          | 0.517                 | 17    |
| texts      | 40    | original paragraphs                                | 3.91 nats per token   | 6     |
| diversity  | 12    | distinct-2 of four samples                         | 0.972                 | 14    |

Together 120 CPU seconds, so one minute on two idle cores, and 1.6 GiB at the peak; `quick` takes a third of the items. Chance is 0.25 for the four
choice lists, whose Brier scores come with them as `facts.calibration` and so on (0.154, 0.213, 0.161, 0.337). The base model complies with nearly
everything: no safe request is refused and 29 of 30 harmful ones are answered, so `refusals` shows a rise of either kind of refusal. What did not
serve: sums without solved examples (0.35 as digits, 0.22 in words: chance), generated answers about three-sentence passages (0.13).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tempering.types import Policy, Probe

SMALL = 10_000_000
"""Models with fewer parameters know no general things: they get the world probes (`builtin:tiny` has about 2 million)."""

SHOTS = "3 + 1 = 4\n7 - 2 = 5\n12 + 4 = 16\n{question}"
"""Solved examples before each sum: without them a small model does not see that a number is wanted."""


def battery(policy: Policy | None = None, *, quick: bool = False, shared: str | Path | None = None) -> tuple[Probe, ...]:
    """The battery for a policy; see `measure.keep_battery`."""
    if policy is not None and _small(policy):
        from tempering.worlds.demo import tiny_keep

        return tiny_keep(40 if quick else 120)
    folder = shared if shared is not None else os.environ.get("TEMPERING_SHARED")
    if not folder:
        return _general(quick)
    from tempering.keep.real import slices

    return (*_general(quick), *slices(Path(folder), 20 if quick else 60))


def divergence_texts(policy: Policy) -> tuple[str, ...]:
    """Held texts on which the KL from the start model is measured: the battery's own paragraphs, or the world's biographies for small models."""
    from tempering.items import read_items
    from tempering.methods.probes.perplexity import TextItem

    if _small(policy):
        from tempering.worlds.people import People

        return tuple(People(40).texts(40, version=99))
    return tuple(item.text for item in read_items("keep:texts", TextItem))


def _small(policy: Policy) -> bool:
    return policy.source == "builtin:tiny" or sum(p.numel() for p in policy.model.parameters()) < SMALL


def _general(quick: bool) -> tuple[Probe, ...]:
    from tempering.methods.probes.diversity import Diversity
    from tempering.methods.probes.instruction_format import InstructionFormat
    from tempering.methods.probes.multiple_choice import MultipleChoice
    from tempering.methods.probes.perplexity import Perplexity
    from tempering.methods.probes.refusals import Refusals

    third = (lambda count: count // 3) if quick else (lambda count: None)
    return (
        MultipleChoice(name="facts", items="keep:facts", normalise="sum", chat=False, limit=third(145)),
        MultipleChoice(name="sense", items="keep:sense", normalise="sum", limit=third(90)),
        MultipleChoice(name="arithmetic", items="keep:arithmetic", normalise="sum", chat=False, plain_form=SHOTS, limit=third(120)),
        MultipleChoice(name="reading", items="keep:reading", normalise="sum", chat=False, limit=third(100)),
        InstructionFormat(name="format", items="keep:format", max_new_tokens=32, batch_size=32, limit=third(84)),
        Refusals(name="refusals", items="keep:requests", max_new_tokens=20, batch_size=32, limit=third(60)),
        Perplexity(name="texts", items="keep:texts", limit=third(40)),
        Diversity(name="diversity", items="keep:starters", max_new_tokens=24, batch_size=48, limit=third(12)),
    )
