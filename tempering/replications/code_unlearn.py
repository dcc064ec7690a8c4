"""Codes that speak of some people go, and those people with them; as many others, and little goes.

Wu, Dossou & Liu 2024 (CodeUnlearn, arXiv 2410.10866) let a model speak in the codes of a codebook, and forget a topic by deleting the codes that its
text uses more than other text does. Here the MLPs of blocks 1 to 4 of builtin:tiny do so, with codebooks trained on questions about the hundred
people whom it knows; ten of them are to go. Taken out of each are, of at most 200 codes, those that the rows about the ten use at least as often as
rows about others, the most enriched first; the baseline takes out as many drawn ones that these rows use. Compared is the difference between what
stays and what goes, in wordings that no row has. On seed 9, which does not count, 200 codes gave 0.06 and -0.01, where all codes give -0.09, and at
most 64 of an R of 0.5 gave -0.01 and -0.04; a codebook after the first block breaks the model.
"""

from __future__ import annotations

from tempering.forgetting import codebook
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import fingerprint, sft_rows, start, tiny
from tempering.replications._forgetting import known, staying, ten
from tempering.types import Policy
from tempering.worlds.base import rng
from tempering.worlds.people import People

CLAIM = Claim(
    method="code_unlearn",
    catalogue=("S032",),
    title="The most enriched codes taken out (CodeUnlearn) against as many drawn ones",
    claim="Deleting the codes that are enriched in a topic's text forgets the topic and keeps the rest.",
    baseline="as many codes drawn from those that the same text uses",
    metric="accuracy on those who stay less accuracy on those who go",
    smallest_effect=0.05,
    range=(-0.5, 0.5),
)
LAYERS, CODES, TOP, OUT = (1, 2, 3, 4), 512, 8, 200
STEPS, RATE, LEAST = 200, 1e-3, 0.0


def speaking(quick: bool) -> Policy:
    """The model with its codebooks, the same for all seeds; made once."""
    scale, base = Scale(quick), tiny()
    rows = sft_rows(base, People(100).records("train"))
    inputs = {"codebooks": fingerprint(rows), "layers": LAYERS, "codes": CODES, "top": TOP, "steps": scale(STEPS), "lr": RATE}
    return start(inputs, lambda: codebook.speaking(base, LAYERS, rows, codes=CODES, top=TOP, steps=scale(STEPS), lr=RATE, seed=0))


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The difference, what it is made of, and what the model knows with all codes."""
    policy = speaking(scale.quick)
    topic, other = ([s for row in sft_rows(policy, records) for s in row["train"]] for records in (ten(seed).records("train"), staying(seed)[::9]))
    whole, used, draw = known(policy, seed, scale(70)), {}, rng("codes", seed)
    for layer in LAYERS:
        used[layer] = [codebook.usage(policy.model, layer, some) for some in (topic, other)]
    for layer, (topic_K, other_K) in used.items():
        in_use = {c for c in range(CODES) if topic_K[c] > 0}
        out = [c for c in codebook.enriched(topic_K, other_K, LEAST) if c in in_use][:OUT]
        if arm == "baseline":
            out = draw.sample(sorted(in_use), len(out))
        codebook.of(policy.model, layer).take_out(out)
    goes, stays = known(policy, seed, scale(70))
    names = (CLAIM.metric, "accuracy on those who stay", "accuracy on those who go", "with all codes, who stays", "with all codes, who goes")
    return dict(zip(names, (stays - goes, stays, goes, whole[1], whole[0]), strict=True))
