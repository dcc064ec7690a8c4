"""A reward model as a reward: a folder that `save` wrote, or any transformers sequence classifier, read at the answer's last token.

The answer is put behind the prompt as in training: through the chat template, with its end of turn. A number per answer is the model's one output, or
a direction's product with its outputs (DPA, Wang et al. 2024, arXiv 2402.18571, section 3: preferences over attributes as a vector).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from tempering.errors import UserError
from tempering.types import Policy, Prompt

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class RewardModel:
    """Scores of a `ValueModel`.

    Raises:
        UserError: not a reward model, or `direction` has not as many numbers as it has outputs.
    """

    model: str | Policy
    """A folder or hub id, loaded when it is first asked; or a policy whose model is a `ValueModel`."""
    direction: tuple[float, ...] = ()
    """What each output counts for; empty for a model with one output."""
    batch_tokens: int = 4096
    """Tokens of one forward pass; a longer answer goes alone."""

    @cached_property
    def policy(self) -> Policy:
        """The loaded model with its tokenizer."""
        from tempering import models
        from tempering.models.value import ValueModel

        policy = models.load(self.model, say=lambda _: None) if isinstance(self.model, str) else self.model
        name = self.model if isinstance(self.model, str) else policy.name or "the model"
        if not isinstance(policy.model, ValueModel):
            raise UserError(
                f"reward model {name}: it has a vocabulary, not a score; give a folder that a reward recipe wrote, or a sequence classifier"
            )
        outputs = policy.model.value_head.out_features
        if len(self.direction or (1.0,)) != outputs:
            raise UserError(f"reward model {name}: direction has {len(self.direction)} numbers, the model {outputs} outputs; give one for each")
        return policy

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        """float64 [N]."""
        import numpy as np

        return self.outputs(prompts, answers) @ np.asarray(self.direction or (1.0,))

    def outputs(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        """All the model's outputs [N, K], float64."""
        import numpy as np
        import torch

        from tempering.layout import collate, to
        from tempering.reduce import last
        from tempering.sampling.chain import evaluating
        from tempering.signals import Engine, Live, compute
        from tempering.types import Segment

        policy, found = self.policy, {}
        segments = []
        for prompt, answer in zip(prompts, answers, strict=True):
            ids = np.asarray(_ids(policy, prompt, answer), dtype=np.int32)
            segments.append(Segment(ids, (np.arange(len(ids)) == len(ids) - 1).astype(np.float32)))
        device = next(policy.model.parameters()).device
        with evaluating(policy.model), torch.no_grad():
            for batch in _batches([len(s.ids) for s in segments], self.batch_tokens):
                parts = to(collate([{"train": (segments[i],)} for i in batch]), device)
                signals = compute({"policy": Live(policy.model)}, parts, {"train": frozenset({"rewards"})}, Engine(device=device))
                found |= dict(zip(batch, last(signals["train"]["rewards"], parts["train"]).double().cpu().numpy(), strict=True))
        return np.stack([found[i] for i in range(len(segments))]) if segments else np.zeros((0, max(1, len(self.direction))))


def _ids(policy: Policy, prompt: Prompt, answer: str) -> tuple[int, ...]:
    from tempering.items import answer_ids, ending, prompt_ids

    words = prompt if isinstance(prompt, str) else [{"role": m.role, "content": m.content} for m in prompt]
    return (*prompt_ids(policy, words), *answer_ids(policy, answer), *ending(policy))


def _batches(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Places in batches of at most `most` tokens, neighbours together: they often share a prompt."""
    batches: list[list[int]] = []
    filled = most + 1
    for i, length in enumerate(lengths):
        if filled + length > most:
            batches, filled = [*batches, []], 0
        batches[-1].append(i)
        filled += length
    return batches
