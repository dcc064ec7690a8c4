"""LoRA: low-rank adapters on the linear layers (Hu et al. 2021, arXiv 2106.09685, eq. 3: W0 x + (alpha / r) B A x).

Built and stored by PEFT, in its file format; every field of PEFT's LoraConfig is reachable through `options` (DoRA, rsLoRA, PiSSA, LoftQ, ...).
The reference is the model with the adapter switched off: no second copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tempering.config import Value
from tempering.errors import UserError

if TYPE_CHECKING:
    import torch


class LoRA(Value):
    """Train low-rank adapters; the base weights stay as they are."""

    kind: Literal["lora"] = "lora"
    r: int = Field(default=16, gt=0)
    """Rank of A and B."""
    alpha: float = Field(default=32.0, gt=0)
    """The update is scaled by alpha / r. Twice the rank is the usual choice; the paper keeps it constant."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's inputs that are zeroed in training."""
    targets: str = "all-linear"
    """PEFT's target_modules: "all-linear", or module names separated by commas ("q_proj,v_proj" is the paper's choice)."""
    quantise: Literal["none", "bf16", "nf4", "int8"] = "none"
    """Keep the base's linear layers in bfloat16 (half the memory; exact for models that are published so), in 8 bits or in 4 (QLoRA, arXiv
    2305.14314): a base that is only nearly the same, by bitsandbytes."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further fields of peft.LoraConfig, for example {"use_dora": true}."""

    def attach(self, model: torch.nn.Module) -> LoRAHandle:
        """Wrap `model` with a PEFT adapter (the base model is modified in place; `bake()` gives it back).

        Raises:
            UserError: PEFT refuses a target or an option, or the base is not quantised though it should be.
        """
        import peft

        if self.quantise != "none" and all(p.is_floating_point() for p in model.parameters()):
            raise UserError(f"scope lora: quantise={self.quantise!r} is how the base is loaded; load it with quantise={self.quantise!r} too")

        targets = self.targets if self.targets == "all-linear" else [name.strip() for name in self.targets.split(",")]
        given = {"r": self.r, "lora_alpha": self.alpha, "lora_dropout": self.dropout, "target_modules": targets}
        known = peft.LoraConfig.__dataclass_fields__
        for name in self.options:
            if name not in known:
                import difflib

                near = difflib.get_close_matches(name, known, n=1)
                raise UserError(f"scope lora: peft.LoraConfig has no field {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
            if name in given or name == "task_type":
                raise UserError(f"scope lora: options may not set {name!r}; use the field of the scope (r, alpha, dropout, targets)")
        valued = hasattr(model, "value_head")
        try:
            config = peft.LoraConfig(task_type="FEATURE_EXTRACTION" if valued else "CAUSAL_LM", **given, **self.options)
            wrapped = peft.get_peft_model(model.backbone if valued else model, config)  # type: ignore[arg-type]
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"scope lora: PEFT refused targets={self.targets!r}, options={self.options!r}: {error}") from None
        if not valued:
            return LoRAHandle(wrapped)
        # A reward model's head is new, so it trains whatever the adapter covers.
        model.backbone = wrapped
        model.value_head.requires_grad_(True)  # type: ignore[operator]
        return ValueHandle(model)


class LoRAHandle:
    """A PEFT model; `off()` disables the adapter, `bake()` merges it into the base weights."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.params = {name: p for name, p in sorted(model.named_parameters()) if p.requires_grad}

    def keep_reference(self) -> None:
        """Nothing to keep: the base weights never change."""

    @contextmanager
    def off(self) -> Iterator[torch.nn.Module]:
        with self.model.disable_adapter():
            yield self.model

    def bake(self) -> torch.nn.Module | None:
        # Quantised weights plus the adapter would have to be rounded again.
        return self.model.merge_and_unload() if all(p.is_floating_point() for p in self.model.parameters()) else None


class ValueHandle(LoRAHandle):
    """A value model whose backbone is a PEFT model and whose head trains; `off()` is its start, head included."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._start = {name: p.detach().clone() for name, p in model.value_head.named_parameters()}

    @contextmanager
    def off(self) -> Iterator[torch.nn.Module]:
        head = dict(self.model.value_head.named_parameters())
        now = {name: p.data for name, p in head.items()}
        try:
            for name, p in head.items():
                p.data = self._start[name].to(p.device)
            with self.model.backbone.disable_adapter():
                yield self.model
        finally:
            for name, p in head.items():
                p.data = now[name]

    def bake(self) -> None:
        """Saving folds the adapter into a copy (`ValueModel.classifier`)."""
