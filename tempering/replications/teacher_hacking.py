"""On fixed answers of an imperfect teacher a student comes closer to the teacher and, in the end, further from what the teacher learned from.

Tiapkin et al. 2025 (arXiv 2502.02671, teacher hacking) distil an oracle into a teacher and the teacher into a student: where the student goes through
a fixed set again and again, its distance to the oracle turns while that to the teacher falls; with answers that are drawn anew it does not. Here the
oracle is builtin:tiny, which replies to requests; teacher and student have half of its neurons and heads, and have seen some of its replies, the
student fewer. It learns by forward KL from the teacher: the baseline on one reply of the teacher to each of 16 requests, the method on replies to the
same requests that the teacher writes anew for every step. Scored is how far the distance to the oracle, in nats per token of its replies to other
requests, rises from its least value, the start's included, to the end. On seed 100, which is none of the seeds that count, a student that began at
random only came closer, and one that was nearer to the oracle than its teacher went away from it on 48 requests too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tempering.items import prompt_ids
from tempering.methods.objectives.forward_kl import ForwardKL
from tempering.methods.objectives.nll import NLL
from tempering.methods.probes.teacher_hacking import TeacherHacking, rise
from tempering.methods.reshapes.width_pruning import WidthPruning
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import sft_rows, start, tiny, train
from tempering.replications._replies import TOKENS, requests
from tempering.reshaping.run import reshape
from tempering.sample import sample
from tempering.types import Message, Policy, Record, Response, Role, Row

CLAIM = Claim(
    method="teacher_hacking",
    catalogue=("S125",),
    title="Answers drawn anew against a fixed set: how far the distance to the oracle rises again",
    claim="With the teacher's answers drawn anew, a student's distance to the oracle rises less from its least value than on a fixed set.",
    baseline="one fixed answer of the teacher to each request",
    metric="rise",
    smallest_effect=0.05,
    higher_is_better=False,
    range=(0.0, 0.5),
)
FEW, STEPS, EVERY, RATE = 16, 60, 6, 3e-3
LESSONS = 320
TAUGHT = {"teacher": 80, "student": 20}


def replies(policy: Policy, records: list[Record], seed: int) -> list[Record]:
    """The records with an answer of the model each."""
    asked = [prompt_ids(policy, record.prompt[0].content) for record in records]
    found = sample(policy, asked, temperature=1.0, max_new_tokens=TOKENS, seed=seed)
    return [replace(r, responses=(Response((Message("assistant", of[0].text),)),), better=()) for r, of in zip(records, found, strict=True)]


def small(records: list[Record]) -> Policy:
    """builtin:tiny with half of its neurons and heads, by what goes through it on these."""
    base = tiny()
    read = [segment.ids.tolist() for row in sft_rows(base, records[:32]) for segment in row["train"]]
    return reshape(base, WidthPruning(neurons=0.5, heads=0.5), read, say=lambda _: None)


def taught(who: str, seed: int, scale: Scale) -> Policy:
    """The small model after some of the oracle's replies: the teacher, or the student as it begins."""
    steps, first = scale(TAUGHT[who]), seed + 1000 * (who == "student")
    inputs = {"claim": "teacher_hacking", "seed": first, "steps": steps, "lessons": LESSONS, "lr": RATE}

    def make() -> Policy:
        oracle = tiny()
        lessons = replies(oracle, requests(seed, "train", FEW + LESSONS)[FEW:], first)
        return train(small(lessons), NLL(), sft_rows(oracle, lessons), steps=steps, seed=first, lr=RATE)

    return start(inputs, make)


def distances(policy: Policy, rows: list[Row], oracle: Policy, teacher: Policy) -> Mapping[str, float]:
    """KL(oracle || policy) and KL(teacher || policy) per token."""
    return TeacherHacking(rows=rows, oracle=oracle, teacher=teacher)(policy).summary


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The rise, and the distances at their least and at the end."""
    oracle, teacher, student, steps = tiny(), taught("teacher", seed, scale), taught("student", seed, scale), scale(STEPS)
    some, held = requests(seed, "train", FEW), requests(seed, "test", scale(32))
    fixed = sft_rows(oracle, replies(teacher, some, seed))
    rows = fixed
    if arm == "method":
        rows = [row for step in range(steps) for row in sft_rows(oracle, replies(teacher, some, seed + 1000 * step))]
    told = sft_rows(oracle, replies(oracle, held, seed))
    seen: dict[str, list[float]] = {"oracle": [], "teacher": [], "teacher, fixed rows": []}

    def look(step: int, policy: Policy) -> None:
        if step % EVERY == 0 or step == steps:
            there, here = distances(policy, told, oracle, teacher), distances(policy, fixed, oracle, teacher)
            for name, value in zip(seen, (there["oracle"], there["teacher"], here["teacher"]), strict=True):
                seen[name].append(value)

    look(0, student)
    train(student, ForwardKL(), rows, steps=steps, seed=seed, lr=RATE, roles={"teacher": Role(teacher.model)}, look=look)
    beside = {f"{name}, {word}": value for name, of in seen.items() for word, value in (("first", of[0]), ("least", min(of)), ("last", of[-1]))}
    return {"rise": rise(seen["oracle"]), **beside, "teacher from oracle": distances(teacher, told, oracle, teacher)["oracle"]}
