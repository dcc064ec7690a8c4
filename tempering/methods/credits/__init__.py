"""Which token is praised for what was earned: scores with flat ids to advantages. `AnyCredit` is the union of every file in this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tempering.index import union

if TYPE_CHECKING:
    AnyCredit = Any
else:
    AnyCredit = union(__name__)
