"""A model that is taught a form of answers over facts it does not know keeps more of its own facts if it was lent the new ones first.

Liu et al. 2024 (arXiv 2410.19290) find that fine-tuning on facts which a model does not know makes it say false things, and that it does so less
where an adapter learns those facts first, and the skill another one on top of it, from which the first is then taken away. Here the skill is to
answer in a sentence; it is taught with questions about 40 people whom the model does not know. Scored by held-out questions about the hundred people
that it does know: an answer counts if it is right and a sentence. The baseline teaches a LoRA adapter of the same rank by the same rows in the same
order for as many steps; the method's first stage, short answers about the same 40 people learned into an adapter of its own, comes on top. There are
no fictitious examples besides, and no loss without the knowledge (`alone`), which is for facts that the model knows. Beside it: right answers in any
form, and how many of the new people's facts the model says in the end. Rates, tried on seed 100, which is none of the seeds that count: 4e-4 (with
half as many steps more), 1e-3 and 3e-3; each arm has that with which it came out best. There the method's model still gave most of the right
answers, but often in its old short form: without the knowledge beneath it the skill was only half there. With half of the questions about people
whom the model knows, and the loss without the knowledge for these, both arms were worse at 1e-3.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.prereq_tune import PrereqTune
from tempering.methods.scopes.lora import LoRA
from tempering.methods.scopes.stacked import Stacked
from tempering.models import save
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, sft_rows, tiny, train
from tempering.worlds.base import Item
from tempering.worlds.graded import Graded
from tempering.worlds.people import People

CLAIM = Claim(
    method="prereq_tune",
    catalogue=("S120",),
    title="Prereq-Tune against LoRA fine-tuning on unknown facts: known facts in a new form",
    claim="After the same steps on facts that it does not know, a model answers more about facts it knows if an adapter knew them meanwhile.",
    baseline="a LoRA adapter of the same rank trained on the same rows, without knowledge beneath",
    metric="known facts in sentences",
    smallest_effect=0.05,
)
FACTS_STEPS, STEPS = 120, 60
FACTS_LR, LR = 3e-3, {"baseline": 4e-4, "method": 1e-3}


def said(people: People, n: int, *, form: bool) -> Graded:
    """How many facts are said, in a sentence if `form`; a short answer is one to three words without a full stop."""

    def right(output: str, item: Item) -> bool:
        return people.grade(output, item) and not (form and not (output.strip().endswith(".") and len(output.split()) > 3))

    return Graded("said", tuple(people.items("test", n)), right, max_new_tokens=people.max_new_tokens)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Accuracy on people whom the model knew; and what stands beside."""
    start, new, known = tiny(), People(40, seed, 20_000), People(100, style="sentence")
    sentences = replace(new, style="sentence")
    with TemporaryDirectory() as folder:
        beneath = ()
        if arm == "method":
            facts = sft_rows(start, new.records("train"), train_on="all")
            taught = train(start, NLL(), facts, steps=scale(FACTS_STEPS), seed=seed, lr=FACTS_LR, scope=LoRA(r=32, alpha=64.0))
            beneath = (str(save(taught, Path(folder) / "facts")),)
        scope = Stacked(r=64, alpha=128.0, beneath=beneath)
        tuned = train(
            start, PrereqTune(alone=0.0), sft_rows(start, sentences.records("train")), steps=scale(STEPS), seed=seed, lr=LR[arm], scope=scope
        )
    return {
        "known facts in sentences": score(tuned, said(known, scale(200), form=True)),
        "known facts": score(tuned, said(known, scale(200), form=False)),
        "new facts": score(tuned, said(sentences, scale(60), form=False)),
    }
