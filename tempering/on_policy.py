"""A stream whose answers are, at some of its steps, what the live policy writes: on-policy distillation.

What is drawn is a function of the seed and the step alone, and what is sampled of these and the weights, so a resumed run goes on with the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tempering.layout import collate, lengths
from tempering.types import Parts, Policy, Run, Segment, Stream


class OnPolicy:
    """The part "train" of a stream; at a step that is drawn, with the policy's own answers in the place of the data's.

    Args:
        rows: where the prompts come from: all tokens before the first that is scored.
        tokenizer: the policy's.
        share: the chance of a step to be drawn.
        max_new_tokens: longest answer.
        temperature: of sampling.
        seed: of the draws and the samples.
    """

    def __init__(self, rows: Stream, tokenizer: Any, share: float, max_new_tokens: int, temperature: float = 1.0, seed: int = 0) -> None:
        self.rows, self.tokenizer, self.share = rows, tokenizer, share
        self.max_new_tokens, self.temperature, self.seed, self.taken = max_new_tokens, temperature, seed, 0

    def next(self, run: Run) -> Parts:
        """The next step's parts."""
        parts, step = self.rows.next(run), self.taken
        self.taken += 1
        if np.random.Generator(np.random.PCG64([self.seed, step])).random() >= self.share:
            return parts
        batch = parts["train"]
        pieces = zip(batch.ids_T.split(sizes := lengths(batch).tolist()), batch.weight_T.split(sizes), strict=True)
        prompts = [ids[: int(weight.nonzero()[0])].tolist() for ids, weight in pieces]
        answers = self._answers(run, prompts, step * len(prompts))
        made: list[list[Segment]] = [[] for _ in range(int(batch.group_S.max()) + 1)]
        for group, prompt, answer in zip(batch.group_S.tolist(), prompts, answers, strict=True):
            weight = np.repeat(np.array([0.0, 1.0], np.float32), [len(prompt), len(answer)])
            made[group].append(Segment(np.array([*prompt, *answer], np.int32), weight))
        return collate([{"train": segments} for segments in made])

    def _answers(self, run: Run, prompts: list[list[int]], first: int) -> list[list[int]]:
        from tempering.sample import sample

        live = run.roles.get("policy")
        if live is None:
            # A plan has nobody to ask: answers as long as they may be.
            return [[prompt[-1]] * self.max_new_tokens for prompt in prompts]
        now = Policy(live.model, self.tokenizer, handle=live.handle)
        how: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, "seed": self.seed}
        return [list(of[0].ids) for of in sample(now, prompts, keys=range(first, first + len(prompts)), **how)]

    def state(self) -> dict[str, Any]:
        return {"taken": self.taken, "rows": self.rows.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        self.taken = int(state["taken"])
        self.rows.load(state["rows"])
