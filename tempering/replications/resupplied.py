"""A model that never saw some facts acts on them as soon as they stand in its prompt.

Shumailov et al. 2024 (UnUnlearning, arXiv 2407.00106): even exact unlearning does not keep a model from what it was to forget, because knowledge
comes back in the context. SmolLM2-135M-Instruct never saw the people of these worlds, which is what exact unlearning would leave. It is asked
questions about five of them with four answers each, of which the likeliest is taken. The method's prompt tells what is to be known of three people,
the one who is asked about among them; the baseline's prompt tells nothing, and the answers are chance. Seed 9, which does not count, gave 0.20 and
0.50 on 20 questions; nothing else was tried.
"""

from __future__ import annotations

from tempering import models
from tempering.methods.probes.multiple_choice import ChoiceItem, MultipleChoice
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score
from tempering.worlds.people import People

CLAIM = Claim(
    method="resupplied",
    catalogue=("S009",),
    title="Facts that a model never saw, told in its prompt, against the question alone",
    claim="Knowledge that is not in the weights comes back through the prompt, so that even exact unlearning does not stop its use.",
    baseline="the same model without the facts in its prompt",
    metric="right answers among four",
    smallest_effect=0.2,
)


def arm(seed: int, arm: str, scale: Scale) -> float:
    """The share of right answers."""
    world = People(6, start=60_000 + 10 * seed, kinds=("city", "job", "hobby", "pet", "food"))
    told = [*world.texts()]
    items = []
    for asked in world.choice_items("test", scale(30, 4)):
        first = int(asked["id"].split(".")[0][1:]) - world.start
        known = " ".join(told[i % len(told)] for i in (first - 1, first, first + 1))
        question = asked["question"] if arm == "baseline" else f"{known}\n\n{asked['question']}"
        items.append(ChoiceItem(**{**asked, "question": question}))
    return score(models.load("builtin:smollm2-135m", say=lambda _: None), MultipleChoice(items=tuple(items)))
