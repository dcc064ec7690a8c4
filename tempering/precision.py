"""In what matrix products are made."""

from __future__ import annotations

import torch
from torch import Tensor


def multiplied_in(x: Tensor) -> torch.dtype:
    """The dtype that a linear layer multiplies `x` in: autocast's on this kind of device, where it is on, or the tensor's own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
