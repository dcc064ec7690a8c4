"""What UltraFuser's decode and its loss share: several specialists' logits by their bids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def gated(logits: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Logits of words [..., V] of what every specialist said [..., V + 1], the last of it its bid; and what each counts [..., specialists]."""
    import torch

    share = torch.stack([x[..., -1] for x in logits], -1).softmax(-1)
    words = torch.stack([x[..., :-1] for x in logits], -1)
    return (words * share[..., None, :]).sum(-1), share
