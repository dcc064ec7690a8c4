"""Models in and out: loading by spec, the split into body and head, saving, exporting.

The functions are bound here before their modules can be (`tempering.models.load` is the function), and none of these imports torch or transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tempering.models.export import ExportReport, export
from tempering.models.load import Provenance, load, load_tokenizer, provenance
from tempering.models.places import BUILTINS
from tempering.models.resize import new_token_targets, resize_tokens
from tempering.models.save import save

if TYPE_CHECKING:
    from tempering.models.heads import Split, body_and_head, packs
    from tempering.models.value import with_outputs

__all__ = [
    "BUILTINS",
    "ExportReport",
    "Provenance",
    "Split",
    "body_and_head",
    "export",
    "load",
    "load_tokenizer",
    "new_token_targets",
    "packs",
    "provenance",
    "resize_tokens",
    "save",
    "with_outputs",
]


def __getattr__(name: str) -> Any:
    # heads.py and value.py need torch at their top; everything else here does not.
    if name in ("Split", "body_and_head", "packs"):
        from tempering.models import heads

        return getattr(heads, name)
    if name == "with_outputs":
        from tempering.models.value import with_outputs

        return with_outputs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
