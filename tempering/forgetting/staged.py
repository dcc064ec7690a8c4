"""Methods of forgetting that are more than one training: models learned before, and what becomes of the weights after.

A method's file is its loss; what stands around it is here, and is chosen by what the loss says of itself:

- `learns` names roles that the loss reads, which are the start model trained further on the forget rows with the same settings (WHP's "reinforced");
- `SEUF`: one expert is chosen by where the forget rows are routed, and trains alone (`experts.py`);
- `LAF`: where representations lie is learned first, of rows without their answers (`unlabelled.py`);
- `ToolDelete`: a share of a tool-free model's weights, less random ones, is added to the trained weights;
- `TaskVector`: the trained weights are replaced by the start's minus a share of the difference, as plain weights;
- `MemFlex`: what trains is chosen by gradients first (`localise.py`);
- `ULD`: an assistant made of the start's first layers is trained, and the start with that assistant in its decode chain is what is kept.

Each is a training of its own in the run folder, so a run that was stopped goes on in the one where it was.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tempering.errors import UserError
from tempering.types import Policy, Role

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tempering.experiment import Experiment
    from tempering.forgetting.looks import Watch
    from tempering.forgetting.until import Until
    from tempering.types import Objective, Row, Stream


def fit(
    run: Experiment,
    start: Policy,
    objective: Objective,
    going: Sequence[Row],
    staying: Sequence[Row],
    watched: Sequence[Row],
    stream: tuple[Stream, int],
    until: tuple[Until | Watch, int] | None = None,
) -> Policy:
    """The policy that has forgotten, saved in the run folder.

    Args:
        start: the model as it is; its weights may move.
        objective: a loss of the family "forget".
        going: the forget rows.
        staying: the retain rows.
        watched: forget and held-out retain rows side by side.
        stream: what gives the rows of both, and for how many steps.
        until: the rule for when to stop, and how often it is asked.

    Raises:
        UserError: a rule for when to stop, where what trains is not what is kept.
    """
    from tempering.forgetting.experts import chosen
    from tempering.forgetting.localise import localised
    from tempering.forgetting.unlabelled import densities
    from tempering.methods.objectives.laf import LAF
    from tempering.methods.objectives.memflex import MemFlex
    from tempering.methods.objectives.nll import NLL
    from tempering.methods.objectives.seuf import SEUF
    from tempering.methods.objectives.task_vector import TaskVector
    from tempering.methods.objectives.tool_delete import ToolDelete
    from tempering.methods.objectives.uld import ULD
    from tempering.signals import engine_for

    if until is not None and isinstance(objective, (ULD, TaskVector)):
        raise UserError(f"{until[0].flag}: what trains here is not what is kept, so the rule cannot be asked of it; give --steps instead")
    others: dict[str, Role] = {}
    for role in getattr(objective, "learns", ()):
        learner = Policy(copy.deepcopy(start.model), start.tokenizer, name=start.name, source=start.source)
        others[role] = Role(run.fit(role, learner, NLL("forget"), going, watched).model)
    if isinstance(objective, ULD):
        assistant = Policy(first_layers(start.model, objective.layers), start.tokenizer, name=start.name, source=start.source)
        return run.fit("fit", assistant, objective, going, watched, stream, ending=lambda tuned: beside(start, tuned, objective))
    if isinstance(objective, TaskVector):
        before = {name: p.detach().clone() for name, p in start.model.named_parameters()}
        return run.fit("fit", start, objective, going, watched, stream, ending=lambda tuned: negated(before, tuned, objective.factor))
    if isinstance(objective, LAF) and not run.rehearses:
        objective = densities(start, objective, going, staying, engine_for(run.values["training"]))
    if isinstance(objective, ToolDelete) and objective.alpha and not run.rehearses:
        return run.fit("fit", start, objective, going, watched, stream, until, ending=lambda tuned: restored(tuned, objective, run.values["model"]))
    scope = None
    # A plan has no gradients or routes to look at; the whole scope takes at least as much.
    if isinstance(objective, MemFlex) and not run.rehearses:
        scope = localised(run, objective, going, staying)
    if isinstance(objective, SEUF) and not run.rehearses:
        objective, scope = chosen(run, start.model, objective, going)
    return run.fit("fit", start, objective, going, watched, stream, until, roles=others, scope=scope)


def restored(tuned: Policy, method: Any, start: str) -> Policy:
    """tuned + alpha (tool-free - random), weight by weight, as a plain model without a scope.

    Args:
        method: names the tool-free model, alpha and the seed of the random weights (`ToolDelete`).
        start: the model that is taken where it names none.

    Raises:
        UserError: the tool-free model has other weights, or the scope cannot be folded into plain ones.
    """
    import torch

    from tempering import models
    from tempering.models.save import plain_model
    from tempering.planning.trace import build

    free = models.load(method.tool_free or start, say=lambda _: None).model
    with torch.random.fork_rng():
        torch.manual_seed(method.vector_seed)
        drawn: Any = build(free.config, torch.device("cpu"))
    folded = plain_model(tuned)
    plain = copy.deepcopy(folded) if folded is tuned.model else folded
    old, random = (dict(model.named_parameters()) for model in (free, drawn))
    with torch.no_grad():
        for name, p in plain.named_parameters():
            if name not in old or old[name].shape != p.shape:
                raise UserError(f"tool_free {method.tool_free}: it has no weight {name} like that of the model that forgets; give its own start")
            p.add_(method.alpha * (old[name].to(p) - random[name].to(p)))
    return Policy(plain.requires_grad_(False).eval(), tuned.tokenizer, name=tuned.name, source=tuned.source)


def negated(start: dict[str, Tensor], tuned: Policy, factor: float) -> Policy:
    """start - factor (tuned - start), weight by weight, as a plain model without a scope (see `moved`)."""
    return moved(tuned, start, start, -factor)


def moved(tuned: Policy, start: dict[str, Tensor], since: dict[str, Tensor], factor: float = 1.0) -> Policy:
    """start + factor (tuned - since), weight by weight, as a plain model without a scope.

    Args:
        tuned: a trained model; it stays as it is.
        start, since: every parameter's value by name: what is moved, and what the tuned model was before its training.

    Raises:
        UserError: the scope cannot be folded into plain weights.
    """
    import torch

    from tempering.models.save import plain_model

    with torch.no_grad():
        folded = plain_model(tuned)
        plain = copy.deepcopy(folded) if folded is tuned.model else folded
        for name, p in plain.named_parameters():
            p.copy_(start[name].to(p) + factor * (p - since[name].to(p)))
    return Policy(plain.requires_grad_(False).eval(), tuned.tokenizer, name=tuned.name, source=tuned.source)


def first_layers(model: torch.nn.Module, layers: int) -> Any:
    """A copy of a causal language model with its first blocks only; embeddings, last norm and head are the same.

    Args:
        layers: how many; 0 is a quarter of them, at least 1.

    Raises:
        UserError: it has fewer.
    """
    from tempering.models.load import provenance, record
    from tempering.planning.trace import build, shallow

    config: Any = model.config
    have = config.get_text_config().num_hidden_layers
    if layers > have:
        raise UserError(f"the assistant is to have the first {layers} layers, the model has {have}; lower --layers")
    device = next(model.parameters()).device
    small = build(shallow(config, layers or max(1, have // 4)), device)
    mine = small.state_dict()
    # What a block is called does not depend on how many there are.
    small.load_state_dict({name: value for name, value in model.state_dict().items() if name in mine})
    small.generation_config = copy.deepcopy(getattr(model, "generation_config", None))
    if (origin := provenance(model)) is not None:
        record(small, origin)
    return small


def beside(start: Policy, assistant: Policy, method: Any) -> Policy:
    """The start model with the assistant's logits subtracted while it decodes.

    Args:
        method: says how much is subtracted, and from which tokens (`ULD`).
    """
    from tempering.methods.decodes.logit_difference import LogitDifference
    from tempering.models.save import plain_model

    decode = LogitDifference(method.subtract, method.threshold)
    roles = {decode.role: plain_model(assistant).requires_grad_(False).eval()}
    return Policy(start.model, start.tokenizer, name=assistant.name, decode=(decode,), roles=roles, source=assistant.source)  # type: ignore[arg-type]
