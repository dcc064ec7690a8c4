"""One expert of a mixture: which one some rows go through, and a scope in which it and its router alone train.

Zhuang et al. 2024 (S185, arXiv 2411.18797). Experts are read in the layout of transformers: matrices [experts, out, in] of a module `experts`, beside
a module `gate` that routes. The gradient of the other experts' slices is set to 0, which moves nothing under an optimizer without weight decay.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tempering.errors import UserError
from tempering.types import Handle, Row

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tempering.experiment import Experiment
    from tempering.methods.objectives.seuf import SEUF
    from tempering.signals import Engine

EXPERTS = re.compile(r"\.experts\.[^.]+$")


class OneExpert:
    """Train one expert and the router of its layer.

    Args:
        layer: which of the layers that have experts, from 0.
        expert: of that layer.
    """

    kind = "one expert"

    def __init__(self, layer: int, expert: int) -> None:
        self.layer, self.expert = layer, expert

    def attach(self, model: torch.nn.Module) -> Handle:
        """Freeze all but the layer's experts and router, and stop the gradient of the other experts.

        Raises:
            UserError: the model has no such layer or expert.
        """
        from tempering.methods.scopes.full import Full

        mixed = layers(model)
        if not 0 <= self.layer < len(mixed):
            raise UserError(f"layer {self.layer}: the model has {len(mixed)} layers with experts, numbered from 0")
        block = mixed[self.layer]
        shapes = {name: p.shape for name, p in model.named_parameters() if name.startswith(f"{block}.experts.")}
        if not all(0 <= self.expert < shape[0] for shape in shapes.values()):
            raise UserError(f"expert {self.expert}: layer {self.layer} has {min(shape[0] for shape in shapes.values())} experts, numbered from 0")
        handle: Any = Full(only=rf"^{re.escape(block)}\.(experts|gate)\.").attach(model)

        def only(gradient: Tensor) -> Tensor:
            kept = gradient.new_zeros(gradient.shape)
            kept[self.expert] = gradient[self.expert]
            return kept

        for name in shapes:
            handle.params[name].register_hook(only)
        return handle


def layers(model: Any) -> list[str]:
    """The modules that have experts in one tensor each and a gate, in order."""
    found = dict.fromkeys(EXPERTS.sub("", name) for name, p in model.named_parameters() if EXPERTS.search(name) and p.ndim == 3)
    names = dict(model.named_modules())
    return [block for block in found if f"{block}.gate" in names]


def scores(model: Any, rows: Sequence[Row], engine: Engine, most: int = 256) -> Tensor:
    """Mean routing probability of each expert over the rows' scored tokens, [layers, experts]; a layer's add up to 1.

    Args:
        rows: with the part "forget"; at most `most` of them are looked at.

    Raises:
        UserError: the model has no experts.
    """
    import torch

    from tempering.layout import collate, split, to
    from tempering.signals import Live, compute

    count = len(layers(model))
    if not count:
        raise UserError("seuf unlearns one expert of a mixture, and this model has none; take gradient_ascent")
    size = min(most, len(rows))
    names, sums, tokens = [f"router.{i}" for i in range(count)], 0.0, 0
    for micro in split(collate([{"forget": rows[i * len(rows) // size]["forget"]} for i in range(size)]), 4096):
        parts = to(micro, engine.device)
        of = compute({"policy": Live(model)}, parts, {"forget": frozenset(names)}, engine)["forget"]
        scored_T = parts["forget"].weight_T != 0
        sums = sums + torch.stack([of[name][scored_T].softmax(-1).double().sum(0) for name in names])
        tokens += int(scored_T.sum())
    return (sums / tokens).cpu()  # type: ignore[union-attr, operator]


def chosen(run: Experiment, model: Any, objective: SEUF, going: Sequence[Row]) -> tuple[SEUF, OneExpert]:
    """The objective with its layer and expert, and the scope in which these train.

    Raises:
        UserError: the model has no experts, or weights that get no gradient would decay.
    """
    from tempering.signals import engine_for

    if run.values["optimizer"].weight_decay:
        raise UserError("seuf keeps all other experts to the bit, which weight decay would move; set --optimizer.weight-decay 0")
    engine = engine_for(run.values["training"])
    found = scores(model.to(engine.device), going, engine)
    layer = objective.layer if objective.layer >= 0 else int(found.amax(1).argmax())
    if layer >= len(found):
        raise UserError(f"layer {layer}: the model has {len(found)} layers with experts, numbered from 0")
    expert = objective.expert if objective.expert >= 0 else int(found[layer].argmax())
    run.folder.write("experts.json", {"layer": layer, "expert": expert, "scores": found.tolist()})
    run.display.say(f"expert {expert} of layer {layer}, to which {float(found[layer][expert]):.0%} of the forget tokens go, trains alone")
    return replace(objective, layer=layer, expert=expert), OneExpert(layer, expert)
