"""Some value vectors stand for a person, and without them the model does not know that person, while others lose little.

Hong et al. 2024 (arXiv 2406.11614) find vectors of the MLPs' output matrices that speak for a concept, show that taking them away removes what the
model knows of it, and that ways of unlearning hardly touch them. The first of these is what is compared here, on builtin:tiny, which knows a hundred
people: the vectors of one person are the 16 of all blocks that add most to the log-probabilities of that person's answers (neuron times gradient,
mean over the answers' tokens) beyond what they add to those of ten others. They are set to zero, where the paper adds noise; the baseline sets 16
drawn ones to zero, as many of each block. Scored is the accuracy on ten others less that on the person, in wordings that no row has; means over
three people. How far NPO on the same ten people's rows moves the chosen vectors stands beside (Jaccard of their 20 likeliest tokens). On seed 9,
which does not count, the only number tried of vectors, 16, gave differences of 0.12 and -0.02.
"""

from __future__ import annotations

import copy
from typing import Any

from tempering.config import Schedule
from tempering.data.forgetting import forget_row
from tempering.items import mean
from tempering.methods.objectives.npo import NPO
from tempering.methods.probes.concept_vectors import ConceptVectors, ConceptVectorsItem
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, tiny, train
from tempering.replications._forgetting import both, ten
from tempering.types import Policy
from tempering.worlds.base import rng
from tempering.worlds.people import People

CLAIM = Claim(
    method="concept_vectors",
    catalogue=("S048",),
    title="A model without a person's value vectors against one without as many others",
    claim="Taking a concept's vectors away removes what is known of it, and little else.",
    baseline="as many drawn vectors of the same blocks set to zero",
    metric="accuracy on others less accuracy on the person",
    smallest_effect=0.1,
    range=(-1.0, 1.0),
)
VECTORS = 16


def shares(policy: Policy, world: People) -> Any:
    """What each neuron of each block adds, to first order, to the log-probabilities of a world's answers; mean over tokens, [blocks, neurons]."""
    import torch

    seen: list[Any] = []

    def keep(module: Any, inputs: tuple[Any, ...]) -> None:
        inputs[0].retain_grad()
        seen.append(inputs[0])

    model: Any = copy.deepcopy(policy.model).requires_grad_(True)
    total, tokens = 0.0, 0
    hooks = [block.mlp.down_proj.register_forward_pre_hook(keep) for block in model.model.layers]
    with torch.enable_grad():
        for record in world.records("train"):
            segment = (forget_row(record, policy.tokenizer) or {})["forget"][0]
            seen.clear()
            ids = torch.tensor(segment.ids[None].tolist())
            weight_T = torch.tensor(segment.weight[1:])
            logp_T = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
            (logp_T * weight_T).sum().backward()
            total = total + torch.stack([(a * a.grad).sum((0, 1)) for a in seen]).detach()
            tokens += int((weight_T > 0).sum())
    for hook in hooks:
        hook.remove()
    return total / tokens


def without(policy: Policy, vectors: list[tuple[int, int]]) -> Policy:
    """A copy with these vectors (block, neuron) set to zero."""
    import torch

    model: Any = copy.deepcopy(policy.model)
    with torch.no_grad():
        for block, neuron in vectors:
            model.model.layers[block].mlp.down_proj.weight[:, neuron] = 0
    return Policy(model, policy.tokenizer, name="without")


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Means over three people."""
    start, others = tiny(), ten(seed + 5)
    common, draw, found = shares(start, People(10, start=others.start)), rng("vectors", seed), []
    tuned = train(start, NPO(beta=1.0), both(start, seed), steps=scale(16), seed=seed, lr=1e-3, schedule=Schedule(name="constant"))
    for person in ten(seed).people():
        if len(found) == scale(3, 1):
            break
        of_BI = shares(start, People(1, start=person.index, kinds=tuple(k for k in person.facts if k != "friend"))) - common
        width = of_BI.shape[1]
        chosen = [divmod(int(i), width) for i in of_BI.flatten().topk(VECTORS).indices]
        taken = chosen if arm == "method" else [(block, draw.randrange(width)) for block, _ in chosen]
        changed, world = without(start, taken), People(1, start=person.index, kinds=tuple(k for k in person.facts if k != "friend"))
        goes, stays = score(changed, world.probe("test", 12)), score(changed, others.probe("test", scale(70)))
        items = tuple(ConceptVectorsItem(layer=block, dim=neuron) for block, neuron in chosen)
        found.append((stays - goes, goes, stays, score(tuned, ConceptVectors(items=items, reference=start, k=20))))
    names = (CLAIM.metric, "accuracy on the person", "accuracy on others", "Jaccard of the vectors after NPO")
    return dict(zip(names, map(mean, zip(*found, strict=True)), strict=True))
