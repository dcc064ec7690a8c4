"""Continued pretraining of the base with the instruction residual keeps instructions, which continued pretraining of the tuned model loses.

Jindal et al. 2024 (arXiv 2410.10739): a tuned model that reads on forgets to follow; the base that reads on, with what instruction tuning had added
put back, follows, and no instruction data are needed. Here following is to answer in sentences about the hundred people whom builtin:tiny knows; what
is read are biographies of forty strangers, the same rows in the same order. Scored by the loss on the right sentences in unseen wordings; the range
ends at a guess among all tokens. Beside it stand the loss on answers about the strangers, and that before any reading.
"""

from __future__ import annotations

from tempering.methods.merges.chat_vector import ChatVector
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import tiny
from tempering.replications._chat import asked, read, strangers, tuned
from tempering.replications._merging import merged
from tempering.worlds.people import People

CLAIM = Claim(
    method="chat_vector",
    catalogue=("S106",),
    title="Continued pretraining of the base plus the instruction residual, against continued pretraining of the tuned model",
    claim="After the same texts, a base with the instruction residual has a lower loss on instructed answers than the tuned model that read them.",
    baseline="the instruction-tuned model after the same continued pretraining",
    metric="loss",
    smallest_effect=0.1,
    higher_is_better=False,
    range=(0.0, 7.3),
)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Loss per token of answers in sentences about those whom the start knows."""
    base, chat, known = tiny(), tuned(seed, scale), People(100, style="sentence")
    if arm == "baseline":
        policy, beside = read(chat, "tuned", seed, scale), {"before": asked(chat, known, scale)}
    else:
        policy, beside = merged(ChatVector(), [chat, read(base, "base", seed, scale)], base), {}
    return {"loss": asked(policy, known, scale), "strangers": asked(policy, strangers(seed), scale), **beside}
