"""What is there: methods and recipes found by walking the package.

There is no registry: a file under methods/<kind>/ or recipes/ is found because it is there. The index reads syntax trees and imports nothing.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import reduce
from operator import or_
from typing import Annotated, Any

from pydantic import Field


def union(package: str) -> Any:
    """The discriminated union of the public values (named like their file) in a package of light modules."""
    found = importlib.import_module(package)
    members = []
    for module in sorted(pkgutil.iter_modules(found.__path__), key=lambda m: m.name):
        loaded = importlib.import_module(f"{package}.{module.name}")
        members.append(next(value for name, value in vars(loaded).items() if name.lower() == module.name.replace("_", "") and isinstance(value, type)))
    return Annotated[reduce(or_, members), Field(discriminator="kind")]
