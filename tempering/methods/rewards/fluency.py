"""Fluency: how little a language model is surprised by an answer, read by itself: its perplexity, as a price.

    reward = - min(perplexity, worst) / per,    perplexity = exp( - (1/T) sum_t log p(y_t | y_<t) )

One of the metrics that metric-oriented reinforcement learning adds up (`weighted`): Diao et al. 2023, "Doolittle", EMNLP (S242). Its released code
takes -perplexity / 200 under a GPT-2 that was tuned on formal text, and gives texts of fewer than two tokens a very bad score, which `worst` is here.
The text stands behind the model's beginning token, or behind its end token where it has none. A text that repeats itself is hardly surprising, so
this is no reward to be paid alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tempering.config import Value
from tempering.errors import UserError
from tempering.types import Policy, Prompt, Record

if TYPE_CHECKING:
    import numpy as np

FAMILY = "checked"
CATALOGUE = ("S242",)
TOKENS = 4096
"""Of one forward pass; a longer answer goes alone."""


class Fluency(Value):
    """0 or less."""

    kind: Literal["fluency"] = "fluency"
    model: str
    """The language model that reads: a hub id, a folder, or a built-in one."""
    per: float = Field(default=200.0, gt=0)
    """The perplexity that costs 1."""
    worst: float = Field(default=2000.0, gt=1)
    """Perplexities above it, and answers of fewer than two tokens, count as this."""

    @cached_property
    def policy(self) -> Policy:
        """The loaded model.

        Raises:
            UserError: it has no vocabulary, or neither a beginning nor an end token.
        """
        from tempering import models

        found = models.load(self.model, say=lambda _: None)
        if hasattr(found.model, "value_head"):
            raise UserError(f"fluency: {self.model} is a reward model and reads nothing; name a language model")
        if not self._begin(found):
            raise UserError(f"fluency: {self.model} has neither a beginning nor an end token for the text to stand behind; name another model")
        return found

    @staticmethod
    def _begin(policy: Policy) -> list[int]:
        ends = (policy.tokenizer.bos_token_id, policy.tokenizer.eos_token_id)
        return [id for id in ends if id is not None][:1]

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str], records: Sequence[Record] = ()) -> np.ndarray:
        """float64 [N]; prompts and records are not looked at."""
        import numpy as np

        return -np.minimum(self.perplexities(answers), self.worst) / self.per

    def perplexities(self, texts: Sequence[str]) -> np.ndarray:
        """float64 [N]; infinite for fewer than two tokens."""
        import numpy as np
        import torch

        from tempering.items import answer_ids
        from tempering.layout import collate, to
        from tempering.methods.rewards.reward_model import _batches
        from tempering.reduce import segment_sum
        from tempering.sampling.chain import evaluating
        from tempering.signals import Engine, Live, compute
        from tempering.types import Segment

        policy, found = self.policy, np.full(len(texts), math.inf)
        begin = self._begin(policy)
        ids = {i: own for i, text in enumerate(texts) if len(own := answer_ids(policy, text)) > 1}
        segments = [Segment(np.array([*begin, *own], np.int32), np.array([0.0] + [1.0] * len(own), np.float32)) for own in ids.values()]
        device = next(policy.model.parameters()).device
        sums: list[float] = []
        with evaluating(policy.model), torch.no_grad():
            for batch in _batches([len(s.ids) for s in segments], TOKENS):
                parts = to(collate([{"train": (segments[i],)} for i in batch]), device)
                signals = compute({"policy": Live(policy.model)}, parts, {"train": frozenset({"logp"})}, Engine(device=device))
                sums += segment_sum(signals["train"]["logp"], parts["train"]).double().tolist()
        for (i, own), total in zip(ids.items(), sums, strict=True):
            # A logit may be so far off that its exponential is infinite; the price is bounded anyway.
            found[i] = math.exp(min(-total / len(own), 700.0))
        return found
