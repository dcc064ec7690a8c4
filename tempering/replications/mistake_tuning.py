"""Wrong ways to solve a problem, learned under a name of their own, teach to solve it right.

Tong et al. 2024 (arXiv 2403.20046) fine-tune on right rationales behind one prefix and on wrong ones behind another, and find better reasoning than
from the right ones alone. Here the reasoning is sums and differences of two-digit numbers worked place by place. There are 240 problems; the wrong
rationales are those of four samples of the same model, tuned for a few steps only, that end in another number. Both arms have the same problems and
the right prefix before them, and take as many steps of as many rows: where the method's rows are wrong rationales, the baseline sees right ones
once more. At the test the right prefix stands before the problems; accuracy behind the wrong prefix stands beside. The learning rate is the better
of 1e-3 and 3e-3 for both arms on seed 100, which is none of the seeds that count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tempering.data import prompt_ids
from tempering.making import Making, answer, asking, right
from tempering.methods.objectives.nll import NLL
from tempering.methods.streams.mistake_tuning import MistakeTuning
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, sft_rows, tiny, train
from tempering.sample import sample
from tempering.types import Policy, Record
from tempering.worlds.arithmetic import Arithmetic
from tempering.worlds.graded import Graded

CLAIM = Claim(
    method="mistake_tuning",
    catalogue=("S183",),
    title="Mistake tuning against right rationales alone, with the same problems and steps",
    claim="After as many steps, a model that also learned wrong rationales under a prefix of their own solves more held-out sums.",
    baseline="the same model fine-tuned on the right rationales of the same problems, each seen about twice as often",
    metric="accuracy",
    smallest_effect=0.05,
)
LR = 1e-3
STEPS = 60
PROBLEMS = 240
EARLY = 15
"""Steps of the checkpoint whose mistakes are learned."""


def with_mistakes(policy: Policy, records: list[Record], prefix: str, seed: int) -> Iterator[Record]:
    """The problems with the wrong rationales among four samples."""
    prompts = [prompt_ids(policy.tokenizer, asking(record, before=prefix)) for record in records]
    drawn = sample(policy, prompts, n=4, temperature=1.0, max_new_tokens=64, seed=seed)
    for record, episodes in zip(records, drawn, strict=True):
        wrong = {e.text.strip() for e in episodes if e.finished and e.text.strip() and not right(e.text, str(record.tags["answer"]))}
        responses = (*record.responses, *map(answer, sorted(wrong)))
        yield replace(record, responses=responses, better=tuple((0, i) for i in range(1, len(responses))))


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Accuracy on held-out problems."""
    world, start, how = Arithmetic(("add", "subtract"), steps=True, seed=seed), tiny(), MistakeTuning()
    records = list(world.records("train", scale(PROBLEMS)))
    rows = sft_rows(start, how(records, Making(seed)))
    wrong = 0
    if arm == "method":
        early = train(start, NLL(norm="segment_mean"), rows, steps=scale(EARLY), seed=seed, lr=LR)
        lessons = list(how(with_mistakes(early, records, how.correct, seed), Making(seed)))
        rows, wrong = sft_rows(start, lessons), len(lessons) - len(records)
    tuned = train(start, NLL(norm="segment_mean"), rows, steps=scale(STEPS), seed=seed, lr=LR)
    items = list(world.items("test", scale(150)))
    found = {
        name: score(tuned, Graded(name, tuple({**i, "prompt": prefix + i["prompt"]} for i in items), world.grade))
        for name, prefix in (("accuracy", how.correct), ("accuracy behind the wrong prefix", how.incorrect))
    }
    return {**found, "wrong rationales": float(wrong)}
