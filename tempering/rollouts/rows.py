"""What happened as segments: the tokens that were sampled are the tokens that are trained on.

A turn whose prompt extends what the policy has seen and said so far, token by token, goes on with the same segment; what stands between the two (a
tool's answer, the next question, the template's own tokens) has weight 0. A template that rewrites earlier turns gives prompts that do not extend
it: then a new segment of the same conversation begins. Text becomes tokens only where nobody has made tokens of it yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tempering.data.rendering import encode, prompt_ids, prompt_text
from tempering.rollouts.types import State, Trajectory, Turn
from tempering.types import Segment

SAMPLED = "sampled_logp"
"""The column of the sampler's log-probs."""


@dataclass(frozen=True)
class Seen:
    """What stands before the policy's next token: as text, and as the ids that it is made of."""

    text: str
    ids: tuple[int, ...]

    @classmethod
    def opening(cls, tokenizer: Any, state: State) -> Seen:
        """A conversation as it begins, through the chat template."""
        return cls(prompt_text(tokenizer, state.messages, state.tools), tuple(prompt_ids(tokenizer, state.messages, state.tools)))

    def then(self, tokenizer: Any, sampled: Sequence[int], state: State) -> Seen:
        """After the policy sampled and the environment answered: the same ids, the sampled ones, and those of what the template adds. Where the
        template writes what was there before in another way, all ids anew."""
        text = prompt_text(tokenizer, state.messages, state.tools)
        said = self.text + tokenizer.decode(sampled, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if not text.startswith(said):
            return Seen.opening(tokenizer, state)
        return Seen(text, (*self.ids, *sampled, *encode(tokenizer, [text[len(said) :]])[0]))


@dataclass
class _Piece:
    ids: list[int] = field(default_factory=list)
    own: list[bool] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)

    def add(self, ids: Sequence[int], logps: Sequence[float] | None = None) -> None:
        self.ids += ids
        self.own += [logps is not None] * len(ids)
        self.logps += [0.0] * len(ids) if logps is None else logps


def pieces(turns: Sequence[Turn]) -> list[_Piece]:
    """The turns of a conversation as few sequences as token by token can be."""
    found: list[_Piece] = []
    for turn in turns:
        seen = len(found[-1].ids) if found else 0
        if not found or list(turn.prompt_ids[:seen]) != found[-1].ids:
            found.append(_Piece())
            seen = 0
        found[-1].add(turn.prompt_ids[seen:])
        found[-1].add(turn.ids, turn.logps)
    return found


def segments(trajectory: Trajectory) -> tuple[Segment, ...]:
    """Its segments: weight 1 on every sampled token, and the sampler's log-probs as the column "sampled_logp"."""
    return tuple(
        Segment(np.array(p.ids, np.int32), np.array(p.own, np.float32), {SAMPLED: np.array(p.logps, np.float32)}, trajectory.task.source)
        for p in pieces(trajectory.turns)
    )


def rewards(trajectory: Trajectory, end: float) -> np.ndarray:
    """What each sampled token earned [T of the trajectory], float64: a turn's reward at its last token, the end's at the last of all."""
    reward_T = np.zeros(trajectory.tokens)
    at = np.cumsum([len(turn.ids) for turn in trajectory.turns]) - 1
    np.add.at(reward_T, at, trajectory.rewards)
    reward_T[-1] += end
    return reward_T


def covering(tokenizer: Any, ids: Sequence[int], begin: int, end: int) -> np.ndarray:
    """Which of an answer's tokens stand, in part at least, in its characters from `begin` to `end` [T], bool."""
    if begin >= end:
        return np.zeros(len(ids), bool)
    texts = [tokenizer.decode(ids[:i], skip_special_tokens=True, clean_up_tokenization_spaces=False) for i in range(len(ids) + 1)]
    at = np.array([len(text) for text in texts])
    return (at[:-1] < end) & (at[1:] > begin)


def encoded(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text that goes on from others: no special tokens before or behind it."""
    return list(encode(tokenizer, [text])[0])


def flat(batches: Sequence[Segment], column: str) -> np.ndarray:
    """A column of the sampled tokens of segments, laid end to end, float64."""
    return np.concatenate([np.asarray(s.extras[column], np.float64)[s.weight != 0] for s in batches])


def to_json(row: Sequence[Segment]) -> list[dict[str, Any]]:
    """The segments of a group as JSON holds them, to the bit."""
    return [
        {"ids": s.ids.tolist(), "weight": s.weight.tolist(), "extras": {n: np.asarray(x).tolist() for n, x in s.extras.items()}, "source": s.source}
        for s in row
    ]


def from_json(row: Sequence[dict[str, Any]]) -> tuple[Segment, ...]:
    """What `to_json` gave."""
    return tuple(
        Segment(
            np.array(s["ids"], np.int32), np.array(s["weight"], np.float32), {n: np.array(x, np.float32) for n, x in s["extras"].items()}, s["source"]
        )
        for s in row
    )
