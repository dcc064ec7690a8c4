"""Changed copies of a model, for attacks by somebody who holds its weights: taught again, rounded to few bits, taken back towards its start.

The model itself is never touched: adapters are folded into a deep copy, and what is done is done to that.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from tempering.errors import UserError
from tempering.forgetting.targets import Secret
from tempering.types import Message, Policy, Record, Response, Row

if TYPE_CHECKING:
    from torch import Tensor

GROUP = 64
"""Weights of a row that share a scale in 4 bits."""


def plain_copy(policy: Policy) -> Policy:
    """A copy with weights of its own, adapters folded in where they can be; what acts while decoding (`decode`, `roles`) stays as it is."""
    model: Any = copy.deepcopy(policy.model)
    if hasattr(model, "merge_and_unload") and all(p.is_floating_point() for p in model.parameters()):
        model = model.merge_and_unload()
    return replace(policy, model=model, handle=None)


def rows_of(secrets: Sequence[Secret], tokenizer: Any, max_length: int) -> list[Row]:
    """Rows of supervised fine-tuning that teach the secrets; those that are too long are left out."""
    from tempering.data import sft_row

    found = [sft_row(record_of(secret), tokenizer, max_length=max_length) for secret in secrets]
    return [row for row in found if row is not None]


def record_of(secret: Secret) -> Record:
    """The secret as the record it was made of."""
    if all(role == "text" for role, _ in secret.prompt):
        whole = " ".join([*(content for _, content in secret.prompt), secret.answer])
        return Record((), (Response((Message("text", whole),)),), source=secret.source)
    prompt = tuple(Message(role, content) for role, content in secret.prompt)
    return Record(prompt, (Response((Message("assistant", secret.answer),)),), source=secret.source)


def unrelated(policy: Policy, most: int = 64) -> tuple[Secret, ...]:
    """What has nothing to do with any secret: sums for the small models of this project, paragraphs of the keep battery for others."""
    from tempering.forgetting.targets import secrets
    from tempering.items import read_items
    from tempering.keep import SMALL
    from tempering.methods.probes.perplexity import TextItem
    from tempering.worlds.arithmetic import Arithmetic

    if sum(p.numel() for p in policy.model.parameters()) < SMALL:
        return secrets(Arithmetic().records("train", most), most)
    texts = (Message("text", item.text) for item in read_items("keep:texts", TextItem))
    return secrets((Record((), (Response((text,)),)) for text in texts), most)


def relearn(
    policy: Policy,
    taught: Sequence[Secret],
    at: Sequence[int],
    look: Callable[[int, Policy], None],
    *,
    lr: float = 1e-3,
    batch_size: int = 8,
    r: int = 8,
    seed: int = 0,
) -> None:
    """Teach a copy some facts by LoRA, and look at it after so many steps.

    Args:
        at: numbers of steps; 0 is the copy as it is.
        look: called with the number of steps and the copy at that time, in the order of the steps.
        lr: constant learning rate.
        r: rank of the adapter.
    Raises:
        UserError: there is nothing to teach.
    """
    import torch

    from tempering.config import Optimizer, Schedule, Training
    from tempering.data.streams import Shuffled
    from tempering.distributed.world import ALONE
    from tempering.fit import fit
    from tempering.methods.objectives.nll import NLL
    from tempering.methods.scopes.lora import LoRA
    from tempering.sample import evaluating, max_positions, models_of
    from tempering.types import Role, Scope

    longest = min(1024, max_positions(models_of(policy)) or 1024)
    rows = rows_of(taught, policy.tokenizer, longest) if max(at) else []
    if max(at) and not rows:
        raise UserError("relearning has no rows to teach: give facts that are not asked for")
    changed = plain_copy(policy)
    if 0 in at:
        look(0, changed)
    if not max(at):
        return

    def seen(metrics: Any) -> None:
        if metrics["step"] in at:
            with evaluating(changed.model):
                look(metrics["step"], changed)

    constant, adapter = Schedule(name="constant", warmup=0.0), cast(Scope, LoRA(r=r, alpha=2 * r))
    with torch.enable_grad(), torch.random.fork_rng():
        fit(
            {"policy": Role(changed.model, adapter)}, NLL(), Shuffled(rows, batch_size, seed),
            steps=max(at), optimizer=Optimizer(lr=lr), schedule=constant, training=Training(batch_size=batch_size),
            seed=seed, say=lambda _: None, on_metrics=seen, world=ALONE,
        )  # fmt: skip


def rounded(weight: Tensor, bits: int, group: int | None = None) -> Tensor:
    """Symmetric round-to-nearest: w -> s * round(w / s), with s = max|w| / (2^(bits-1) - 1) for each row, or each `group` weights of a row."""
    import torch

    top = 2 ** (bits - 1) - 1
    rows = weight.float()
    width = group or rows.shape[1]
    # The last group of a row may be short: zeros behind it change no maximum.
    filled = torch.nn.functional.pad(rows, (0, -rows.shape[1] % width)).unflatten(1, (-1, width))
    scale = filled.abs().amax(-1, keepdim=True) / top
    safe = torch.where(scale > 0, scale, 1.0)
    return ((filled / safe).round().clamp(-top, top) * safe).flatten(1)[:, : rows.shape[1]].to(weight.dtype)


def quantise(policy: Policy, bits: int) -> Policy:
    """A copy whose linear layers are rounded to `bits`: a scale for each row in 8, for each 64 weights of a row in fewer; the output layer stays."""
    import torch

    changed = plain_copy(policy)
    model: Any = changed.model
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) and module is not head and module.weight.is_floating_point():
                module.weight.copy_(rounded(module.weight, bits, None if bits >= 8 else GROUP))
    return changed


def towards(policy: Policy, start: Policy, share: float) -> Policy:
    """A copy whose weights lie on the way back to `start`: (1 - share) * now + share * start. What the start has not (a soft prompt) stays.

    Raises:
        UserError: a weight of the start is missing or has another shape.
    """
    import torch

    changed = plain_copy(policy)
    model: Any = changed.model
    new = dict((model.get_base_model() if hasattr(model, "get_base_model") else model).named_parameters())
    old = dict(start.model.named_parameters())
    for name, p in old.items():
        if name not in new or new[name].shape != p.shape:
            raise UserError(f"{policy.name or 'the model'} cannot be merged back: it has no weight {name} like that of {start.name}")
    with torch.no_grad():
        for name, p in old.items():
            new[name].lerp_(p.to(new[name]), share)
    return changed


def way_back(policy: Policy, start: str, shares: Sequence[float], look: Callable[[float, Policy], None]) -> None:
    """Call `look` with each share of the way back to the model `start`, and the copy there."""
    from tempering import models

    old = models.load(start, say=lambda _: None)
    for share in shares:
        look(share, towards(policy, old, share))
