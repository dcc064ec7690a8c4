"""Exporting a model for other tools, and proving that what was written is what was trained.

With `check`, log-probs of a few texts are compared along every step from the live policy to the files read back: adapter to merged weights (where
rounding to the storage type may show) and merged or adapter to saved-again (where nothing may). The check runs before the folder gets its name, so
an export that disagrees does not exist.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.errors import UserError
from tempering.home import atomic_folder
from tempering.models.load import load
from tempering.models.save import is_peft, plain_model, write
from tempering.types import Policy

if TYPE_CHECKING:
    from torch import Tensor

MERGE_TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 0.15}
"""Largest difference of a token's log-prob (nats) between an adapter and the same change folded into weights of that type. bfloat16 keeps 8 bits, so
folding rounds every weight by up to 0.4%; about three times what SmolLM2-135M shows (2e-5, 6e-3 and 5e-2)."""
SAVE_TOLERANCE = 1e-4
"""The same between a model and itself read back from its files, in any type: the weights are the same."""

PROMPTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Question: What is 17 + 25?\nAnswer: 42",
    "def area(width: float, height: float) -> float:\n    return width * height\n",
)


@dataclass(frozen=True)
class Comparison:
    """One step of the proof: the largest absolute difference of a token's log-prob, in nats."""

    name: str
    max_abs_difference: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        return self.max_abs_difference <= self.tolerance


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it compares with the live policy."""

    folder: Path
    kind: str
    """"adapter", "merged" or "full"."""
    comparisons: tuple[Comparison, ...] = ()
    tokens: int = 0
    """Scored tokens per comparison."""
    moved: float | None = None
    """How far the adapter moves a token's log-prob at most: what the differences are to be seen against. None without an adapter or a check."""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"wrote the {self.kind} model to {self.folder}"]
        for c in self.comparisons:
            lines.append(f"{c.name}: agree within {c.tolerance:g} (largest difference {c.max_abs_difference:.1e} nats over {self.tokens} tokens)")
        if self.moved is not None:
            lines.append(f"for comparison: the adapter moves these log-probs by up to {self.moved:.1e} nats")
        return "\n".join([*lines, *self.notes])


def export(
    policy_or_folder: Policy | str | Path,
    out: str | Path,
    *,
    merged: bool = True,
    check: bool = True,
    prompts: Sequence[str] = PROMPTS,
    say: Callable[[str], None] = print,
) -> ExportReport:
    """Write a model for other tools to `out`.

    Args:
        policy_or_folder: a policy, or a spec that `load` takes (loaded in the type it was saved in).
        out: a folder that does not exist yet.
        merged: plain weights; otherwise an adapter stays an adapter.
        check: compare log-probs of `prompts` before the folder gets its name.
        say: where notes go.

    Raises:
        UserError: what `load` and `save` raise, or the models do not agree; nothing is left then.
    """
    policy = policy_or_folder if isinstance(policy_or_folder, Policy) else load(policy_or_folder, dtype="auto", say=say)
    notes: list[str] = []
    if policy.decode:
        steps = ", ".join(type(step).__name__ for step in policy.decode)
        notes.append(f"not exported: the decode chain ({steps}) acts while sampling and has no place in a folder of weights")
    out = Path(out).expanduser().absolute()
    with atomic_folder(out) as temporary:
        kind = write(policy, temporary, merged=merged)
        comparisons, tokens, moved = _check(policy, temporary, kind, prompts) if check else ((), 0, None)
    return ExportReport(out, kind, comparisons, tokens, moved, tuple(notes))


def _check(policy: Policy, folder: Path, kind: str, prompts: Sequence[str]) -> tuple[tuple[Comparison, ...], int, float | None]:
    model: Any = policy.model
    dtype = str(model.dtype).removeprefix("torch.")
    live = logps(model, policy.tokenizer, prompts)
    steps: list[Comparison] = []
    written, moved = live, None
    if is_peft(model):
        with model.disable_adapter():
            moved = _distance(live, logps(model, policy.tokenizer, prompts))
    if is_peft(model) and kind != "adapter":
        written = logps(plain_model(policy), policy.tokenizer, prompts)
        steps.append(Comparison("adapter and merged", _distance(live, written), MERGE_TOLERANCE[dtype]))
    again = load(folder, dtype=dtype, say=lambda _: None)
    steps.append(Comparison(f"{kind} and saved-again", _distance(written, logps(again.model, again.tokenizer, prompts)), SAVE_TOLERANCE))
    for step in steps:
        if not step.agrees:
            raise UserError(
                f"the exported model is not the trained one: {step.name} differ by {step.max_abs_difference:.2g} nats in a token's log-prob, "
                f"more than {step.tolerance:g} ({dtype}); nothing was written. Export in float32, or as an adapter."
            )
    return tuple(steps), int(live.numel()), moved


def logps(model: Any, tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """The log-probs of the prompts' tokens after the first, float32 [all tokens], in evaluation mode and without gradient.

    Computed in float32 whatever the weights are: in bfloat16 two right ways of computing the same differ by as much as training changes.
    """
    import torch

    training = [module for module in model.modules() if module.training]
    model.eval()
    device = next(model.parameters()).device
    pieces = []
    try:
        with torch.no_grad(), _in_float32(model):
            for prompt in prompts:
                ids = torch.tensor([tokenizer.encode(prompt)], device=device)
                logp = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0, :-1], -1)
                pieces.append(logp.gather(-1, ids[0, 1:, None]).squeeze(-1).cpu())
    finally:
        for module in training:
            module.training = True
    return torch.cat(pieces)


@contextlib.contextmanager
def _in_float32(model: Any) -> Iterator[None]:
    """Half-precision weights stand in float32 inside, and are the very same tensors again after."""
    import torch

    kept = [(p, p.data) for p in (*model.parameters(), *model.buffers()) if p.dtype in (torch.float16, torch.bfloat16)]
    try:
        for p, data in kept:
            p.data = data.float()
        yield
    finally:
        for p, data in kept:
            p.data = data


def _distance(a: Tensor, b: Tensor) -> float:
    # Tokenizers that cut a text differently are as far apart as can be; NaN must not pass for agreement either.
    if a.shape != b.shape:
        return float("inf")
    difference = float((a - b).abs().max())
    return difference if difference == difference else float("inf")
