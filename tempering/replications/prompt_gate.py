"""A gate that corrupts prompts about what is to go forgets without touching a weight, and at less cost than training does.

Liu et al. 2024 (arXiv 2406.07933, ECO) recognise such prompts with a classifier, add noise to their embeddings, and find that the rest is answered as
before. Here ten known people are to go from builtin:tiny. The classifier is a logistic regression on the tokens of the forget rows' prompts and those
of other people; its threshold flags at most a twentieth of 500 other prompts. The noise is the best of one half, one and two standard deviations of
the embeddings, as the baseline chooses its best step. What is compared is the difference between what stays and what goes on questions in wordings
that no row has. Nothing of the method was tried before; the baseline's rate is the best of 3e-4, 5e-4 and 1e-3 on seed 9, which does not count.
"""

from __future__ import annotations

from dataclasses import replace

from tempering.data.forgetting import forget_row, retain_row
from tempering.forgetting.corrupt import guarded, learn_gate, probabilities, threshold
from tempering.methods.decodes.prompt_gate import PromptGate
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import tiny
from tempering.replications._forgetting import known, staying, ten
from tempering.replications._trade import graddiff
from tempering.types import Policy

CLAIM = Claim(
    method="prompt_gate",
    catalogue=("S043",),
    title="Corrupted prompts behind a gate (ECO) against gradient ascent with the retain rows' likelihood",
    claim="What stays and what goes come further apart when prompts about it are recognised and corrupted than after training on it.",
    baseline="gradient ascent on the same rows with the likelihood of the retain rows (GradDiff)",
    metric="best difference of accuracies",
    smallest_effect=0.1,
)


def gate_of(start: Policy, seed: int) -> PromptGate:
    """The classifier with its threshold."""
    gone = [segment for record in ten(seed).records("train") for segment in (forget_row(record, start.tokenizer) or {})["forget"]]
    calm = [segment for record in staying(seed) for segment in (retain_row(record, start.tokenizer) or {})["retain"]]
    apart = calm[:: len(calm) // 500]
    others = [segment for i, segment in enumerate(calm) if i % (len(calm) // 500)]
    gate = learn_gate(gone, others, vocabulary=len(start.tokenizer))
    return replace(gate, threshold=threshold(probabilities(gate, apart), 0.05))


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The best difference, and what it is made of."""
    start = tiny()
    if arm == "baseline":
        return graddiff(start, seed, scale)
    gate = gate_of(start, seed)
    found = [(*known(guarded(start, gate, sigma, seed=seed), seed, scale(70)), sigma) for sigma in (0.5, 1.0, 2.0)]
    goes, stays, sigma = max(found, key=lambda one: one[1] - one[0])
    return {CLAIM.metric: stays - goes, "accuracy on those who stay": stays, "accuracy on those who go": goes, "noise": sigma}
