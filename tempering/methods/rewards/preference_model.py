"""A preference model as a function of text: how likely an answer is preferred to another one to the same prompt.

    P(y > y' | x) = sigmoid( (r(y, y') - r(y', y)) / 2 )

What `temper run pair_preference` trains (`methods/objectives/pair_preference.py`; Munos et al. 2023, arXiv 2312.00886). It takes two answers, so it
is no `Reward`; `against` makes it one: the mean preference over opponents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tempering.errors import UserError
from tempering.methods.rewards.reward_model import RewardModel
from tempering.types import Message, Policy, Prompt, Reward

if TYPE_CHECKING:
    import numpy as np

CATALOGUE = ("S051",)


@dataclass(frozen=True)
class PreferenceModel:
    """P(answer > other | prompt), exactly 1 less that of the turned pair."""

    model: str | Policy
    """A folder that `temper run pair_preference` wrote, or a policy with such a model."""
    batch_tokens: int = 4096
    """Tokens of one forward pass."""

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str], others: Sequence[str]) -> np.ndarray:
        """float64 [N], from 0 to 1.

        Raises:
            UserError: not a reward model, or as many prompts as answers and others are not there.
        """
        import numpy as np

        if not len(prompts) == len(answers) == len(others):
            raise UserError(f"preference model: {len(prompts)} prompts, {len(answers)} answers and {len(others)} others; give one of each")
        from tempering.items import duel, prompt_ids

        reward = RewardModel(self.model, batch_tokens=self.batch_tokens)
        asked = [(Message("user", p),) if isinstance(p, str) else tuple(p) for p in prompts]

        def last(pair: tuple[Sequence[str], Sequence[str]]) -> np.ndarray:
            shown = [duel(p, a, b) for p, a, b in zip(asked, *pair, strict=True)]
            return _ends(reward, [prompt_ids(reward.policy, [{"role": m.role, "content": m.content} for m in turns]) for turns in shown])

        one, two = last((answers, others)), last((others, answers))
        return 0.5 * (1 + np.tanh((one - two) / 4))

    def against(self, opponents: Mapping[Prompt, Sequence[str]]) -> Reward:
        """A reward: the mean preference to the given answers to the same prompt.

        Args:
            opponents: prompt -> answers of the opponent, at least one for each prompt that is asked.
        """
        import numpy as np

        def reward(prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
            if missing := [p for p in prompts if not opponents.get(p)]:
                raise UserError(f"preference model: no opponent's answer to {str(missing[0])[:80]!r}; give at least one")
            flat = [(p, a, other) for p, a in zip(prompts, answers, strict=True) for other in opponents[p]]
            scores = self(*map(list, zip(*flat, strict=True))) if flat else np.zeros(0)
            ends = np.cumsum([0, *(len(opponents[p]) for p in prompts)])
            return np.array([scores[start:end].mean() for start, end in pairwise(ends)])

        return reward


def _ends(reward: RewardModel, sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """The model's one output at the last token of each sequence [N], float64."""
    import numpy as np
    import torch

    from tempering.layout import collate, to
    from tempering.methods.rewards.reward_model import _batches
    from tempering.sampling.chain import evaluating
    from tempering.signals import Engine, Live, compute
    from tempering.types import Segment

    policy, found = reward.policy, np.zeros(len(sequences))
    segments = [Segment(np.asarray(ids, np.int32), (np.arange(len(ids)) == len(ids) - 1).astype(np.float32)) for ids in sequences]
    device = next(policy.model.parameters()).device
    with evaluating(policy.model), torch.no_grad():
        for batch in _batches([len(ids) for ids in sequences], reward.batch_tokens):
            parts = to(collate([{"train": (segments[i],)} for i in batch]), device)
            signals = compute({"policy": Live(policy.model)}, parts, {"train": frozenset({"reward"})}, Engine(device=device))
            found[batch] = signals["train"]["reward"][parts["train"].weight_T != 0].double().cpu().numpy()
    return found
