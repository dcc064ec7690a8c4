"""Rows beside unlabelled answers of a policy to their prompts, sampled once and kept in the run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.experiment import Experiment
from tempering.types import Row, Segment

if TYPE_CHECKING:
    from tempering.types import Policy

FILE = "answers.json"


class Answered(Sequence[Row]):
    """Rows of pairs with the part "responses": answers to the pair's prompt, by its place.

    Args:
        rows: with the part "chosen".
        answers: the prompt's token ids, as JSON -> token ids of each answer.
    """

    def __init__(self, rows: Sequence[Row], answers: dict[str, list[list[int]]]) -> None:
        self.rows, self.answers = rows, answers

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: Any) -> Any:
        import numpy as np

        row = self.rows[i]
        prompt = _prompt(row)
        made = []
        for ids in self.answers[json.dumps(prompt)]:
            weight = np.repeat(np.array([0.0, 1.0], np.float32), [len(prompt), len(ids)])
            made.append(Segment(np.array([*prompt, *ids], np.int32), weight, source=row["chosen"][0].source))
        return {**row, "responses": tuple(made)}


def answered(run: Experiment, name: str, policy: Policy, rows: Sequence[Row], n: int) -> Answered:
    """The rows with `n` answers that the policy samples to each prompt; those of a resumed run are read back.

    Args:
        name: of the stage: the folder in the run's that keeps the answers.
    """
    v = run.values
    prompts = {json.dumps(prompt): prompt for prompt in (_prompt(row) for row in rows)}

    def work(folder: Path) -> None:
        from tempering.sample import sample

        how: dict[str, Any] = {"max_new_tokens": v["max_new_tokens"], "temperature": 1.0, "seed": int(v["seed"])}
        with run.display.phase("asking the policy", len(prompts) * n) as phase:
            found = sample(policy, list(prompts.values()), n=n, progress=lambda done, total: phase.advance(done, total), **how)
        kept = {key: [list(episode.ids) for episode in of] for key, of in zip(prompts, found, strict=True)}
        (folder / FILE).write_text(json.dumps(kept), encoding="utf-8")

    inputs = {"prompts": sorted(prompts), "n": n, "policy": policy.source, "tokens": v["max_new_tokens"], "seed": v["seed"]}
    return Answered(rows, json.loads((run.stage(name, inputs, work) / FILE).read_text(encoding="utf-8")))


def _prompt(row: Row) -> list[int]:
    """The tokens before the first that is scored."""
    segment = row["chosen"][0]
    return segment.ids[: int(segment.weight.nonzero()[0][0])].tolist()
