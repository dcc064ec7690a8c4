"""A model whose MLPs at some blocks speak in a few words of a codebook, and those words of it that belong to what is to go.

    y' = sum of the S codes nearest to y by cosine        R(c) = log2( (F_topic(c) + eps) / (F_other(c) + eps) )

Wu, Dossou & Liu 2024 (S032, CodeUnlearn, arXiv 2410.10866). y is what the MLP adds, F(c) the share of tokens that choose code c. A code that is taken
out is never chosen again; nothing is trained for a request, and putting it back gives the old answers to the bit. The paper puts a sparse autoencoder
around the codes and trains it with the language model's loss and a reconstruction; here the codes are those of y itself, begun at the means of a
k-means by cosine, divided by S, and trained by the model's loss alone. Its control texts are the topic's with its words replaced; here they are the
rows that stay.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tempering.errors import UserError
from tempering.models.codebook import Codebook, install, mlp_of, of
from tempering.types import Policy, Row, Segment

EPS = 1e-4


@contextmanager
def heard(mlp: Any) -> Iterator[list[Tensor]]:
    """What an MLP gives, before any codebook, [tokens, H] of every pass within."""
    said: list[Tensor] = []
    hook = mlp.register_forward_hook(lambda _module, _inputs, output: said.append(output.detach().flatten(0, -2)), prepend=True)
    try:
        yield said
    finally:
        hook.remove()


def given(model: Any, layer: int, segments: Sequence[Segment]) -> Tensor:
    """What the MLP of a block gives at every token of the segments, [tokens, H]."""
    device = next(model.parameters()).device
    with torch.no_grad(), heard(mlp_of(model, layer)) as said:
        for segment in segments:
            model(input_ids=torch.tensor(segment.ids[None].tolist(), device=device), use_cache=False)
    return torch.cat(said)


def means(y_NH: Tensor, codes: int, *, rounds: int = 10, seed: int = 0) -> Tensor:
    """K-means by cosine: the mean of the vectors nearest to each centre, [K, H]; a centre that is nearest to none stays where it was.

    Raises:
        UserError: fewer vectors than codes.
    """
    if len(y_NH) < codes:
        raise UserError(f"{codes} codes cannot be begun on {len(y_NH)} tokens; take fewer codes or more rows")
    draw = torch.Generator().manual_seed(seed)
    centre_KH = y_NH[torch.randperm(len(y_NH), generator=draw)[:codes]].clone()
    unit_NH = F.normalize(y_NH, dim=-1)
    for _ in range(rounds):
        nearest_N = (unit_NH @ F.normalize(centre_KH, dim=-1).T).argmax(-1)
        count_K = torch.bincount(nearest_N, minlength=codes)
        total_KH = torch.zeros_like(centre_KH).index_add_(0, nearest_N, y_NH)
        centre_KH = torch.where(count_K[:, None] > 0, total_KH / count_K.clamp(min=1)[:, None], centre_KH)
    return centre_KH


def speaking(policy: Policy, layers: Sequence[int], rows: Sequence[Row], *, codes: int, top: int, steps: int, lr: float, seed: int) -> Policy:
    """A copy with a codebook after the MLP of these blocks, whose codes are trained to keep the rows (part "train") likely; all else is frozen.

    Args:
        layers: each with `codes` codes of its own, begun by what its MLP gives behind the codebooks before it.
        top: how many are added up for every token.

    Raises:
        UserError: the model has no such block, or the rows fewer tokens than there are codes.
    """
    from tempering.config import Optimizer, Training
    from tempering.data.streams import Shuffled
    from tempering.fit import fit
    from tempering.methods.objectives.nll import NLL
    from tempering.methods.scopes.full import Full
    from tempering.types import Role

    model: Any = copy.deepcopy(policy.model)
    every = [segment for i in range(len(rows)) for segment in rows[i]["train"]]
    for layer in sorted(layers):
        install(model, layer, Codebook(means(given(model, layer, every[:: max(1, len(every) // 400)]), codes, seed=seed) / top, top))
    made = Policy(model, policy.tokenizer, name=f"{policy.name} + codebook", source=policy.source)
    if steps:
        scope: Any = Full(only=r"\.codebook\.codes$")
        how: dict[str, Any] = {"optimizer": Optimizer(lr=lr), "training": Training(precision="fp32", save_every=0), "seed": seed}
        fitted = fit({"policy": Role(model, scope)}, NLL(), Shuffled(rows, 16, seed), steps=steps, say=lambda _: None, **how)
        made.model = fitted.roles["policy"].model.requires_grad_(False).eval()
    return made


def usage(model: Any, layer: int, segments: Sequence[Segment]) -> Tensor:
    """The share of the segments' tokens that choose each code, float64 [K]."""
    codebook = of(model, layer)
    y_NH = given(model, layer, segments)
    counts_K = torch.bincount(codebook.chosen(y_NH).flatten(), minlength=len(codebook.alive_K))
    return counts_K.double().cpu() / len(y_NH)


def enriched(topic_K: Tensor, other_K: Tensor, least: float, most: int | None = None) -> list[int]:
    """Codes whose R is at least `least`, the most enriched first, at most `most`."""
    ratio_K = ((topic_K + EPS) / (other_K + EPS)).log2()
    order = sorted(range(len(ratio_K)), key=lambda c: (-float(ratio_K[c]), c))
    return [c for c in order if float(ratio_K[c]) >= least][:most]
