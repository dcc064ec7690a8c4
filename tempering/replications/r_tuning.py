"""A model that was taught to say whether it is sure answers, where it says so, more often right than a plainly tuned one does everywhere.

Zhang et al. 2023 (arXiv 2311.09677) split the training questions by whether the model answers them right before tuning, teach "I am sure." or "I am
unsure." behind the answers, and find a higher accuracy on the questions that the tuned model is willing to answer than vanilla tuning has on all.
Here builtin:tiny knows 100 people and not 100 others. Half of each are trained on; the questions that count are about the other halves. Both arms see
the same questions and answers in the same order for as many steps. Willing means that "I am sure." is likelier behind the model's own answer. The
area under the ROC of that likelihood stands beside. The baseline's learning rate is the better of 3e-4 and 1e-3 on seed 100, which is none of the
seeds that count; the method's, 1e-3, is the only one that was tried for it.
"""

from __future__ import annotations

from typing import Any

from tempering.data import prompt_ids
from tempering.items import answer_ids
from tempering.making import Making, assistant, right, user
from tempering.measure import logps_of
from tempering.methods.objectives.nll import NLL
from tempering.methods.probes.calibration import auroc
from tempering.methods.streams.r_tuning import RTuning
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import sft_rows, tiny, train
from tempering.sample import sample
from tempering.types import Policy
from tempering.worlds.base import rng
from tempering.worlds.people import People

CLAIM = Claim(
    method="r_tuning",
    catalogue=("S233",),
    title="R-Tuning against vanilla fine-tuning: accuracy on the questions that the model is willing to answer",
    claim="Of the questions about people it was not tuned on, the model gets a larger share of those right of which it says that it is sure.",
    baseline="the same model fine-tuned on the same answers without sentences of certainty, answering every question",
    metric="accuracy of what is answered",
    smallest_effect=0.1,
)


def _ask(policy: Policy) -> Any:
    def asked(prompts: Any, n: int, temperature: float) -> list[list[str]]:
        found = sample(policy, [prompt_ids(policy.tokenizer, p) for p in prompts], n=n, temperature=temperature, max_new_tokens=16, batch_size=32)
        return [[episode.text.strip() for episode in of] for of in found]

    return asked


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Accuracy on held-out people of what is answered, and which share that is."""
    start, how = tiny(), RTuning()
    records = [record for people in (People(50), People(50, start=20_000, seed=seed)) for record in people.records("train", scale(320))]
    rng("r_tuning", seed).shuffle(records)
    lessons = list(how(records, Making(seed, _ask(start)))) if arm == "method" else records
    tuned = train(start, NLL(norm="segment_mean"), sft_rows(start, lessons), steps=scale(60), seed=seed, lr=1e-3 if arm == "method" else 3e-4)
    items = [item for people in (People(50, start=50), People(50, start=20_050, seed=seed)) for item in people.items("test", scale(120))]
    own = [texts[0] for texts in _ask(tuned)([(user(item["prompt"]),) for item in items], 1, 0.0)]
    correct = [right(text, item["answer"]) for text, item in zip(own, items, strict=True)]
    if arm == "baseline":
        return {"accuracy of what is answered": sum(correct) / len(correct), "answered": 1.0}
    asked = [prompt_ids(tuned.tokenizer, (user(i["prompt"]), assistant(t), user(how.question))) for i, t in zip(items, own, strict=True)]
    sure, unsure = ([float(x.sum()) for x in logps_of(tuned, [(ids, answer_ids(tuned, said)) for ids in asked])] for said in (how.sure, how.unsure))
    willing = [c for c, a, b in zip(correct, sure, unsure, strict=True) if a > b]
    area = auroc([a - b for a, b in zip(sure, unsure, strict=True)], correct)
    return {
        # A model that answers nothing is right about nothing.
        "accuracy of what is answered": sum(willing) / max(1, len(willing)),
        "answered": len(willing) / len(items),
        "accuracy on all": sum(correct) / len(correct),
        "area": 0.5 if area is None else area,
    }
