"""Settings as values: small frozen pydantic models that a recipe's signature is made of.

A value with nothing set is the published or the usual default, so every key that a user sets is visibly theirs. The command line, `--config` files
and Python all build the same values. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Value(BaseModel):
    """Base of every setting: frozen, no unknown fields, no silent conversion of strings to other kinds of thing."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's arguments as what JSON can hold: each setting as a mapping of its fields, everything else as it is."""
    return {name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value for name, value in values.items()}


class Optimizer(Value):
    """Which optimizer moves the weights, and how fast."""

    name: str = "adamw"
    """adamw, adam, sgd, adafactor, muon, rmsprop, ... (any of torch.optim), sophia, `bitsandbytes:NAME`, `pytorch_optimizer:NAME` where installed."""
    lr: float = Field(default=1e-4, gt=0)
    """Learning rate per optimizer step, before the schedule."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Applied to matrices only; biases, norms and other vectors are never decayed."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the optimizer's constructor, for example {"betas": [0.9, 0.95]}."""


class Schedule(Value):
    """How the learning rate goes over the run."""

    name: Literal["constant", "linear", "cosine", "wsd"] = "linear"
    """After the warm-up: constant; linear or cosine down to `floor`; wsd stays constant and falls linearly over the last `decay` share."""
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps over which the rate rises from 0."""
    decay: float = Field(default=0.2, gt=0, le=1)
    """Share of the steps over which wsd falls."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """The last rate, as a share of the peak."""


class Training(Value):
    """How the loop runs. Only `epochs`, `steps`, `batch_size`, `clip` and `precision` change the result; the rest is memory and bookkeeping."""

    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training rows; ignored where `steps` is set."""
    steps: int | None = Field(default=None, gt=0)
    """Optimizer steps."""
    batch_size: int = Field(default=16, gt=0)
    """Rows (prompts, pairs) of one optimizer step."""
    micro_tokens: int = Field(default=2048, gt=0)
    """Tokens of one forward and backward pass. A memory setting: gradients are normalised over the whole step, so it changes no result."""
    layout: Literal["segments", "packed", "padded"] = "segments"
    """How sequences share a forward pass: all in one row with common prefixes once, several a row, or one; changes no result."""
    clip: float | None = Field(default=1.0, gt=0)
    """Largest global norm of the gradient."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 keeps float32 weights and runs matmuls in bfloat16; auto takes it where the hardware has fast bfloat16 matmuls."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    recompute_over: int = Field(default=0, ge=0)
    """Tokens of a pass whose activations are kept: a longer one (a long sequence is never cut) recomputes as many blocks as it takes; 0 = none."""
    eval_every: int = Field(default=0, ge=0)
    """Steps between evaluations on the test rows; 0 = at the end only."""
    patience: int = Field(default=0, ge=0)
    """Stop after this many evaluations without a new best; 0 = never."""
    keep_best: bool = True
    """End with the weights of the best evaluation (where there is more than one)."""
    save_every: int = Field(default=50, ge=0)
    """Steps that a killed run loses at most; checkpoints are written while training goes on. 0 = only when the run is asked to stop."""
    keep_checkpoints: int = Field(default=2, gt=0)
    """How many checkpoints stay on the disk: the newest."""


class Budget(Value):
    """What to measure and what must hold afterwards."""

    keep: Literal["default", "quick", "none"] = "default"
    """The battery of what the model knew before: default (about a minute on 135M parameters), quick (a third of the items), none."""
    gate: tuple[str, ...] = ()
    """Conditions on the ledger, for example "keep >= 0.98"; a failed one ends with exit code 3."""
    max_test: int = Field(default=200, gt=0)
    """Test rows that are generated and graded at most."""
    own_score: bool = True
    """Also score test rows as the loss itself does, and its loss on them at the end of training. Without it pairs go through the model once, in
    the precision of the training."""
