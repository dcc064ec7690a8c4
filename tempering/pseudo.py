"""Text that a model makes up where there is no data: the stream of data-free distillation, with a memory of what came before.

A pseudo-input is a user's turn that the writer samples after the words that open one in the chat template, and the writer's reply to it; a model
without a template writes a text from its BOS. The adversary is a choice: of several that are written, those are learned on which teacher and student
differ most, by KL(teacher || student) per token of the reply. The memory is a uniform sample of all that was learned so far (Vitter 1985, algorithm
R). What is drawn is a function of the seed, the step and the weights; the memory is a part of the stream's state, so a resumed run remembers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tempering import late
from tempering.config import Training
from tempering.data.rendering import has_template, prompt_ids
from tempering.errors import UserError
from tempering.layout import collate, to
from tempering.methods.objectives.forward_kl import ForwardKL
from tempering.reduce import segment_sum, segment_weight
from tempering.sample import evaluating, sample
from tempering.signals import Engine, compute, engine_for
from tempering.types import Context, Message, Parts, Policy, Row, Run, Segment

_MARK = "zzqx"


def opening(tokenizer: Any) -> list[int]:
    """The token ids before a user's words: of the template, or BOS.

    Raises:
        UserError: neither is there.
    """
    if has_template(tokenizer):
        whole, mark = prompt_ids(tokenizer, [Message("user", _MARK)]), tokenizer(_MARK, add_special_tokens=False)["input_ids"]
        places = [i for i in range(len(whole)) if list(whole[i : i + len(mark)]) == list(mark)]
        if places and places[0]:
            return list(whole[: places[0]])
    if tokenizer.bos_token_id is None:
        raise UserError("the model has no token that begins a text and no template that begins a turn, so it cannot write one; give it a --template")
    return [tokenizer.bos_token_id]


class Pseudo:
    """Parts "train", the newest pseudo-inputs, and "memory", earlier ones; at the first step, which has no earlier ones, both are the same.

    Args:
        tokenizer: of student and teacher.
        writer: the role that writes; "policy" is the student.
        training: its precision and layout are those of the differences.
        batch_size: pseudo-inputs of a step, and as many of the memory.
        candidates: how many are written for each that is learned; 1 is no adversary.
        memory: most that are remembered; 0 remembers nothing, and there is no part "memory".
        length: longest user's turn, and longest reply, in tokens.
        temperature: of both.
        seed: of what is drawn.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        writer: str = "teacher",
        training: Training | None = None,
        batch_size: int = 16,
        candidates: int = 4,
        memory: int = 512,
        length: int = 32,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.tokenizer, self.writer = tokenizer, writer
        self.engine = engine_for(training) if training else Engine()
        self.batch_size, self.candidates, self.memory, self.length = batch_size, candidates, memory, length
        self.temperature, self.seed, self.taken = temperature, seed, 0
        self.opening, self.chats = opening(tokenizer), has_template(tokenizer)
        self.kept: list[tuple[list[int], int]] = []
        """(ids, how many of them stand before the reply)."""
        self._seen = 0

    def next(self, run: Run) -> Parts:
        """The next step's parts."""
        step, live = self.taken, run.roles.get("policy")
        self.taken += 1
        if live is None:
            # A plan has nobody to ask: replies as long as they may be.
            new = [([*self.opening, *[self.opening[-1]] * (2 * self.length)], len(self.opening) + self.length)] * self.batch_size
        else:
            new = self._hardest(run, self._written(run, step))
        draw = np.random.Generator(np.random.PCG64([self.seed, step]))
        old = [self.kept[i] for i in draw.integers(len(self.kept), size=self.batch_size)] if self.kept else new
        for one in new if self.memory else ():
            self._seen += 1
            if len(self.kept) < self.memory:
                self.kept.append(one)
            elif (place := int(draw.integers(self._seen))) < self.memory:
                self.kept[place] = one
        return collate([{**_row("train", a), **(_row("memory", b) if self.memory else {})} for a, b in zip(new, old, strict=True)])

    def _written(self, run: Run, step: int) -> list[tuple[list[int], int]]:
        """Candidates: what they say, and where the reply begins."""
        count = self.batch_size * self.candidates
        role = run.roles[self.writer]
        writer = Policy(role.model, self.tokenizer, handle=role.handle)
        how: dict[str, Any] = {"max_new_tokens": self.length, "temperature": self.temperature, "seed": self.seed}
        keys = range(2 * step * count, 2 * step * count + count)
        first = [of[0] for of in sample(writer, [self.opening] * count, keys=keys, **how)]
        if not self.chats:
            return [([*self.opening, *e.ids], len(self.opening)) for e in first]
        asked = [prompt_ids(self.tokenizer, [Message("user", e.text.strip())]) for e in first]
        replies = sample(writer, asked, keys=[key + count for key in keys], **how)
        return [([*prompt, *of[0].ids], len(prompt)) for prompt, of in zip(asked, replies, strict=True)]

    def _hardest(self, run: Run, written: Sequence[tuple[list[int], int]]) -> list[tuple[list[int], int]]:
        """Those on which student and teacher differ most, in the order in which they were written."""
        if self.candidates == 1:
            return list(written)
        far = differences(run, [_row("train", one) for one in written], self.engine)
        chosen = sorted(np.argsort(-far, kind="stable")[: self.batch_size].tolist())
        run.log(difference=torch.tensor(far), chosen_difference=torch.tensor(far[chosen]))
        return [written[i] for i in chosen]

    def state(self) -> dict[str, Any]:
        return {"taken": self.taken, "seen": self._seen, "kept": [[ids, at] for ids, at in self.kept]}

    def load(self, state: Mapping[str, Any]) -> None:
        self.taken, self._seen = int(state["taken"]), int(state["seen"])
        self.kept = [([int(i) for i in ids], int(at)) for ids, at in state["kept"]]


def differences(run: Run, rows: Sequence[Row], engine: Engine, micro: int = 32) -> np.ndarray:
    """KL(teacher || student) per scored token of each row with one segment "train" [N]."""
    term, found = ForwardKL(), []
    with evaluating(*(role.model for role in run.roles.values())):
        for start in range(0, len(rows), micro):
            parts = to(collate(rows[start : start + micro]), engine.device)
            signals = compute(run.roles, parts, late.needs([term], engine), engine)
            losses_T = late.losses(term, parts, signals, Context(run.step, {}, lambda **values: None), run.roles, engine)
            batch = parts["train"]
            found.append((segment_sum(losses_T, batch) / segment_weight(batch).clamp(min=1)).cpu().double().numpy())
    return np.concatenate(found)


def _row(part: str, one: tuple[list[int], int]) -> dict[str, tuple[Segment, ...]]:
    ids, at = one
    return {part: (Segment(np.array(ids, np.int32), np.repeat(np.array([0.0, 1.0], np.float32), [at, len(ids) - at])),)}
