"""A new LoRA adapter that is trained on top of frozen ones: what they know is there while it learns, and is taken away afterwards.

    W x = W0 x + (frozen adapter beneath) x + (alpha / r) B A x,   at use   W0 x + (alpha / r) B A x

Made for prerequisite learning (Liu et al. 2024, arXiv 2410.19290, S120: a knowledge adapter beneath a skill adapter). Of several adapters beneath one
is switched on at a time (`handle.use`); role "alone" gives the signals of the new adapter without any (`alone.logp`), with gradient. When training
ends those beneath are let go, so what is measured and saved is a plain adapter of the base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tempering.errors import UserError
from tempering.methods.scopes.lora import LoRA, LoRAHandle

if TYPE_CHECKING:
    import torch

CATALOGUE = ("S120",)


class Stacked(LoRA):
    """Train a low-rank adapter over frozen ones, which are let go in the end."""

    kind: Literal["stacked"] = "stacked"  # type: ignore[assignment]
    beneath: tuple[str, ...] = ()
    """Folders of adapters of the same base, as `temper run sft --scope lora` writes them; without any this is `lora`."""

    def attach(self, model: torch.nn.Module) -> LoRAHandle:
        """Wrap `model` with the new adapter and those beneath, the first of which is switched on.

        Raises:
            UserError: what `lora` refuses, a reward model, or a folder that holds no adapter of this model.
        """
        if hasattr(model, "value_head"):
            raise UserError("scope stacked: reward models are not trained over other adapters; take scope lora")
        return StackedHandle(super().attach(model).model, self.beneath)


class StackedHandle(LoRAHandle):
    """A PEFT model with the trained adapter "default" and frozen ones beneath."""

    def __init__(self, model: Any, beneath: tuple[str, ...]) -> None:
        super().__init__(model)
        self.names = tuple(f"beneath{i}" for i in range(len(beneath)))
        for name, folder in zip(self.names, beneath, strict=True):
            _load(model, folder, name)
        self.views: Mapping[str, Callable[[], AbstractContextManager[torch.nn.Module]]] = {"alone": self.alone}
        self.now: int | None = None
        self.use(0 if beneath else None)

    def use(self, number: int | None) -> None:
        """Switch on the adapter of this number beneath, or none."""
        self.now = number
        self._switch(["default"] if number is None else ["default", self.names[number]])

    def _switch(self, names: list[str]) -> None:
        self.model.base_model.set_adapter(names)
        # PEFT takes whatever is switched on for something to train.
        trained = {id(p) for p in self.params.values()}
        for p in self.model.parameters():
            p.requires_grad_(id(p) in trained)

    @contextmanager
    def alone(self) -> Iterator[torch.nn.Module]:
        """The trained adapter without those beneath."""
        before = self.now
        self.use(None)
        try:
            yield self.model
        finally:
            self.use(before)

    def finish(self) -> None:
        """Let those beneath go."""
        self.use(None)
        for name in self.names:
            self.model.delete_adapter(name)
        self.names = ()

    def bake(self) -> torch.nn.Module | None:
        self.finish()
        return super().bake()


def _load(model: Any, folder: str, name: str) -> None:
    if not all((Path(folder) / file).is_file() for file in ("adapter_config.json", "adapter_model.safetensors")):
        raise UserError(f"scope stacked: {folder} holds no adapter (adapter_config.json and adapter_model.safetensors); train one with --scope lora")
    try:
        found = model.load_adapter(folder, name, is_trainable=False)
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError) as error:
        first = str(error).strip().split("\n")[0]
        raise UserError(f"scope stacked: the adapter in {folder} does not fit this model: {first}") from None
    lacking = [key for key in found.missing_keys if f".{name}." in key] + list(found.unexpected_keys)
    if lacking:
        raise UserError(f"scope stacked: the adapter in {folder} does not fit this model (the first weight that does not match is {lacking[0]})")
