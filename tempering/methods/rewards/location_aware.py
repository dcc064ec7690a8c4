"""Rewards of segments made comparable whatever their place: each is set against what segments at that place usually get, and spread over its tokens.

    r~ = (r - mu(p)) / sigma(p),   mu(p) = w_mu log p + b_mu,   sigma(p) = w_sigma log p + b_sigma,   p = k / K for segment k = 1, ..., K

Yin et al. 2025, arXiv 2501.02790 (S160), section 3: in place of one mean and deviation for all rewards of a run, two regressions on the log of the
relative position, fitted once to scored answers. Here the mean and the deviation (divided by the number) of the rewards at each position are
regressed, each position as often as it occurs; how the paper weighs positions is not known. Every token of a segment then gets its share,
r~ / |segment|, so that an answer's tokens add up to its segments. What the pieces are cut by: `methods/objectives/segment_reward.py`; `temper run
segment_reward` fits both lines to its training answers and leaves them in the run folder (`location.json`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tempering.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from tempering.config import Training
    from tempering.types import Policy, Row

CATALOGUE = ("S160",)


@dataclass(frozen=True)
class LocationAware:
    """A mean and a deviation for every relative position."""

    w_mu: float = 0.0
    b_mu: float = 0.0
    """The mean at the last position, where log p = 0."""
    w_sigma: float = 0.0
    b_sigma: float = 1.0
    """The deviation at the last position."""
    least: float = 1e-2
    """Smallest deviation that is divided by: a line may fall to 0 where it was not fitted."""

    @classmethod
    def of(cls, policy: Policy, rows: Sequence[Row], cutoff: float, training: Training) -> LocationAware:
        """Both regressions over the pieces of answers that a reward model scores.

        Args:
            policy: with a `ValueModel`.
            rows: of pairs, with the column "prior.entropy" [T].
            cutoff: what the pieces are cut by.
            training: the precision and the tokens of one forward pass.
        """
        import numpy as np
        import torch

        from tempering.layout import collate, to
        from tempering.sampling.chain import evaluating
        from tempering.signals import Live, compute, engine_for

        engine, found = engine_for(training), list[np.ndarray]()
        policy.model.to(engine.device)
        with evaluating(policy.model), torch.no_grad():
            for first in range(0, len(rows), 8):
                segments = [s for i in range(first, min(first + 8, len(rows))) for side in ("chosen", "rejected") for s in rows[i][side]]
                parts = to(collate([{"train": tuple(segments)}]), engine.device)
                signals = compute({"policy": Live(policy.model)}, parts, {"train": frozenset({"reward"})}, engine)
                reward_T = signals["train"]["reward"].double().cpu().numpy()
                for s, reward_N in zip(segments, np.split(reward_T, np.cumsum([len(s.ids) for s in segments])[:-1]), strict=True):
                    scored = s.weight != 0
                    found.append(reward_N[scored][np.cumsum(cls.cut(s.extras["prior.entropy"][scored], cutoff)) - 1])
        return cls.fit(found)

    @classmethod
    def fit(cls, rewards: Sequence[Sequence[float] | np.ndarray], least: float = 1e-2) -> LocationAware:
        """Both regressions.

        Args:
            rewards: of the segments of each answer, in order; answers may have different numbers of them.
            least: see the field.

        Raises:
            UserError: no rewards, or one that is not finite.
        """
        import numpy as np

        place_N, reward_N = _places(rewards)
        if not reward_N.size or not np.isfinite(reward_N).all():
            raise UserError(f"location-aware normaliser: {reward_N.size} rewards, all must be finite and at least one be there")
        places_P, index_N, count_P = np.unique(place_N, return_inverse=True, return_counts=True)
        mean_P = np.bincount(index_N, reward_N) / count_P
        deviation_P = np.sqrt(np.bincount(index_N, (reward_N - mean_P[index_N]) ** 2) / count_P)
        (w_mu, b_mu), (w_sigma, b_sigma) = (_line(np.log(places_P), y_P, count_P) for y_P in (mean_P, deviation_P))
        return cls(w_mu, b_mu, w_sigma, b_sigma, least)

    def __call__(self, rewards: Sequence[float] | np.ndarray) -> np.ndarray:
        """An answer's normalised rewards [K], float64.

        Args:
            rewards: of its K segments, in order.
        """
        import numpy as np

        place_K, reward_K = _places([rewards])
        log_K = np.log(place_K)
        return (reward_K - (self.w_mu * log_K + self.b_mu)) / np.maximum(self.w_sigma * log_K + self.b_sigma, self.least)

    def spread(self, rewards: Sequence[float] | np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        """The normalised rewards by token [T]: each segment's in equal shares.

        Args:
            rewards: of the answer's segments, in order.
            lengths: tokens of each.

        Raises:
            UserError: not one length of at least 1 for each segment.
        """
        import numpy as np

        if len(lengths) != len(rewards) or min(lengths, default=1) < 1:
            raise UserError(
                f"location-aware normaliser: {len(rewards)} segments and lengths {list(lengths)[:8]}; give the tokens of each, at least 1"
            )
        return np.repeat(self(rewards) / np.asarray(lengths, dtype=np.float64), lengths) if len(lengths) else np.zeros(0)

    @staticmethod
    def cut(entropies: Sequence[float] | np.ndarray, cutoff: float = 1.75) -> list[int]:
        """Tokens of each segment of an answer: one begins where the writer's next-token entropy (nats) is above `cutoff`, and at the start."""
        starts = [t for t, entropy in enumerate(entropies) if t == 0 or entropy > cutoff]
        return [end - start for start, end in pairwise([*starts, len(entropies)])]


def _places(rewards: Sequence[Sequence[float] | np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    place_N = [(k + 1) / len(mine) for mine in rewards for k in range(len(mine))]
    return np.asarray(place_N, dtype=np.float64), np.asarray([r for mine in rewards for r in mine], dtype=np.float64)


def _line(x_P: np.ndarray, y_P: np.ndarray, count_P: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of least squares, each point as often as it was seen; level where there is one place only."""
    import numpy as np

    x, y = (float(np.average(values_P, weights=count_P)) for values_P in (x_P, y_P))
    square = float(np.average((x_P - x) ** 2, weights=count_P))
    slope = float(np.average((x_P - x) * (y_P - y), weights=count_P)) / square if square > 0 else 0.0
    return slope, y - slope * x
