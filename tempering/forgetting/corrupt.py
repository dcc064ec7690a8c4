"""ECO's pieces: a classifier of prompts, a threshold that bounds false alarms, a model with corrupted embeddings, and how much it takes.

Liu et al. 2024 (S043, arXiv 2406.07933). The paper adds noise to the embeddings of a flagged prompt's tokens; here the noise belongs to a token, not
to its place: the corrupted model has another input table, so it is a plain model that can be saved, cached and served. Its own answer's tokens are
therefore corrupted too. Special tokens are left alone. Noise is told in units of the table's standard deviation.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tempering.methods.decodes.prompt_gate import PromptGate
from tempering.types import Policy, Segment

if TYPE_CHECKING:
    import torch


def prompt_of(segment: Segment, header: Sequence[int]) -> list[int]:
    """What the gate reads of a row: the ids before the answer's header; without a header, all of them."""
    scored = int(np.flatnonzero(segment.weight)[0])
    return segment.ids[: scored - len(header)].tolist() if header else segment.ids.tolist()


def common_header(segments: Sequence[Segment]) -> tuple[int, ...]:
    """The ids with which every prompt ends; () where a prompt consists of nothing else, as in plain texts."""
    prompts = [s.ids[: int(np.flatnonzero(s.weight)[0])].tolist() for s in segments]
    shortest = min(len(p) for p in prompts)
    size = 0
    while size < shortest and len({p[-1 - size] for p in prompts}) == 1:
        size += 1
    return tuple(prompts[0][-size:]) if 0 < size < shortest and len({tuple(p) for p in prompts}) > 1 else ()


def learn_gate(flagged: Sequence[Segment], others: Sequence[Segment], *, vocabulary: int, decay: float = 1e-3) -> PromptGate:
    """A logistic regression that tells the prompts of two sets apart by the tokens that occur in them; both sets weigh the same.

    Args:
        flagged, others: scored segments, at least one each.
        decay: of the squared weights.
    """
    import torch
    import torch.nn.functional as F

    header = common_header([*flagged, *others])
    prompts = [sorted(set(prompt_of(s, header))) for s in (*flagged, *others)]
    ids = torch.tensor([t for p in prompts for t in p])
    starts = torch.tensor([0, *np.cumsum([len(p) for p in prompts])[:-1].tolist()])
    label = torch.tensor([1.0] * len(flagged) + [0.0] * len(others))
    weight = torch.tensor([0.5 / len(flagged)] * len(flagged) + [0.5 / len(others)] * len(others))
    table, bias = torch.zeros(vocabulary, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([table, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        score = F.embedding_bag(ids, table, starts, mode="sum")[:, 0] + bias
        value = (F.binary_cross_entropy_with_logits(score, label, reduction="none") * weight).sum() + decay * table.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    return PromptGate(tuple(table.detach()[:, 0].tolist()), float(bias.detach()), header=header)


def probabilities(gate: PromptGate, segments: Sequence[Segment]) -> list[float]:
    """The classifier's probability for each row's prompt."""
    import torch

    return [
        float(gate.probability(torch.tensor([s.ids.tolist()] if not gate.header else [[*prompt_of(s, gate.header), *gate.header]]))) for s in segments
    ]


def pair_of(segment: Segment) -> tuple[list[int], list[int]]:
    """(prompt ids, answer ids) of a row: what stands before its first scored token, and the rest."""
    scored = int(np.flatnonzero(segment.weight)[0])
    return segment.ids[:scored].tolist(), segment.ids[scored:].tolist()


def threshold(calm: Sequence[float], false_alarms: float) -> float:
    """The smallest threshold under which a new prompt that is like these is flagged with probability at most `false_alarms` (split conformal).

    Args:
        calm: the classifier's probabilities for prompts that are not to be flagged and that it was not trained on.

    Returns just above the ceil((n + 1) (1 - false_alarms))-th smallest of n; 2, which flags nothing, where n is too small for the bound.
    """
    rank = math.ceil((len(calm) + 1) * (1 - false_alarms))
    return math.nextafter(sorted(calm)[rank - 1], 2.0) if rank <= len(calm) else 2.0


def corrupted(model: torch.nn.Module, sigma: float, *, dims: int = 0, seed: int = 0, spare: Sequence[int] = ()) -> Any:
    """A copy of a model whose input embeddings are moved by Gaussian noise of `sigma` times their own standard deviation.

    Args:
        dims: how many of each embedding's first numbers are moved; 0 moves all.
        spare: token ids that stay as they are.
    """
    import torch

    other: Any = copy.deepcopy(model)
    table = other.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(table.shape, generator=generator).to(table)
    noise[:, dims or table.shape[1] :] = 0
    noise[list(spare)] = 0
    moved = torch.nn.Embedding(*table.shape, device=table.device, dtype=table.dtype)
    with torch.no_grad():
        moved.weight.copy_(table + sigma * table.std() * noise)
    other.set_input_embeddings(moved)
    # The output head keeps the table as it was.
    other.config.tie_word_embeddings = False
    return other.requires_grad_(False).eval()


def guarded(start: Policy, gate: PromptGate, sigma: float, *, dims: int = 0, seed: int = 0) -> Policy:
    """The policy behind a gate, with itself under corruption for what is flagged; its weights stay as they are."""
    other = corrupted(start.model, sigma, dims=dims, seed=seed, spare=start.tokenizer.all_special_ids)
    return Policy(start.model, start.tokenizer, name=f"{start.name} + eco", decode=(gate,), roles={gate.role: other}, source=start.source)  # type: ignore[arg-type]


def slope(f: Callable[[float], float], at: float, width: float) -> float:
    """The two-point estimate (f(at + width) - f(at - width)) / (2 width)."""
    return (f(at + width) - f(at - width)) / (2 * width)


def search(f: Callable[[float], float], start: float, *, rate: float, width: float, steps: int) -> float:
    """Zeroth-order descent on f by `slope`, kept above `width`, where the estimate would ask for noise below 0.

    Returns the last place.
    """
    at = start
    for _ in range(steps):
        at = max(width, at - rate * slope(f, at, width))
    return at
