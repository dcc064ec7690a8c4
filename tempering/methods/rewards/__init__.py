"""What is rewarded: scores of answers, one file each. A reward is a value that is called with prompts and answers; so is an ensemble of rewards.

`AnyReward` is the union of those that can be named on the command line (`FAMILY = "checked"`): they are given the task's record too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tempering.index import union

if TYPE_CHECKING:
    AnyReward = Any
else:
    AnyReward = union(__name__, "checked")
