"""Predicting the feedback that one's own answers get teaches the answers better than being shown them.

Li et al. 2024 (arXiv 2401.00907) let a model answer questions, and train LoRA adapters to predict the feedback on these answers; questions of the
same kind are then answered right more often than after supervised fine-tuning on the answers, with small data above all. Here there are 200
questions about people whom the model does not know; the feedback confirms the model's answer or tells the right one. Both arms see the same
questions in the same order for as many steps, and answer the questions about the same facts in other words. Both train LoRA adapters of the default
rank. The learning rate is the better of 3e-3 and 1e-2 for the baseline, and the best of 1e-3, 3e-3 and 1e-2 for the method, on seed 100, which is
none of the seeds that count. What is left of the people whom the model knew before stands beside.
"""

from __future__ import annotations

from typing import Any

from tempering.data import prompt_ids
from tempering.making import Making
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.lora import LoRA
from tempering.methods.streams.laffi import LaFFi
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, sft_rows, tiny, train
from tempering.sample import sample
from tempering.types import Policy
from tempering.worlds.graded import Graded
from tempering.worlds.people import People

CLAIM = Claim(
    method="laffi",
    catalogue=("S031",),
    title="LaFFi against fine-tuning on the answers: reworded questions",
    claim="After as many steps, a model that learned to predict feedback on its answers answers more of the questions right in other words.",
    baseline="the same model fine-tuned on the right answers to the same questions",
    metric="accuracy",
    smallest_effect=0.05,
)
STEPS = 60
LR = 1e-2


def _ask(policy: Policy) -> Any:
    def asked(prompts: Any, n: int, temperature: float) -> list[list[str]]:
        found = sample(policy, [prompt_ids(policy.tokenizer, p) for p in prompts], n=n, temperature=temperature, max_new_tokens=16)
        return [[episode.text.strip() for episode in of] for of in found]

    return asked


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Accuracy on the trained facts in unseen wordings; and whether the model still knows those whom it knew."""
    world, start = People(30, start=20_000, seed=seed), tiny()
    records = list(world.records("train", scale(200)))
    facts = {record.id.rsplit(".", 1)[0] for record in records}
    lessons = list(LaFFi()(records, Making(seed, _ask(start)))) if arm == "method" else records
    tuned = train(start, NLL(), sft_rows(start, lessons), steps=scale(STEPS), seed=seed, lr=LR, scope=LoRA())
    items = [item for item in world.items("test") if item["id"].rsplit(".", 1)[0] in facts]
    found = {"accuracy": tuple(items[: scale(150)]), "accuracy on known people": tuple(People(100).items("test", scale(50)))}
    return {name: score(tuned, Graded(name, some, world.grade, max_new_tokens=24)) for name, some in found.items()}
