"""Decode chains in a saved policy: the steps by name and values in policy.json, each further model in a folder of its role beside the weights.

Only the package's own decodes are written with their values and found again, by the name of their file; nothing that policy.json says is imported
otherwise. A step of another kind is named, and left out when the policy is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from tempering import index
from tempering.errors import UserError
from tempering.types import Decode, Policy


def described(decode: tuple[Decode, ...]) -> list[Any]:
    """Each step as JSON can hold it: {"name", "values"}, or its class's name where it is none of the package's."""
    known = {(entry.module, entry.public): entry.name for entry in index.methods("decode")}
    found: list[Any] = []
    for step in decode:
        name = known.get((type(step).__module__, type(step).__name__))
        whole = name is not None and is_dataclass(step) and not isinstance(step, type)
        found.append({"name": name, "values": asdict(step)} if whole else type(step).__name__)  # type: ignore[call-overload]
    return found


def roles_of(notes: Mapping[str, Any]) -> tuple[str, ...]:
    """The roles that policy.json names: folders beside the weights."""
    found = notes.get("roles")
    return tuple(str(role) for role in found if str(role).isidentifier()) if isinstance(found, list) else ()


def restore(policy: Policy, folder: Path, notes: Mapping[str, Any], load: Callable[[Path], Policy], say: Callable[[str], None]) -> Policy:
    """The policy with the decode chain that its folder describes.

    Args:
        folder: that it was loaded from.
        notes: its policy.json.
        load: loads the model of a role.

    Raises:
        UserError: a step that this version does not have or whose values do not fit, or a role without its folder.
    """
    steps: list[Any] = []
    for told in notes["decode"] if isinstance(notes.get("decode"), list) else ():
        if not isinstance(told, dict):
            say(f"{folder}: the decode step {told} is not one of tempering's and is left out: the model answers without it")
            continue
        try:
            steps.append(index.load(index.find(str(told.get("name")), "decode"))(**told.get("values", {})))
        except (UserError, TypeError, ValueError) as error:
            raise UserError(
                f"{folder / 'policy.json'}: the decode step {told.get('name')!r} cannot be made ({error}); save the policy again"
            ) from None
    if not steps:
        return policy
    roles = {}
    for role in sorted({role for step in steps for role in step.roles} - {"policy"}):
        if role not in roles_of(notes) or not (folder / role).is_dir():
            raise UserError(f"{folder}: its decode chain needs a model {role!r}, and there is no folder of that name in it; save the policy again")
        roles[role] = load(folder / role).model
    policy.decode, policy.roles = tuple(steps), roles
    return policy
