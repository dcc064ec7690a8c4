"""Over-optimisation: how the gold reward follows a proxy as best-of-n pushes the proxy up, and where it turns.

Best-of-n needs no training to push: its divergence from the policy is known, log n - (n - 1) / n (Stiennon et al. 2020, arXiv 2009.01325, appendix
G.3; exact for rewards without ties). From one pool of N answers a prompt the expected gold reward of the proxy's best of n is estimated for every
n <= N at once and without bias: it is the mean over all subsets of n (Nakano et al. 2021, arXiv 2112.09332, appendix I). Gao et al. 2022, arXiv
2210.10760, draw these curves; Coste et al. 2023, arXiv 2310.02743, use them to judge ensembles. Rewards are any functions of prompts and answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tempering.errors import UserError
from tempering.stats import Interval, mean_interval
from tempering.types import Policy, Prompt, Reward

if TYPE_CHECKING:
    from tempering.types import Episode


def best_of_kl(n: int) -> float:
    """The divergence of best-of-n from the policy, in nats.

    Raises:
        UserError: n below 1.
    """
    if n < 1:
        raise UserError(f"best-of-n: n is {n}; it is a number of answers, 1 or more")
    return math.log(n) - (n - 1) / n


def best_of(proxy_N: Sequence[float] | np.ndarray, value_N: Sequence[float] | np.ndarray, n: int) -> float:
    """The expected value of the answer that the proxy finds best among n of the pool's N, drawn without replacement; ties are broken at random.

    Args:
        proxy_N: what is selected by [N].
        value_N: what is averaged [N]: the proxy itself, a gold reward, a length.
        n: 1 to N.

    Raises:
        UserError: n outside 1 to N, pools of different lengths, or a reward that is not a number.
    """
    proxy_N, value_N = np.asarray(proxy_N, dtype=np.float64), np.asarray(value_N, dtype=np.float64)
    size = len(proxy_N)
    if proxy_N.shape != value_N.shape or proxy_N.ndim != 1:
        raise UserError(f"best-of-n: {list(proxy_N.shape)} proxy rewards and {list(value_N.shape)} values; give one of each for every answer")
    if not 1 <= n <= size:
        raise UserError(f"best-of-n: n is {n}, the pool has {size} answers; take n from 1 to {size}, or a larger pool")
    if np.isnan(proxy_N).any():
        raise UserError("best-of-n: a proxy reward is not a number; rewards must be comparable")
    order = np.argsort(proxy_N, kind="stable")
    # Of equal ones any may be the one that is taken: each has the mean of their values.
    _, tie_N, count = np.unique(proxy_N, return_inverse=True, return_counts=True)
    value_N = (np.bincount(tie_N, value_N) / count)[tie_N]
    # The k-th smallest (from 0) is the best of n in comb(k, n - 1) subsets.
    subsets = math.comb(size, n)
    return float(sum(math.comb(k, n - 1) / subsets * value for k, value in enumerate(value_N[order]) if k >= n - 1))


@dataclass(frozen=True)
class Curve:
    """Proxy and gold reward of best-of-n, over prompts."""

    n: tuple[int, ...]
    kl: tuple[float, ...]
    proxy: tuple[float, ...]
    """Mean over prompts of the proxy's expected best, by n; it never falls."""
    gold: tuple[float, ...]
    peak: int
    """The n with the highest gold reward."""
    drop: Interval
    """By how much the gold reward at the largest n is below that at the peak, over prompts; 0 where it never turns. The peak is chosen by the same
    numbers, so that a small drop flatters itself."""

    @property
    def turns(self) -> bool:
        """Whether the fall after the peak is more than chance: the interval of `drop` lies above 0."""
        return self.drop.low is not None and self.drop.low > 0

    def words(self) -> str:
        """The curve in one sentence."""
        first, last = self.gold[0], self.gold[-1]
        path = f"gold reward {first:.3f} at n = {self.n[0]}, {self.gold[self.n.index(self.peak)]:.3f} at n = {self.peak}"
        if self.peak == self.n[-1]:
            return f"{path}; it does not turn (KL up to {self.kl[-1]:.2f})"
        return f"{path}, {last:.3f} at n = {self.n[-1]}: it turns" + ("" if self.turns else ", within chance")


def curve(proxy_PN: np.ndarray, gold_PN: np.ndarray, n: Sequence[int] | None = None) -> Curve:
    """Best-of-n by the proxy over pools of N answers to each of P prompts.

    Args:
        proxy_PN, gold_PN: rewards of the same answers [P, N].
        n: what to show, rising; by default 1, 2, 4, ... N.

    Raises:
        UserError: no prompts, or an n that the pools do not have.
    """
    proxy_PN, gold_PN = np.atleast_2d(proxy_PN), np.atleast_2d(gold_PN)
    if not proxy_PN.size:
        raise UserError("best-of-n: there is no answer to choose from; give at least one prompt with one answer")
    size = proxy_PN.shape[1]
    steps = tuple(sorted(set(n))) if n is not None else tuple(sorted({*(2**k for k in range(size.bit_length()) if 2**k <= size), size}))
    kl = tuple(best_of_kl(one) for one in steps)
    by_prompt = {
        name: np.array([[best_of(proxy, value, one) for one in steps] for proxy, value in zip(proxy_PN, values, strict=True)])
        for name, values in (("proxy", proxy_PN), ("gold", gold_PN))
    }
    means = {name: found.mean(0) for name, found in by_prompt.items()}
    peak = int(means["gold"].argmax())
    drop = mean_interval((by_prompt["gold"][:, peak] - by_prompt["gold"][:, -1]).tolist())
    return Curve(steps, kl, tuple(means["proxy"].tolist()), tuple(means["gold"].tolist()), steps[peak], drop)


def pools(
    policy: Policy, prompts: Sequence[Prompt], n: int, *, max_new_tokens: int = 64, temperature: float = 1.0, seed: int = 0
) -> list[list[Episode]]:
    """n sampled answers to each prompt."""
    from tempering.items import prompt_ids
    from tempering.sample import sample

    words = [prompt if isinstance(prompt, str) else [{"role": m.role, "content": m.content} for m in prompt] for prompt in prompts]
    ids = [prompt_ids(policy, one) for one in words]
    return sample(policy, ids, n=n, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)


def scored(reward: Reward, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]) -> np.ndarray:
    """A reward of pools of N answers [P, N]."""
    flat = [(prompt, answer) for prompt, pool in zip(prompts, answers, strict=True) for answer in pool]
    return np.asarray(reward([p for p, _ in flat], [a for _, a in flat]), dtype=np.float64).reshape(len(prompts), -1)


def calibration(margins: Sequence[float] | np.ndarray, bins: int = 10) -> dict[str, float]:
    """Does a reward model's sigmoid(margin) say how often it is right? {"accuracy", "ece", "brier", "confidence", "auroc" where defined}.

    Args:
        margins: reward of the better answer less that of the worse one, pair by pair; a tie is wrong.
        bins: of the ECE, between a half and one a half of them are empty.

    Raises:
        UserError: no pairs.
    """
    from tempering.methods.probes.calibration import ece, summarise

    found = np.asarray(margins, dtype=np.float64)
    if not found.size:
        raise UserError("calibration: there are no margins; give at least one pair")
    confidence = (0.5 * (1 + np.tanh(np.abs(found) / 2))).tolist()
    right = (found > 0).tolist()
    return {**summarise(confidence, right), "ece": ece(confidence, right, bins), "accuracy": float(np.mean(right))}
