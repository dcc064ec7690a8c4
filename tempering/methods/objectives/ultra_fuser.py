"""UltraFuser's loss: the likelihood of the text by several specialists together, whose gate and weights it moves.

    loss_t = - log softmax(sum_i g_i logits_i)_(y_t),   g = softmax_i of what the specialists bid (`decodes/ultra_fuser.py`)

Ding et al. 2024 (arXiv 2403.08281, S246): first the gate alone learns, then all weights (recipe `ultra_fuser`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tempering.cases import Case
from tempering.methods.decodes._gated import gated
from tempering.reduce import scored
from tempering.types import Context, Norm, Objective, Parts, Signals

CATALOGUE = ("S246",)


@dataclass(frozen=True)
class UltraFuser(Objective):
    """Cross-entropy of the fused distribution."""

    others: tuple[str, ...] = ("second",)
    """The roles of the specialists beside the policy."""
    norm: Norm = "tokens"
    """What the sum is divided by."""
    by_token = True

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"train": frozenset({"logits", *(f"{role}.logits" for role in self.others)})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        train, said = parts["train"], signals["train"]
        words_TV, share_TN = gated([said["logits"], *(said[f"{role}.logits"] for role in self.others)])
        ctx.log(first=scored(share_TN, train)[:, 0])
        # The place of the bids is no word, and no text has it.
        told_T = train.ids_T.clamp(max=words_TV.shape[1] - 1)
        return -words_TV.log_softmax(-1).gather(-1, told_T[:, None]).squeeze(-1)


_LN3, _LN4 = math.log(3), math.log(4)
# Texts of cases read the words 3, 4, 5, ... in turn; five words and a bid. Shares of the first are 1/4, 1/2 and 3/4.
_OURS = [[[0, 0, 0, _LN4, 0, 0], [0, 0, 0, 0, 0, 1.0], [9, 0, 0, 0, 0, 9]], [[0, 0, 0, 0, 0, 0]]]
_OTHER = [[[0, 0, 0, 0, 0, _LN3], [0, 0, 0, 0, 4 * _LN3, 1.0], [0, 9, 0, 0, 0, 3]], [[0, 0, 0, 0, 0, 0]]]
# Odds of the text's word against one of the four others: 4 ** 1/4 at the first token, 3 ** 2 at the second, 1 at the last.
_ROOT = 4**0.25
_Q = 1 / (_ROOT + 4) / 3.5

CASES = (
    Case(
        "two specialists, the second bidding three times as much; as much; a token without weight; both knowing nothing",
        UltraFuser(),
        {"train": {"logits": _OURS, "second.logits": _OTHER}},
        weights={"train": [[1.0, 0.5, 0.0], [2.0]]},
        loss=(-math.log(_ROOT / (_ROOT + 4)) - 0.5 * math.log(9 / 13) + 2 * math.log(5)) / 3.5,
        logs={"first": (1 / 4 + 1 / 2 + 1 / 2) / 3},
        gradient={
            # At the first token: (q - y) times the share, and for the bid the slope of the share times what a change of it adds to the word's logit.
            "train/logits": [
                [
                    [
                        *[0.25 / (_ROOT + 4) / 3.5] * 3,
                        -0.25 * 4 / (_ROOT + 4) / 3.5,
                        0.25 / (_ROOT + 4) / 3.5,
                        -4 / (_ROOT + 4) * 3 / 16 * _LN4 / 3.5,
                    ],
                    [*[0.25 / 13 / 3.5] * 4, -0.25 * 4 / 13 / 3.5, 0.5 * (4 / 13) * 0.25 * 4 * _LN3 / 3.5],
                    [0.0] * 6,
                ],
                [[*[1 / 5 / 3.5] * 4, -4 / 5 / 3.5, 0.0]],
            ]
        },
    ),
    Case(
        "one alone, by rows",
        UltraFuser(others=(), norm="segment_mean"),
        {"train": {"logits": _OURS}},
        weights={"train": [[1.0, 0.0, 0.0], [1.0]]},
        loss=(math.log(2) + math.log(5)) / 2,
        logs={"first": 1.0},
    ),
)
