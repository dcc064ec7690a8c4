"""What data say of models that are merged: a statistic of every tensor, computed once for a model and its rows and kept in the store, read lazily.

"fisher": for each weight the mean over rows of the squared gradient of the log-likelihood of one answer that the model draws itself, at the places
that the row scores: an unbiased estimate of the diagonal of the Fisher information (curvature.py says where that comes from). "gram": for the weight
of each linear layer the sums of products of its inputs, over all tokens of the rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tempering import index
from tempering.errors import UserError
from tempering.home import atomic_folder, store_dir
from tempering.merging.config import Config
from tempering.merging.read import File, Weights, on_model, stamps
from tempering.types import Policy, Row

FORMAT = 1
"""Raised whenever the same rows give other numbers."""


def known_of(config: Config, models: Mapping[str, Weights], say: Callable[[str], None] = print) -> dict[str, Weights]:
    """The statistics that the method asks for, by model; none for one that looks at no data.

    Raises:
        UserError: it looks at data and there are no rows for a model, or it does not and there are some; rows that cannot be read or used.
    """
    kind = getattr(index.load(index.find(config.merge_method, "merge")), "statistic", None)
    named = {(source.model, source.calibrate or config.calibrate) for source in config.sources}
    if kind is None:
        if any(rows for _, rows in named):
            raise UserError(f"{config.merge_method} looks at no data; leave --calibrate out, or take --method fisher or regmean")
        return {}
    data: dict[str, str] = {}
    for model, rows in sorted(named, key=str):
        if rows is None:
            raise UserError(
                f"{config.merge_method} looks at data: give rows with --calibrate ROWS, one for all models or one for each; {model} has none"
            )
        if data.setdefault(model, rows) != rows:
            raise UserError(f"calibrate: {model} is named twice, with the rows {data[model]} and {rows}; give it the same ones everywhere")
    return {model: _known(kind, model, rows, models[model], say) for model, rows in data.items()}


def _known(kind: str, model: str, data: str, weights: Weights, say: Callable[[str], None]) -> Weights:
    from safetensors.torch import save_file

    from tempering.data import read, sft_row
    from tempering.models.tokens import read_tokenizer

    tokenizer = read_tokenizer(weights.tokenizer)
    rows = [row for record in read(data, say=say) if (row := sft_row(record, tokenizer)) is not None]
    if not rows:
        raise UserError(f"--calibrate {data}: no row is usable; look with `temper check {data}`")
    digest = hashlib.sha256(repr((FORMAT, kind, stamps(weights))).encode())
    for segment in (segment for row in rows for segment in row["train"]):
        digest.update(segment.ids.tobytes() + segment.weight.tobytes())
    folder = store_dir("statistics") / digest.hexdigest()[:32]
    if not folder.exists():
        say(f"looking at {model} on {len(rows)} rows of {data} ...")
        found = STATISTICS[kind](_folded(model, weights, say), rows)
        with atomic_folder(folder, existing="keep") as part:
            save_file({name: tensor.contiguous() for name, tensor in found.items()}, part / "known.safetensors")
    return File(folder / "known.safetensors")


def _folded(model: str, weights: Weights, say: Callable[[str], None]) -> Policy:
    """The model with its adapters folded in, as they are in the tensors that are merged."""
    from tempering.models import load

    if two := on_model(model):
        policy = _folded(two[0], weights, say)
        with torch.no_grad():
            for name, tensor in policy.model.state_dict().items():
                if name in weights.metas:
                    tensor.copy_(weights.read(name))
        return policy
    policy = load(model, say=say)
    unload = getattr(policy.model, "merge_and_unload", None)
    return policy if unload is None else replace(policy, model=unload())


def fisher(policy: Policy, rows: Sequence[Row]) -> dict[str, Tensor]:
    """Parameter name -> diagonal Fisher information, of its shape, in float32."""
    from tempering.config import Training
    from tempering.curvature import OwnLabels
    from tempering.fit import Means, total
    from tempering.layout import collate, to
    from tempering.methods.scopes.full import Full
    from tempering.sample import evaluating
    from tempering.signals import Live, engine_for

    engine = engine_for(Training(precision="fp32"))
    policy.model.to(engine.device)
    handle: Any = Full().attach(policy.model)
    found = {name: torch.zeros_like(p, dtype=torch.float32, requires_grad=False) for name, p in handle.params.items()}
    with evaluating(policy.model), torch.enable_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for row in rows:
            parts = to(collate([row]), engine.device)
            total({"policy": Live(handle.model, handle)}, OwnLabels(), [lambda parts=parts: parts], [1.0], 0, engine, Means())
            for name, p in handle.params.items():
                if p.grad is not None:
                    found[name].addcmul_(p.grad, p.grad, value=1 / len(rows))
                p.grad = None
    return {name: tensor.detach().cpu() for name, tensor in found.items()}


def gram(policy: Policy, rows: Sequence[Row]) -> dict[str, Tensor]:
    """Name of a linear layer's weight -> sums of products of its inputs [in, in], in float32."""
    from tempering.sample import evaluating

    model, found, hooks = policy.model, {}, []

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0].detach().reshape(-1, args[0].shape[-1]).float()
            found[name].addmm_(x.T, x)

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found[f"{name}.weight"] = torch.zeros(module.in_features, module.in_features, device=module.weight.device)
            hooks.append(module.register_forward_pre_hook(look(f"{name}.weight")))
    try:
        with evaluating(model), torch.no_grad():
            for segment in (segment for row in rows for segment in row["train"]):
                model(input_ids=torch.from_numpy(segment.ids).long()[None].to(next(model.parameters()).device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: tensor.cpu() for name, tensor in found.items()}


STATISTICS: Mapping[str, Callable[[Policy, Sequence[Row]], dict[str, Tensor]]] = {"fisher": fisher, "gram": gram}
