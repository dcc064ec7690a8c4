"""Where a policy acts and what that earns. `AnyEnvironment` is the union of every file in this folder, told apart by `kind`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tempering.index import union

if TYPE_CHECKING:
    AnyEnvironment = Any
else:
    AnyEnvironment = union(__name__)
