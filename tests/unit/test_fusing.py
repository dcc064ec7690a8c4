"""What papers about fused, distilled and grown models say exactly, on numbers small enough to see it."""

from __future__ import annotations

import torch

from tempering.merging.run import draws
from tempering.methods.merges.linear import Linear


def test_a_soup_is_best_where_the_rewards_have_one_curvature() -> None:
    """Rewards -(w - best_i)' H (w - best_i): the average of the best weights is best for the average; a share of 1 is that model to the bit."""
    draw = torch.Generator().manual_seed(0)
    root, *best = (torch.randn(5, 5, generator=draw, dtype=torch.float64) for _ in range(3))
    curvature, shares = root @ root.T, (0.3, 0.7)
    soup = Linear(weight=shares)(None, [one.clone() for one in best], draws(0, "w")).double()
    slope = sum(share * curvature @ (soup - one) for share, one in zip(shares, best, strict=True))
    torch.testing.assert_close(slope, torch.zeros(5, 5, dtype=torch.float64), atol=1e-5, rtol=0)
    single = [one.float() for one in best]
    assert torch.equal(Linear(weight=(0.0, 1.0))(None, [one.clone() for one in single], draws(0, "w")), single[1])
