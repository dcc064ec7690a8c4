"""Routers that are told which experts came nearest to the dense model lose less than routers that learn from the text alone: FactorLLM.

Zhao et al. 2024 (FactorLLM) cut the MLPs of a trained model into experts, take some of them for each token, and train with a prior-approximate loss,
which names the experts nearest to what the dense MLP said; so little is lost after few steps. Here builtin:tiny, in which four experts stand for
each MLP and two are active, learns from worked answers to stories for 20 steps; both arms take their likelihood, in the same order, and the method
the routers' loss beside it. Scored by the loss on the answers to held-out stories; the range ends at the entropy of single tokens. Beside it stand
the dense model's loss, that right after the cut, and that of a model whose routers stay as they were drawn while all else learns. The rate is the
better of 1e-3 and 3e-3 for both arms on seed 100, which is none of the seeds that count; there the routers' loss helped more with a weight of 1 than
of 0.3, and not where whole stories were read, of which the dense model knows little.
"""

from __future__ import annotations

from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.prior_approximate import PriorApproximate
from tempering.methods.reshapes.factor_llm import FactorLLM
from tempering.methods.scopes.full import Full
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import loss, sft_rows, tiny, train
from tempering.recipes.factor_llm import with_priors
from tempering.reshaping.run import reshape
from tempering.types import Objective
from tempering.worlds.arithmetic import WordProblems

CLAIM = Claim(
    method="factor_llm",
    catalogue=("S107",),
    title="Half of an MLP's experts for each token: the prior-approximate loss beside the text's against the text's alone",
    claim="After the same steps, a model cut into experts has a lower loss where its routers were told which experts are nearest to the dense MLP.",
    baseline="the same cut model, trained on the text alone",
    metric="loss",
    smallest_effect=0.02,
    higher_is_better=False,
    range=(0.0, 3.9),
)
EXPERTS, ACTIVE, STEPS, RATE = 4, 2, 20, 1e-3


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Loss per token of the answers, in nats."""
    world, dense, steps = WordProblems(seed=seed), tiny(), scale(STEPS)
    rows = sft_rows(dense, world.records("train", 16 * steps))
    held = sft_rows(dense, world.records("test", scale(100)))
    cut = reshape(dense, FactorLLM(experts=EXPERTS, active=ACTIVE, seed=seed), say=lambda _: None)
    objective: Objective = NLL()
    if arm == "method":
        rows = list(with_priors(dense.model, rows, EXPERTS, ACTIVE))
        objective = objective + PriorApproximate(layers=5)
    beside: dict[str, float] = {}
    if arm == "baseline":
        unmoved = train(cut, objective, rows, steps=steps, seed=seed, lr=RATE, scope=Full(only=r"^(?!.*\.mlp\.gate\.)"))
        beside = {"dense": loss(dense, held), "cut": loss(cut, held), "random routers": loss(unmoved, held)}
    return {"loss": loss(train(cut, objective, rows, steps=steps, seed=seed, lr=RATE), held), **beside}
