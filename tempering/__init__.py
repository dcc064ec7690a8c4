"""tempering: change what a language model does, and know what it cost.

    import tempering as tp

    report = tp.run("sft", model="builtin:tiny", data="my.jsonl", scope="lora", lr=1e-4)
    print(report.ledger.sentence())

Everything public is reached from here and imported when it is first used: `import tempering` itself loads neither torch nor transformers.
`tp.measure`, `tp.sample` and `tp.fit` are modules that can be called: each runs the function of its own name.
"""

# ruff: noqa: F401 - the imports for type checkers are the names of _HOMES, which __all__ is made of
from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tempering.errors import GateFailed, Interrupted, UserError

_HOMES = {
    "tempering.cli.plan": ("plan",),
    "tempering.cli.run": ("run",),
    "tempering.config": ("Budget", "Optimizer", "Schedule", "Training"),
    "tempering.data": ("Table", "check", "pair_row", "read", "sft_row", "text_row", "unpaired_row"),
    "tempering.experiment": ("Experiment", "Report"),
    "tempering.gates": ("raise_if_failed",),
    "tempering.ledger": ("compare", "compare_many"),
    "tempering.ledger_types": ("Ledger",),
    "tempering.measure": ("keep_battery", "kl_from", "logps_of"),
    "tempering.methods.objectives.dpo": ("DPO",),
    "tempering.methods.objectives.nll": ("NLL",),
    "tempering.methods.scopes.full": ("Full",),
    "tempering.methods.scopes.lora": ("LoRA",),
    "tempering.models": ("export", "load", "save"),
    "tempering.sampling.server": ("ServerSampler",),
    "tempering.sampling.vllm": ("VLLMSampler",),
    "tempering.types": (
        "Batch",
        "Context",
        "Decode",
        "Episode",
        "Handle",
        "ItemScore",
        "Message",
        "Objective",
        "Policy",
        "Probe",
        "ProbeScores",
        "Record",
        "Response",
        "Role",
        "Row",
        "Scope",
        "Scores",
        "Segment",
        "Stream",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_CALLABLE = ("fit", "measure", "sample")

__all__ = sorted([*_HOME, *_CALLABLE, "GateFailed", "Interrupted", "UserError"])

if TYPE_CHECKING:
    from tempering.cli.plan import plan
    from tempering.cli.run import run
    from tempering.config import Budget, Optimizer, Schedule, Training
    from tempering.data import Table, check, pair_row, read, sft_row, text_row, unpaired_row
    from tempering.experiment import Experiment, Report
    from tempering.fit import fit
    from tempering.gates import raise_if_failed
    from tempering.ledger import compare, compare_many
    from tempering.ledger_types import Ledger
    from tempering.measure import keep_battery, kl_from, logps_of, measure
    from tempering.methods.objectives.dpo import DPO
    from tempering.methods.objectives.nll import NLL
    from tempering.methods.scopes.full import Full
    from tempering.methods.scopes.lora import LoRA
    from tempering.models import export, load, save
    from tempering.sample import sample
    from tempering.sampling.server import ServerSampler
    from tempering.sampling.vllm import VLLMSampler
    from tempering.types import (
        Batch,
        Context,
        Decode,
        Episode,
        Handle,
        ItemScore,
        Message,
        Objective,
        Policy,
        Probe,
        ProbeScores,
        Record,
        Response,
        Role,
        Row,
        Scope,
        Scores,
        Segment,
        Stream,
    )


class _CallableModule(ModuleType):
    """A module that runs its function of the same name: the name is taken by the module as soon as anything imports it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name in _CALLABLE and isinstance(value, ModuleType):
            value.__class__ = _CallableModule
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _CALLABLE:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("tempering")
        except PackageNotFoundError:
            return "0.0.0"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
