"""Inputs that are mixed with what the model would have written itself: a second pass in which it half reads its own predictions.

A first pass without gradient, in evaluation mode, reads the given tokens and guesses each scored one (signal "guess": the likeliest token there). In
the pass of "mixed.SHARE.NAME" the embedding of a scored token is (1 - SHARE) times its own plus SHARE times that of its guess; all other tokens keep
theirs. Gradient flows through the embeddings, not through the guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from tempering.layout import Layout, LayoutKind, arrange
from tempering.types import Batch

MIXED = "mixed."
"""What the name of such a signal begins with."""


def share_of(signal: str) -> tuple[float, str]:
    """ "mixed.0.2.logp" -> (0.2, "logp"); "logp" -> (0, "logp"), of the plain pass."""
    found = re.fullmatch(r"mixed\.(\d*\.?\d+(?:e-\d+)?)\.([a-z]\w*(?:\.\d+)?)", signal)
    return (float(found[1]), found[2]) if found and float(found[1]) else (0.0, signal)


@dataclass(frozen=True)
class Mix:
    """How the inputs of a pass are mixed: the share of the guessed tokens, and these, int64 [T]; read where a token is scored."""

    share: float
    guess_T: Tensor

    def __call__(self, model: Any, batch: Batch, layout: Layout) -> Tensor:
        """Input embeddings [R, L, D]. Guesses are put in their places as numbers, so that a token which several segments share counts once."""
        scored_N = (batch.weight_T != 0).nonzero().squeeze(-1)
        guess_RL = layout.ids_RL.flatten().index_copy(0, layout.slot_T[scored_N], self.guess_T[scored_N]).view_as(layout.ids_RL)
        embed = model.get_input_embeddings()
        own_RLD = embed(layout.ids_RL)
        return own_RLD + self.share * (embed(guess_RL) - own_RLD)


def arrange_mixed(batch: Batch, kind: LayoutKind, *, share: bool = True) -> Layout:
    """`layout.arrange` for mixed inputs: a token is its id and whether it is scored, so only what agrees in both is shared. What stands before it
    is then the same too, and so is its guess."""
    layout = arrange(replace(batch, ids_T=2 * batch.ids_T + (batch.weight_T != 0)), kind, share=share)
    return replace(layout, ids_RL=layout.ids_RL // 2)
