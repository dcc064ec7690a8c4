"""A model tuned to answer after examples of a task does new tasks from examples; one tuned on the same tasks without examples does so less.

Chen et al. 2021 (arXiv 2110.07814) tune a model to predict a label after instruction and five examples of the task, over many tasks, and find that
it learns held-out tasks from examples better than by prompting a model that was not tuned so. Here a task is a form: every answer is the task's own
word and then the word that is asked for, so that only the examples say how to begin. The words of the test's tasks are in no task of the tuning.
Both arms take as many steps of as many questions of the same 240 tasks, the baseline's without examples, so that its rows are shorter; both are
asked after five examples, and the likelier of the task's form and another's counts (0.5 by chance). The model before any tuning stands beside. Harder
tasks, two labels for two words or for things of two kinds, were at chance for both arms on seed 100, which is none of the seeds that count.
"""

from __future__ import annotations

from tempering.data import prompt_ids
from tempering.items import answer_ids, mean
from tempering.making import Making, answer, user
from tempering.measure import logps_of
from tempering.methods.objectives.nll import NLL
from tempering.methods.streams.in_context_tuning import InContextTuning
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import sft_rows, tiny, train
from tempering.types import Policy, Record
from tempering.worlds.base import rng
from tempering.worlds.instructions import WORDS

CLAIM = Claim(
    method="in_context_tuning",
    catalogue=("S080",),
    title="In-context tuning with five examples against tuning without: new tasks after five examples",
    claim="After as many steps, a model tuned behind examples finds a new task's form likelier more often, asked behind five examples.",
    baseline="the same model tuned on the same questions without examples, asked behind the same five",
    metric="accuracy",
    smallest_effect=0.1,
)
TASKS, HELD = 240, 25
EACH = 8
"""Questions of a task."""
STEPS = 80
LR = 1e-3


def tasks(seed: int) -> tuple[list[Record], list[Record]]:
    """Questions of the tasks for tuning, and of the held-out ones; the tags "right" and "wrong" are the task's answer and one of another form."""
    source = rng("in_context_tuning", seed)
    words = source.sample(WORDS, len(WORDS))
    found: tuple[list[Record], list[Record]] = [], []
    for number in range(TASKS + HELD):
        held = number >= TASKS
        own, other, *asked = source.sample(words[:50] if held else words[50:], 2 + EACH)
        for i, word in enumerate(asked):
            right, wrong = f"{own} {word}", f"{other} {word}"
            found[held].append(
                Record((user(word),), (answer(right),), id=f"{number}.{i}", tags={"task": str(number), "right": right, "wrong": wrong})
            )
    return found


def accuracy(policy: Policy, asked: list[Record]) -> float:
    """How often the right answer is the likelier one."""
    pairs = [(prompt_ids(policy.tokenizer, r.prompt), answer_ids(policy, str(r.tags[side]))) for r in asked for side in ("right", "wrong")]
    found = [float(logp_T.sum()) for logp_T in logps_of(policy, pairs)]
    return mean([float(a > b) for a, b in zip(found[::2], found[1::2], strict=True)])


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Accuracy on new tasks, behind five examples; and without any."""
    start, (known, new) = tiny(), tasks(seed)
    steps, shown = scale(STEPS), InContextTuning()
    made = InContextTuning(k=5 if arm == "method" else 0, rounds=1 + 16 * steps // len(known))(known, Making(seed))
    tuned = train(start, NLL(), sft_rows(start, made), steps=steps, seed=seed, lr=LR)
    new = new[: scale(len(new))]
    behind = list(shown(new, Making(seed)))
    found = {"accuracy": accuracy(tuned, behind), "accuracy without examples": accuracy(tuned, new)}
    return found if arm == "method" else {**found, "accuracy before tuning": accuracy(start, behind)}
