"""Feedback of a compiler and a comparison with a reference mend programs that imitation has learned with their mistakes.

Jain et al. 2023 (RLCF, arXiv 2305.18341) fine-tune a code model by reinforcement with such feedback, and more of its programs compile, run and give
the right output. Here builtin:tiny learns to write nested sums and differences in words as Python expressions; in half of the demonstrations a
parenthesis is missing. RLOO then takes 30 steps of 8 tasks with 8 samples. The discriminator is a comparison of characters, where the paper
has a language model. The baseline takes as many steps more on the demonstrations. Scored are four samples of each of 50 tasks whose numbers are not
among those that are trained on: the share that compiles; beside it the share whose value is right, and the share that is the reference to the letter.
On seed 100, which is none of the seeds that count and the only one looked at, the first settings gave 0.35 and 0.97.
"""

from __future__ import annotations

import ast
import operator
import random
from collections.abc import Sequence
from typing import Any, Literal

from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.environments.records import Records
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.rloo import RLOO
from tempering.methods.rewards.rlcf import RLCF
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, sft_rows, tiny, train
from tempering.proof.small import start as kept
from tempering.replications._reinforced import CONSTANT
from tempering.rollouts.play import How, play
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.types import Message, Policy, Record, Response
from tempering.worlds.base import rng

CLAIM = Claim(
    method="rlcf",
    catalogue=("S003",),
    title="RLCF against more supervised fine-tuning: do programs compile?",
    claim="After reinforcement with compiler feedback and a comparison with a reference, more programs compile than after more imitation.",
    baseline="supervised fine-tuning on the same demonstrations, as many steps more",
    metric="share that compiles",
    smallest_effect=0.1,
)
TASKS, TOKENS, BROKEN = 400, 24, 0.5
WORDS = {"+": "plus", "-": "minus"}
DOES: dict[type[ast.operator], Any] = {ast.Add: operator.add, ast.Sub: operator.sub}


class Expressions(Records):
    """The tasks of this claim."""

    reward: Any = RLCF()

    def tasks(self, split: Literal["train", "test"], n: int | None = None) -> Sequence[Record]:
        """Expressions of three or four numbers below 10."""
        found, source = dict[str, Record](), rng("rlcf", split)
        while len(found) < (n or TASKS):
            text, words = _expression(source, depth=2)
            # Every fifth, by its text, is held out.
            if (sum(map(ord, text)) % 5 == 0) == (split == "test"):
                found[text] = Record((Message("user", f"{words} ="),), (Response((Message("assistant", text),)),), id=text, source=text)
        return list(found.values())


def _expression(source: random.Random, depth: int) -> tuple[str, str]:
    """(as Python, in words) of a nested sum or difference."""
    if not depth or (depth == 1 and source.random() < 0.5):
        return (digit := str(source.randrange(1, 10))), digit
    sign, (left, first), (right, second) = source.choice("+-"), _expression(source, depth - 1), _expression(source, depth - 1)
    return f"({left} {sign} {right})", f"the {WORDS[sign]} of {first} and {second}"


def demonstrations(seed: int) -> list[Record]:
    """The training tasks; in `BROKEN` of them one parenthesis is missing, drawn by seed and task."""
    made = []
    for task in Expressions().tasks("train"):
        text, source = task.id, rng("broken", seed, task.id)
        if source.random() < BROKEN:
            at = source.choice([i for i, c in enumerate(text) if c in "()"])
            text = text[:at] + text[at + 1 :]
        made.append(Record(task.prompt, (Response((Message("assistant", text),)),), id=task.id, source=task.id))
    return made


def begun(seed: int, scale: Scale) -> Policy:
    """builtin:tiny after the demonstrations."""

    def make() -> Policy:
        base = tiny()
        return train(base, NLL(), sft_rows(base, demonstrations(seed)), steps=scale(150), seed=seed, lr=2e-3)

    return kept({"claim": "rlcf", "seed": seed, "tasks": TASKS, "broken": BROKEN, "steps": scale(150)}, make)


def value(code: str) -> int | None:
    """What an expression of this claim comes to; None where the text is another thing. It is walked, not run."""

    def of(node: ast.AST) -> int:
        if isinstance(node, ast.BinOp) and type(node.op) in DOES:
            return DOES[type(node.op)](of(node.left), of(node.right))
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        raise ValueError

    try:
        return of(ast.parse(code.strip(), mode="eval").body) if RLCF.compiles(code) else None
    except (ValueError, SyntaxError):
        return None


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The shares of sampled programs."""
    start, env, steps = begun(seed, scale), Expressions(), scale(30)
    if arm == "baseline":
        tuned = train(start, NLL(), sft_rows(start, demonstrations(seed)), steps=steps, seed=seed, lr=1e-3)
    else:
        training = TRAINING.model_copy(update={"batch_size": 8})
        stream = Conversations(
            start.tokenizer, env, env.tasks("train"), LeaveOneOut(), Rollouts(), training=training, max_new_tokens=TOKENS, seed=seed
        )
        tuned = train(start, RLOO(), stream, steps=steps, seed=seed, lr=2e-4, schedule=CONSTANT)
    held = env.tasks("test", scale(50))
    groups = play(tuned, env, list(enumerate(held)), 4, How(TOKENS, seed=seed))
    said = [(task.id, one.answer) for task, of in zip(held, groups, strict=True) for one in of]
    found = {"share that compiles": 0.0, "right value": 0.0, "as the reference": 0.0}
    for wanted, code in said:
        found["share that compiles"] += RLCF.compiles(code) / len(said)
        found["right value"] += (value(code) == value(wanted)) / len(said)
        found["as the reference"] += (code.strip() == wanted) / len(said)
    return found
