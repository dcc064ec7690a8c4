"""Learning from questions and answers, the loss belongs on the answers: a loss on every token spends most of itself on the questions.

The usual practice of supervised fine-tuning (for example Ouyang et al. 2022, arXiv 2203.02155): prompt tokens are context and are not learned. Here
the facts are those of 40 people whom the model does not know, asked in four wordings; scored by greedy answers to wordings it was not trained on.
Both arms see the same rows in the same order for as many steps; one learns all tokens, the other the answers'. The learning rate is the better of
1e-3 and 3e-3 for both arms on seed 100, which is none of the seeds that count.
"""

from __future__ import annotations

from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, sft_rows, tiny, train
from tempering.worlds.people import People

CLAIM = Claim(
    method="nll",
    catalogue=(),
    title="Cross-entropy on the answers against cross-entropy on all tokens",
    claim="After the same rows and steps, a model trained on the answers alone answers more reworded questions right than one on all tokens.",
    baseline="the same model trained on every token of the same rows, questions too",
    metric="accuracy",
    smallest_effect=0.05,
)


def arm(seed: int, arm: str, scale: Scale) -> float:
    """Accuracy on questions in unseen wordings."""
    world, start = People(40, start=20_000, seed=seed), tiny()
    rows = sft_rows(start, world.records("train"), train_on="assistant" if arm == "method" else "all")
    tuned = train(start, NLL(), rows, steps=scale(60), seed=seed, lr=3e-3)
    return score(tuned, world.probe("test", scale(200)))
