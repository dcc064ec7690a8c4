"""The plan of a recipe, and of the same recipe with each setting that could save memory."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from tempering.config import Training
from tempering.planning.rehearse import rehearse
from tempering.planning.terms import Plan, Switch, plan_of

LESS_STATE = ("adafactor", "bitsandbytes:AdamW8bit")
"""Optimizers that keep less than Adam, see docs/memory.md."""
_FULL_STATE = ("adamw", "adam", "nadam", "radam", "adamax")


def plan(
    recipe: Callable[..., Any], arguments: Mapping[str, Any], *, switches: Literal["needed", "all"] = "needed", say: Callable[[str], None] = print
) -> Plan:
    """What a run of `recipe` with these arguments will need.

    Args:
        arguments: the recipe's, as it is called with.
        switches: "needed" tries the settings that save memory where the run does not fit; "all" always.
        say: where notes on the data go.

    Raises:
        UserError: what the recipe or its data refuse, or a model that cannot be traced.
    """
    found = plan_of(recipe.__name__, rehearse(recipe, arguments, say))
    if switches == "needed" and found.fits is not False:
        return found
    tried = [Switch(flag, plan_of(recipe.__name__, rehearse(recipe, changed, _silent)).peak) for flag, changed in alternatives(arguments)]
    return replace(found, switches=tuple(sorted((s for s in tried if s.peak < found.peak), key=lambda s: s.peak)))


def alternatives(arguments: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(flag, arguments with it) of every setting that could save memory and is not on yet."""
    training = arguments.get("training")
    if isinstance(training, Training):
        fewer = max(1, training.micro_tokens // 4)
        yield f"--micro-tokens {fewer}", {**arguments, "training": training.model_copy(update={"micro_tokens": fewer})}
        if not training.checkpointing:
            if not 0 < training.recompute_over <= fewer:
                yield f"--recompute-over {fewer}", {**arguments, "training": training.model_copy(update={"recompute_over": fewer})}
            yield "--checkpointing", {**arguments, "training": training.model_copy(update={"checkpointing": True})}
    scope: Any = arguments.get("scope")
    kind = getattr(scope, "kind", "")
    if kind == "full":
        from tempering.methods.scopes.lora import LoRA

        yield "--scope lora", {**arguments, "scope": LoRA()}
    if kind == "lora":
        fewer_bits = ("bf16", "nf4") if importlib.util.find_spec("bitsandbytes") is not None else ("bf16",)
        for fewer in {"none": fewer_bits, "bf16": fewer_bits[1:]}.get(scope.quantise, ()):
            yield f"--quantise {fewer}", {**arguments, "scope": scope.model_copy(update={"quantise": fewer})}
    if arguments.get("reference") == "live" and kind == "full":
        yield "--reference cached", {**arguments, "reference": "cached"}
    optimizer = arguments.get("optimizer")
    if optimizer is not None and optimizer.name.lower().removeprefix("torch:") in _FULL_STATE:
        for name in LESS_STATE:
            package, colon, _ = name.partition(":")
            if not colon or importlib.util.find_spec(package) is not None:
                yield f"--optimizer {name}", {**arguments, "optimizer": optimizer.model_copy(update={"name": name, "options": {}})}


def _silent(_: str) -> None:
    pass
