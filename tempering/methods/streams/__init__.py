"""What a method makes of the data before any loss sees it. `AnyLessons` makes demonstrations, `AnyComparisons` pairs, `AnyRounds` pairs anew every
few steps; a new file joins by its `FAMILY`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tempering.index import union

if TYPE_CHECKING:
    AnyLessons = AnyComparisons = AnyRounds = Any
else:
    AnyLessons, AnyComparisons, AnyRounds = union(__name__, "lessons"), union(__name__, "comparisons"), union(__name__, "rounds")
