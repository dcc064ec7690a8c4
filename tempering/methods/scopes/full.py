"""Full fine-tuning: every parameter trains, or those whose name matches a pattern.

The reference is a frozen copy, made only if some objective asks for it. Source: the usual practice; no paper.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from pydantic import field_validator

from tempering.config import Value
from tempering.errors import UserError

if TYPE_CHECKING:
    import torch


class Full(Value):
    """Train the weights themselves."""

    kind: Literal["full"] = "full"
    only: str | None = None
    """Regular expression searched in parameter names; None trains all. A reward model's head always trains. For
    example "layers\\.(2[0-9])\\." for the last ten of thirty blocks."""

    @field_validator("only")
    @classmethod
    def _is_pattern(cls, only: str | None) -> str | None:
        try:
            re.compile(only or "")
        except re.error as error:
            raise ValueError(f"{only!r} is not a regular expression: {error}") from None
        return only

    def attach(self, model: torch.nn.Module) -> FullHandle:
        """Make the chosen parameters trainable and freeze the others.

        Raises:
            UserError: no parameter matches `only`, or the weights are quantised.
        """
        if not all(p.is_floating_point() for p in model.parameters()):
            raise UserError("scope full cannot train quantised weights; load the model without quantise, or take scope lora")
        pattern = re.compile(self.only or "")
        params = {name: p for name, p in sorted(model.named_parameters()) if pattern.search(name) or name.startswith("value_head.")}
        if not params:
            some = ", ".join(name for name, _ in list(model.named_parameters())[:3])
            raise UserError(f"scope full: no parameter name matches only={self.only!r}; names look like {some}")
        for name, p in model.named_parameters():
            p.requires_grad_(name in params)
        return FullHandle(model, params)


class FullHandle:
    """Trained weights in place; `off()` is a frozen copy of the start."""

    def __init__(self, model: torch.nn.Module, params: Mapping[str, torch.nn.Parameter]) -> None:
        self.model = model
        self.params = dict(params)
        self._start: torch.nn.Module | None = None

    def keep_reference(self) -> None:
        import copy

        if self._start is None:
            self._start = copy.deepcopy(self.model).requires_grad_(False).eval()

    @contextmanager
    def off(self) -> Iterator[torch.nn.Module]:
        if self._start is None:
            raise RuntimeError("scope full has no reference: keep_reference() must be called before training")
        yield self._start

    def bake(self) -> torch.nn.Module:
        return self.model
