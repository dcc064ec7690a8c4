"""What two models know of a text goes into a third that reads little of it, though neither has its tokenizer.

Wan et al. 2024 (FuseLLM, arXiv 2401.10491) train on a text and on the fused distributions of other models, and get further than by the text alone.
Here each of two experts has read many replies to requests, about half of the topics, with a tokenizer that has only some of the student's merges (a
half and three quarters), so that what it reads is cut otherwise. The student reads few replies about all topics, several times; the baseline as
often without the experts. Scored is the loss on other replies, in nats for each token. 20 steps were best for the baseline, of 20, 40 and 80, on seed
100, which is none of the seeds that count; there lambda 0.5 was better than the paper's 0.9, which is taken.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from tempering.config import Training
from tempering.data.aligned import Words
from tempering.data.taught import Read
from tempering.methods.objectives.fuse_llm import FuseLLM
from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import fingerprint, loss, sft_rows, start, tiny, train
from tempering.recipes.fuse_llm import fused
from tempering.reference import columns
from tempering.signals import engine_for
from tempering.types import Policy, Record
from tempering.worlds.preferences import TOPICS, Preferences

CLAIM = Claim(
    method="fuse_llm",
    catalogue=("S066",),
    title="FuseLLM against training on the same few texts alone",
    claim="After the same steps on few texts, a model that also learns what two experts with other tokenizers say of them has a lower loss.",
    baseline="the same steps on the texts alone",
    metric="loss",
    smallest_effect=0.01,
    higher_is_better=False,
    range=(0.0, 3.9),
)
K, LAMBDA, MERGES = 10, 0.9, (0.5, 0.75)
FEW, STEPS, RATE = 48, 20, 1e-3


def cut(policy: Policy, share: float) -> Policy:
    """The same model with a tokenizer that has only the first of its merges: another reading of every text."""
    from tokenizers import Tokenizer

    tokenizer: Any = copy.deepcopy(policy.tokenizer)
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    told["model"]["merges"] = told["model"]["merges"][: round(share * len(told["model"]["merges"]))]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(told))
    return Policy(policy.model, tokenizer, name=policy.name)


def expert(records: list[Record], half: int, seed: int, steps: int) -> Policy:
    """builtin:tiny after it has read the replies about every other topic, in its own tokens."""
    topics = list(TOPICS)[half::2]
    mine = [record for record in records if any(topic in record.prompt[-1].content for topic in topics)]
    base = cut(tiny(), MERGES[half])
    rows = sft_rows(base, mine)
    inputs = {"claim": "fuse_llm", "rows": fingerprint(rows), "seed": seed, "steps": steps, "lr": 1e-3}
    made = start(inputs, lambda: train(base, NLL(), rows, steps=steps, seed=seed, lr=1e-3))
    return Policy(made.model, base.tokenizer)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Loss per token of held-out replies."""
    world, student = Preferences(seed=seed), tiny()
    records, held = list(world.records("train", FEW + 16 * scale(120))), sft_rows(student, world.records("test", scale(150)))
    few, many = records[:FEW], records[FEW:]
    if arm == "baseline":
        return {"loss": loss(train(student, NLL(), sft_rows(student, few), steps=scale(STEPS), seed=seed, lr=RATE), held)}
    experts = [expert(many, half, seed, scale(120)) for half in (0, 1)]
    read = Read([one.tokenizer for one in experts])
    rows: Any = [row for record in few if (row := read(record, student.tokenizer)) is not None]
    for i, who in enumerate([student, *experts]):
        names = tuple(f"said{i}.{name}" for name in ("logp", f"top_logp.{K}", f"top_id.{K}"))
        rows = list(columns(who, rows, engine_for(Training(precision="fp32")), column=names, part=f"read{i - 1}" if i else "train"))
    rows = list(fused(rows, Words(student.tokenizer), [one.tokenizer for one in experts], student.tokenizer, "min_ce", K))
    return {"loss": loss(train(student, FuseLLM(k=K, lambda_=LAMBDA), rows, steps=scale(STEPS), seed=seed, lr=RATE), held)}
