"""A library of experts: what the prompts of each expert's task look like, so that a new task finds the expert whose prompts are most like its own.

    vote of x = the expert of argmax_e cos(f(x) - m, f(e) - m) over all entries e;   the expert of a task = whom most of its prompts vote for

Jang et al. 2023 (arXiv 2302.03202, S213): prompts without answers, about a hundred of each expert, are embedded, and the nearest entries of some
prompts of the new task vote. f is the mean of a model's last states over a prompt, where the paper takes a sentence encoder; m, the mean of all
entries, is taken off because states of one model point much the same way. An expert that is added changes nothing about those that are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from tempering.config import Training
    from tempering.types import Policy

CATALOGUE = ("S213",)


@dataclass(frozen=True)
class Library:
    """Experts by name, and the embeddings [entries, H] of some prompts of each."""

    entries: Mapping[str, np.ndarray]

    def add(self, name: str, vectors_EH: np.ndarray) -> Library:
        """With another expert."""
        return Library({**self.entries, name: vectors_EH})

    def votes(self, queries_QH: np.ndarray) -> dict[str, int]:
        """How many of the queries each expert's entries are nearest to; of equally near ones the first counts."""
        import numpy as np

        names = [name for name, vectors_EH in self.entries.items() for _ in vectors_EH]
        every_EH = np.concatenate(list(self.entries.values())).astype(np.float64)
        mean_H = every_EH.mean(0)
        near_QE = _unit(queries_QH - mean_H) @ _unit(every_EH - mean_H).T
        found = dict.fromkeys(self.entries, 0)
        for best in near_QE.argmax(1).tolist():
            found[names[best]] += 1
        return found

    def route(self, queries_QH: np.ndarray, count: int = 1) -> list[str]:
        """The `count` experts with the most votes, the first of them first."""
        votes = self.votes(queries_QH)
        return sorted(votes, key=lambda name: -votes[name])[:count]


def _unit(x_NH: np.ndarray) -> np.ndarray:
    import numpy as np

    length_N1 = np.linalg.norm(x_NH, axis=1, keepdims=True)
    return x_NH / np.where(length_N1 == 0, 1.0, length_N1)


def embed(policy: Policy, prompts: Sequence[Sequence[int]], training: Training) -> np.ndarray:
    """The mean of the last states over each prompt's tokens but the first, float32 [N, H]."""
    import numpy as np
    import torch

    from tempering.layout import collate, split, to
    from tempering.reduce import segment_mean
    from tempering.sample import evaluating
    from tempering.signals import Live, compute, engine_for
    from tempering.types import Segment

    rows = [{"train": (Segment(np.asarray(ids, np.int32), np.arange(len(ids)).clip(max=1).astype(np.float32)),)} for ids in prompts]
    found, engine = dict[int, np.ndarray](), engine_for(training)
    with evaluating(policy.model), torch.no_grad():
        for micro in split(collate(rows), training.micro_tokens):
            parts = to(micro, engine.device)
            states_TH = compute({"policy": Live(policy.model)}, parts, {"train": frozenset({"hidden"})}, engine)["train"]["hidden"]
            # Micro-batches are ordered by length; a prompt's place is its group.
            found |= zip(parts["train"].group_S.tolist(), segment_mean(states_TH, parts["train"]).float().cpu().numpy(), strict=True)
    return np.stack([found[i] for i in range(len(rows))])
