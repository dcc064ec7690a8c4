"""Concept vectors (Hong et al. 2024, arXiv:2406.11614): did forgetting touch where knowledge is written, or only what the model says?

Column j of an MLP's down projection is a value vector v that the layer adds when its neuron j fires; its inner products with the output embeddings,
E v, say which tokens it speaks for. For vectors that stand for a concept, the intrinsic measures compare v before and after: Jaccard similarity of
its top-k tokens (k = 200), cosine, and L2 distance. A method that only suppresses answers leaves them where they were (1, 1 and 0).

A column is read by sending a unit vector through the projection, so adapters count as they act.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tempering.errors import UserError
from tempering.items import Item, ProbeValue, mean, read_items
from tempering.types import ItemScore, Policy, ProbeScores

if TYPE_CHECKING:
    from torch import Tensor, nn

CATALOGUE = ("S048",)


class ConceptVectorsItem(Item):
    """A value vector."""

    layer: int = Field(ge=0)
    dim: int = Field(ge=0)
    """Number of the neuron: the column of the down projection."""
    concept: str = ""


def value_vector(model: nn.Module, layer: int, dim: int) -> Tensor:
    """Column `dim` of layer `layer`'s down projection, float64 [hidden].

    Raises:
        UserError: the model has no such layer or neuron.
    """
    import torch

    ending = f"layers.{layer}.mlp.down_proj"
    found: Any = next((module for name, module in model.named_modules() if name == ending or name.endswith(f".{ending}")), None)
    if found is None:
        raise UserError(f"concept vectors: the model has no module …{ending}; layers count from 0, and the MLP must have a down_proj")
    if dim >= found.in_features:
        raise UserError(f"concept vectors: dim {dim} of layer {layer}: it has the neurons 0 to {found.in_features - 1}")
    weight = next(found.parameters())
    with torch.no_grad():
        zero_I = torch.zeros(found.in_features, device=weight.device, dtype=weight.dtype)
        unit_I = zero_I.clone()
        unit_I[dim] = 1
        return (found(unit_I) - found(zero_I)).double()


def top_tokens(model: Any, vector_H: Tensor, k: int) -> set[int]:
    """The `k` tokens whose output embeddings have the largest inner product with the vector."""
    weight_VH = model.get_output_embeddings().weight.detach().double()
    return set((weight_VH @ vector_H).topk(min(k, len(weight_VH))).indices.tolist())


def jaccard(a: set[int], b: set[int]) -> float:
    """Size of the intersection over size of the union; 1 for two empty sets."""
    return len(a & b) / len(a | b) if a | b else 1.0


class ConceptVectors(ProbeValue):
    """How alike the concept's vectors still are to what they were. On the side of what is to go, less is better."""

    kind: Literal["concept_vectors"] = "concept_vectors"
    name: str = "concept vectors"
    side: Literal["target", "keep"] = "target"
    items: str | tuple[ConceptVectorsItem, ...]
    """A JSON-lines file or items ({"layer", "dim"})."""
    reference: Any = None
    """A policy from before, or where it lies; None takes the model itself with its adapter switched off."""
    k: int = Field(default=200, gt=0)

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering import models

        items = read_items(self.items, ConceptVectorsItem, self.limit)
        if self.reference is None and policy.handle is None:
            raise UserError("concept vectors: there is nothing to compare with, give a reference policy or a model whose adapter can be switched off")
        handle: Any = policy.handle
        start = models.load(self.reference, say=lambda _: None) if isinstance(self.reference, str) else self.reference
        with nullcontext(start.model) if start is not None else handle.off() as model:
            before = [value_vector(model, item.layer, item.dim) for item in items]
            said = [top_tokens(model, vector, self.k) for vector in before]
        scored = []
        for item, old, tokens in zip(items, before, said, strict=True):
            new = value_vector(policy.model, item.layer, item.dim)
            cosine = float(old @ new / (old.norm() * new.norm()).clamp(min=1e-300))
            numbers = {"cosine": cosine, "l2": float((old - new).norm())}
            scored.append(ItemScore(item.id, jaccard(tokens, top_tokens(policy.model, new, self.k)), item.concept, extra=numbers))
        summary = {name: mean([s.extra[name] for s in scored]) for name in ("cosine", "l2")}
        return ProbeScores(self.name, f"Jaccard of top {self.k} tokens", "continuous", self.side == "keep", tuple(scored), self.side, summary)
