"""What continued pretraining added, put on an instruction-tuned model, answers about the new texts better than either model does.

Hirano and Imajo 2024 continue the pretraining of a base on financial texts and add the change of its instruction tuning: an instruction-tuned model
for finance without instruction data for it. Here builtin:tiny, which answers with bare values, is tuned to answer in sentences; the same start reads
biographies of forty strangers; and the sum of both changes is asked about the strangers, for sentences. The baseline is the better of the two. Scored
by the loss on the right answers in unseen wordings; the range ends at a guess among all tokens. Of the rates 1e-3 and 3e-3 for reading, the second
teaches the texts better, on seed 100, which is none of the seeds that count.
"""

from __future__ import annotations

from tempering.methods.merges.chat_vector import ChatVector
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import tiny
from tempering.replications._chat import asked, read, strangers, tuned
from tempering.replications._merging import merged

CLAIM = Claim(
    method="chat_vector",
    catalogue=("S077",),
    title="Continued pretraining and instruction tuning added, against the better of the two",
    claim="A model with the changes of both trainings has a lower loss on answers about the new texts in the new form than either alone.",
    baseline="the better of the instruction-tuned model and the one that read the texts",
    metric="loss",
    smallest_effect=0.1,
    higher_is_better=False,
    range=(0.0, 7.3),
)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Loss per token of answers in sentences about the strangers."""
    base, people = tiny(), strangers(seed)
    chat, texts = tuned(seed, scale), read(base, "base", seed, scale)
    if arm == "method":
        return {"loss": asked(merged(ChatVector(), [chat, texts], base), people, scale)}
    ends = {"tuned": asked(chat, people, scale), "read": asked(texts, people, scale)}
    return {"loss": min(ends.values()), **ends}
