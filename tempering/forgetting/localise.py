"""Which tensors of a scope the forget rows pull at, and the rest do not: what trains is chosen by gradients before training.

Tian et al. 2024 (S011, MemFlex, arXiv 2407.01920, section 4, and the released code): half the tokens of each answer are replaced by others drawn at
random, three copies of each row, so that the gradients show where knowledge of the question lies and not which words answer it. Gradients are means
over copies, each copy's loss a mean over its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tempering.errors import UserError
from tempering.types import Handle, Row, Segment

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tempering.experiment import Experiment
    from tempering.methods.objectives.memflex import MemFlex
    from tempering.signals import Engine


class Region:
    """A scope of which only some tensors train.

    Args:
        scope: what attaches.
        choose: names those of the attached handle's parameters that train; asked once, before any training.
    """

    def __init__(self, scope: Any, choose: Callable[[Any], Collection[str]]) -> None:
        self.scope, self.choose, self.kind = scope, choose, f"{scope.kind} within a region"

    def attach(self, model: torch.nn.Module) -> Handle:
        """Attach the scope and freeze all but the chosen of its parameters."""
        handle = self.scope.attach(model)
        chosen = self.choose(handle)
        for name, p in handle.params.items():
            p.requires_grad_(name in chosen)
        handle.params = {name: p for name, p in handle.params.items() if name in chosen}
        return handle


def noised(segment: Segment, vocabulary: int, draw: np.random.Generator) -> Segment:
    """The segment with as many draws as half its scored tokens, each of which puts a random token in the place of a random scored one."""
    scored = np.flatnonzero(segment.weight)
    ids = segment.ids.copy()
    for _ in range(len(scored) // 2):
        ids[draw.choice(scored)] = draw.integers(vocabulary)
    return replace(segment, ids=ids)


def mean_gradients(handle: Any, rows: Sequence[Row], part: str, engine: Engine, micro_tokens: int | None = None) -> dict[str, Tensor]:
    """The gradient of the rows' mean loss (a row's is the mean over its tokens) with respect to what trains, by name; 0 where nothing reaches.

    Args:
        handle: an attached scope; its weights and gradients are as before afterwards.
        part: of the rows.
    """
    import torch

    from tempering.fit import Means, count_terms, total
    from tempering.layout import collate, split, to
    from tempering.methods.objectives.nll import NLL
    from tempering.signals import Live

    objective, parts = NLL(part, norm="segment_mean"), collate([{part: row[part]} for row in rows])
    micros = [(lambda m=m: to(m, engine.device)) for m in split(parts, micro_tokens)]
    handle.model.eval()
    with torch.enable_grad():
        total({"policy": Live(handle.model, handle)}, objective, micros, count_terms(objective, [parts]), 0, engine, Means())
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for name, p in handle.params.items()}
    for p in handle.params.values():
        p.grad = None
    return found


def region(forget: Mapping[str, Tensor], retain: Mapping[str, Tensor], mu: float, sigma: float) -> list[str]:
    """Names of the tensors whose two gradients have a cosine below mu, and a mean absolute forget gradient above sigma; both strict."""
    import torch.nn.functional as F

    found = []
    for name, g in forget.items():
        cosine = float(F.cosine_similarity(g.double().flatten(), retain[name].double().flatten(), dim=0))
        if cosine < mu and float(g.abs().mean()) > sigma:
            found.append(name)
    return found


def localised(run: Experiment, objective: MemFlex, going: Sequence[Row], staying: Sequence[Row]) -> Region:
    """The run's scope within the region that its forget and retain rows give; the names go to region.json.

    Raises:
        UserError (when it attaches): no tensor is in the region, or the weights are not whole in this process.
    """
    from tempering.distributed import word
    from tempering.signals import engine_for

    training, seed = run.values["training"], int(run.values["seed"])

    def choose(handle: Any) -> list[str]:
        vocabulary, found = handle.model.config.get_text_config().vocab_size, []
        for part, rows in (("forget", going), ("retain", staying)):
            draw = np.random.Generator(np.random.PCG64(seed))
            some = [rows[i * len(rows) // min(len(rows), len(going))] for i in range(min(len(rows), len(going)))]
            copies = [{part: tuple(noised(s, vocabulary, draw) for s in row[part])} for row in some for _ in range(objective.copies)]
            found.append(mean_gradients(handle, copies, part, engine_for(training), training.micro_tokens))
        names = region(found[0], found[1], objective.mu, objective.sigma)
        if not names:
            most = max(float(g.abs().mean()) for g in found[0].values())
            raise UserError(
                f"no tensor of the scope is in the region (mu {objective.mu}, sigma {objective.sigma}; the largest mean forget gradient is "
                f"{most:.2g}); lower --method.sigma or raise --method.mu"
            )
        sizes = [sum(handle.params[name].numel() for name in of) for of in (names, handle.params)]
        run.folder.write("region.json", names)
        run.display.say(f"the region: {len(names)} of {len(handle.params)} tensors, {sizes[0]:,} of {sizes[1]:,} weights")
        return names

    if word.several():
        raise UserError("memflex looks at gradients of whole weights before it trains, so it runs in one process; leave out --processes")
    return Region(run.values["scope"], choose)
