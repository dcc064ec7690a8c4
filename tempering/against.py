"""Answers of the live policy, each with the chance that it is preferred to an opponent's: the stream that Nash-MD learns from, and a probe.

What is sampled is a function of the seed, the step and the weights, so a resumed run goes on with the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tempering.data.streams import Order
from tempering.layout import collate
from tempering.types import Decode, ItemScore, Message, Parts, Policy, ProbeScores, Run, Segment

Prefer = Callable[[Sequence[tuple[Message, ...]], Sequence[str], Sequence[str]], Any]
"""(prompts, answers, other answers) -> P(answer > other | prompt) [N]."""


class Against:
    """The part "responses": sampled answers with the column "score".

    Args:
        prompts: gone through in a new seeded order each time.
        tokenizer: the policy's.
        prefer: who compares.
        opponent: what the other answers are decoded by, of the policy and the run's role "reference"; the policy itself where it is empty.
        batch_size: prompts of a step.
        n: answers to each, and as many of the opponent.
        max_new_tokens: longest answer.
        seed: of the order and the samples.
    """

    def __init__(
        self,
        prompts: Sequence[tuple[Message, ...]],
        tokenizer: Any,
        prefer: Prefer,
        *,
        opponent: tuple[Decode, ...] = (),
        batch_size: int = 8,
        n: int = 2,
        max_new_tokens: int = 64,
        seed: int = 0,
    ) -> None:
        self.prompts, self.tokenizer, self.prefer, self.opponent = prompts, tokenizer, prefer, opponent
        self.batch_size, self.n, self.max_new_tokens, self.seed, self.taken = batch_size, n, max_new_tokens, seed, 0
        self._order = Order(len(prompts), seed)

    def next(self, run: Run) -> Parts:
        """The next step's answers."""
        from tempering.data import prompt_ids
        from tempering.sample import sample

        visits = range(self.taken, self.taken + self.batch_size)
        self.taken += self.batch_size
        prompts = [self.prompts[self._order(visit)] for visit in visits]
        live, ids = run.roles.get("policy"), [prompt_ids(self.tokenizer, prompt) for prompt in prompts]
        if live is None:
            # A plan has nobody to ask: answers as long as they may be.
            return collate([{"responses": (_row(start, [start[-1]] * self.max_new_tokens, 0.5),) * self.n} for start in ids])
        reference = {"reference": run.roles["reference"].model} if self.opponent else {}
        sides = (Policy(live.model, self.tokenizer), Policy(live.model, self.tokenizer, decode=self.opponent, roles=reference))
        how: dict[str, Any] = {"n": self.n, "max_new_tokens": self.max_new_tokens, "temperature": 1.0, "seed": self.seed}
        # The opponent's noise is its own.
        ours, theirs = (sample(side, ids, keys=[2 * visit + i for visit in visits], **how) for i, side in enumerate(sides))
        asked = [prompt for prompt in prompts for _ in range(self.n)]
        score_N = iter(np.asarray(self.prefer(asked, *([e.text for of in some for e in of] for some in (ours, theirs)))))
        return collate(
            [{"responses": tuple(_row(start, list(e.ids), float(next(score_N))) for e in of)} for start, of in zip(ids, ours, strict=True)]
        )

    def state(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def load(self, state: Mapping[str, Any]) -> None:
        self.taken = int(state["taken"])


def _row(prompt: Sequence[int], answer: Sequence[int], score: float) -> Segment:
    weight = np.repeat(np.array([0.0, 1.0], np.float32), [len(prompt), len(answer)])
    return Segment(np.array([*prompt, *answer], np.int32), weight, {"score": score})


@dataclass(frozen=True)
class Preferred:
    """How likely the policy's likeliest answers are preferred to given ones: a half for the model that gave them."""

    prompts: Sequence[tuple[Message, ...]]
    others: Sequence[str]
    """An answer to each prompt."""
    prefer: Prefer
    name: str = "preferred"
    side: Literal["target", "keep"] = "target"
    max_new_tokens: int = 64

    def __call__(self, policy: Policy) -> ProbeScores:
        answers = likeliest(policy, self.prompts, self.max_new_tokens)
        score_N = self.prefer(self.prompts, answers, self.others)
        scored = [
            ItemScore(f"held:{i}", float(score), "\n".join(m.content for m in prompt), answer, other)
            for i, (prompt, answer, other, score) in enumerate(zip(self.prompts, answers, self.others, score_N, strict=True))
        ]
        return ProbeScores(self.name, "preference", "continuous", True, tuple(scored), self.side)


def likeliest(policy: Policy, prompts: Sequence[tuple[Message, ...]], max_new_tokens: int) -> list[str]:
    """The policy's greedy answer to each prompt."""
    from tempering.data import prompt_ids
    from tempering.sample import sample

    return [of[0].text for of in sample(policy, [prompt_ids(policy.tokenizer, prompt) for prompt in prompts], max_new_tokens=max_new_tokens)]
