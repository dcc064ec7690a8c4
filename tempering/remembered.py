"""What a policy has said while it is measured: where several probes ask the same, the model is asked once.

TOFU's ROUGE and the plain attack are one greedy answer, its probability and KnowUnDo's token accuracy one forward pass: the log-probs of a text's
first tokens do not depend on what stands behind them. A small model on a processor also answers all probes through one copy laid out for decoding,
which would take as long to make for a dozen answers as it saves. Weights must not change meanwhile; a changed copy is another policy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from tempering.sampling.decoder import Decoder
    from tempering.types import Episode, Policy, Probe

TOGETHER = 64
"""Answers that are decoded at the same time."""
COPIED = 2**30
"""Bytes of weights up to which a second copy of them is made for decoding."""
Scored = tuple["Tensor", "Tensor"]
"""Of every token of a continuation: its log-prob, and whether it was the likeliest."""


@dataclass
class Remembered:
    """What one policy said."""

    policy: Policy
    answers: dict[Any, Episode] = field(default_factory=dict[Any, "Episode"])
    """(prompt, stop strings) -> a greedy answer."""
    scores: dict[tuple[int, ...], list[tuple[tuple[int, ...], Scored]]] = field(default_factory=dict[Any, Any])
    """Prompt -> continuations that were scored behind it."""
    decoding: Decoder | None = None

    def decoder(self, rows: int) -> Decoder | None:
        """What decodes all its answers, of `rows` at a time; None where a copy would be large or no faster."""
        from tempering.sampling.chain import models_of
        from tempering.sampling.decoder import Decoder

        if self.decoding is None:
            import torch

            weights = [p for model in models_of(self.policy).values() for p in model.parameters()]
            plain = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in weights)
            if not plain or sum(p.numel() * p.element_size() for p in weights) > COPIED:
                return None
            self.decoding = Decoder(self.policy, max_rows=rows, dtype=torch.float32)
        self.decoding.max_rows = rows
        return self.decoding

    def answered(
        self, prompts: Sequence[tuple[int, ...]], most: int, stop: tuple[str, ...], ask: Callable[[list[tuple[int, ...]]], Any]
    ) -> list[Episode]:
        """Greedy answers of at most `most` tokens.

        Args:
            ask: gives those to some prompts, one each.
        """
        new = [prompt for prompt in dict.fromkeys(prompts) if not self._serves(prompt, most, stop)]
        if new:
            self.answers.update(((prompt, stop), episode) for prompt, episode in zip(new, ask(new), strict=True))
        return [self.answers[prompt, stop] for prompt in prompts]

    def answer(self, prompt: tuple[int, ...], most: int) -> Episode | None:
        """The greedy answer of at most `most` tokens, where it is known."""
        return self.answers[prompt, ()] if self._serves(prompt, most, ()) else None

    def _serves(self, prompt: tuple[int, ...], most: int, stop: tuple[str, ...]) -> bool:
        found = self.answers.get((prompt, stop))
        return found is not None and (len(found.ids) == most or (found.finished and len(found.ids) < most))

    def scored(self, pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], score: Callable[[list[Any]], Sequence[Scored]]) -> list[Scored]:
        """The score of each pair.

        Args:
            score: gives those of some pairs.
        """
        new = [pair for pair in dict.fromkeys(pairs) if self._score(*pair) is None]
        for (prompt, continuation), found in zip(new, score(new) if new else (), strict=True):
            self.scores.setdefault(prompt, []).append((continuation, found))
        return [found for pair in pairs if (found := self._score(*pair)) is not None]

    def _score(self, prompt: tuple[int, ...], continuation: tuple[int, ...]) -> Scored | None:
        size = len(continuation)
        known = (found for other, found in self.scores.get(prompt, ()) if other[:size] == continuation)
        return next(((logp_T[:size], top_T[:size]) for logp_T, top_T in known), None)


_OPEN: list[Remembered] = []


@contextmanager
def remembering(policy: Policy) -> Iterator[None]:
    """Inside, `sample` and `measure.score_pairs` ask this very policy nothing twice."""
    _OPEN.append(Remembered(policy))
    try:
        yield
    finally:
        _OPEN.pop()


def remembered(policy: Policy) -> Remembered | None:
    """What it has said, where somebody wants to know."""
    return _OPEN[-1] if _OPEN and _OPEN[-1].policy is policy else None


def ask_together(policy: Policy, probes: Sequence[Probe], progress: Callable[[str, int, int], None] | None = None) -> None:
    """Have a policy that is remembered give the answers that probes say they will ask for (`asks`), of all of them in one batch: a step of decoding
    reads all weights, so that a dozen answers take nearly as long as five times as many."""
    from tempering.sample import sample

    kept = remembered(policy)
    assert kept is not None, "answers that nobody remembers would be asked for again"
    for answered in (None, kept.answer):
        found: dict[int, list[tuple[int, ...]]] = {}
        for probe in probes:
            asks, most = getattr(probe, "asks", None), getattr(probe, "max_new_tokens", None)
            if asks is not None and most:
                found.setdefault(most, []).extend(asks(policy, answered))
        for most, prompts in found.items():
            if progress is not None and prompts:
                progress("what several probes ask", 0, len(probes))
            sample(policy, prompts, max_new_tokens=most, batch_size=TOGETHER)
