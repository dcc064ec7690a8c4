"""Sophia: momentum over a running diagonal of the curvature, clipped in every coordinate, so that no weight moves by more than the learning rate.

    m = b1 m + (1 - b1) g        h = b2 h + (1 - b2) g^2        theta -= lr wd theta        theta -= lr clip(m / max(gamma h, eps), 1)

Liu et al. 2023 (arXiv 2305.14342, algorithm 3), in the form in which SOUL unlearns with it (S037, Jia et al. 2024, arXiv 2404.18239, section 5, and
its released code): h is the square of the step's own gradient, taken at every step. With `every` = k it is Sophia's own, the squared gradient on
labels drawn from the model, times their number, every k-th step (Gauss-Newton-Bartlett, algorithm 2; k = 10 there), which costs a second backward
pass in those (`tempering/curvature.py`). gamma = 204.8 is SOUL's 0.04 * 5120. The released code updates m twice a step, which is not copied.

SOUL is any method of forgetting with it, for example `temper run gradient_ascent --retain-loss nll --retain-weight 2 --optimizer.name sophia`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

CATALOGUE = ("S037",)


class Sophia(torch.optim.Optimizer):
    """Sophia, with squared gradients or drawn labels for the curvature.

    Args:
        params: parameters or groups of them.
        lr: the most that a coordinate moves in a step, but for weight decay.
        betas: how slowly m and h follow.
        gamma: what the curvature is multiplied by; towards 0 every step is the sign of m, for large ones it is m / (gamma h).
        eps: the least that m is divided by.
        weight_decay: decoupled, times the learning rate.
        every: how many steps the curvature stays before it is taken anew on drawn labels; 0 takes the square of each step's own gradient.

    Raises:
        ValueError: an option out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        gamma: float = 0.04 * 5120,
        eps: float = 1e-15,
        weight_decay: float = 0.0,
        every: int = 0,
    ) -> None:
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={betas}: two numbers from 0 to below 1")
        if not (lr >= 0 and gamma >= 0 and eps > 0 and weight_decay >= 0):
            raise ValueError(f"lr={lr}, gamma={gamma}, weight_decay={weight_decay} must be at least 0, and eps={eps} above 0")
        if every < 0:
            raise ValueError(f"every={every} must be at least 0")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "gamma": gamma, "eps": eps, "weight_decay": weight_decay})
        self.every = every

    @torch.no_grad()
    def look(self, size: float) -> None:
        """Take the curvature from the gradients as they are, of a mean over `size` drawn labels."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._state(p)["curvature"].mul_(group["betas"][1]).addcmul_(p.grad, p.grad, value=size * (1 - group["betas"][1]))

    def _state(self, p: torch.Tensor) -> dict[str, torch.Tensor]:
        state = self.state[p]
        if not state:
            state["momentum"], state["curvature"] = torch.zeros_like(p), torch.zeros_like(p)
        return state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self._state(p)
                m, h = state["momentum"], state["curvature"]
                m.lerp_(p.grad, 1 - b1)
                if not self.every:
                    h.mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_((m / (group["gamma"] * h).clamp(min=group["eps"])).clamp(-1, 1), alpha=group["lr"])
        return loss
