"""Rewards as folders say them: a reward model, or an ensemble of several that `temper run reward_ensemble` left."""

from __future__ import annotations

import json
from pathlib import Path

from tempering.errors import UserError
from tempering.methods.rewards.ensemble import Ensemble
from tempering.methods.rewards.reward_model import RewardModel
from tempering.types import Reward

FILE = "ensemble.json"
"""What a saved ensemble says of itself: {"how", "penalty", "members": folders beside it}."""


def saved(folder: str | Path) -> Reward:
    """The reward in a folder: a model's, or a run's.

    Raises:
        UserError: it says that it is an ensemble, but not of what.
    """
    place = next((place for place in (Path(folder), Path(folder) / "model") if (place / FILE).is_file()), None)
    if place is None:
        return RewardModel(str(folder))
    try:
        said = json.loads((place / FILE).read_text(encoding="utf-8"))
        members = tuple(RewardModel(str(place / name)) for name in said["members"] if Path(name).name == name)
        return Ensemble(members, said["how"], float(said["penalty"]))
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{place / FILE} is not what `temper run reward_ensemble` writes; train the ensemble again") from None


def named(folders: str) -> Reward:
    """The reward that a user names: a folder or hub id, or several with commas between, whose worst score counts."""
    members = tuple(saved(folder.strip()) for folder in folders.split(","))
    return members[0] if len(members) == 1 else Ensemble(members, "worst")
