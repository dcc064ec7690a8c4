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
        if self._begin(found) is None:
            raise UserError(f"fluency: {self.model} has neither a beginning nor an end token for the text to stand behind; name another model")
        return found

    @staticmethod
    def _begin(policy: Policy) -> int | None:
        tokenizer = policy.tokenizer
        return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str], records: Sequence[Record] = ()) -> np.ndarray:
        """float64 [N]; prompts and records are not looked at."""
        import numpy as np

        return -np.minimum(self.perplexities(answers), self.worst) / self.per

    def perplexities(self, texts: Sequence[str]) -> np.ndarray:
        """float64 [N]; infinite for fewer than two tokens."""
        import numpy as np

        from tempering.items import answer_ids
        from tempering.measure import logps_of

        begin = self._begin(self.policy)
        pairs = [([begin], answer_ids(self.policy, text)) for text in texts]
        read = [i for i, (_, ids) in enumerate(pairs) if len(ids) > 1]
        found = np.full(len(texts), math.inf)
        for i, logp in zip(read, logps_of(self.policy, [pairs[i] for i in read]), strict=True):
            # A logit may be so far off that its exponential is infinite; the price is bounded anyway.
            found[i] = math.exp(min(-float(logp.double().mean()), 700.0))
        return found
