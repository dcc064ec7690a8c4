"""Which weights may move. `AnyScope` is the union of every scope in this folder, told apart by `kind`; a new file here joins it by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tempering.index import union

if TYPE_CHECKING:
    AnyScope = Any
else:
    AnyScope = union(__name__)
