"""A student that its teacher corrects on what it writes itself does a task more often right than one that is told what to say of given answers.

Agarwal et al. 2023 (arXiv 2306.13649, GKD): distilled on given answers, a student meets states in training that are not those its own words lead to;
with its own samples, of which the teacher says every token's distribution, it does better for the same divergence. Here the teacher is builtin:tiny,
which carries out instructions about words (repeat, reverse, count, ...), and the student has half of its neurons and heads and has seen 1,600 of its
tasks, as GKD begins with a student that was fine-tuned. Both arms then go through the same new instructions for as many steps by the divergence with
beta 0.5: the baseline on the right answers, the method on the student's own. Scored is the share of other instructions that it carries out to the
letter, by its likeliest words. Beside it stand the student before, and the teacher. On seed 9 the two were level, after 320 tasks and after 1,600.
"""

from __future__ import annotations

from tempering.data.streams import Shuffled
from tempering.methods.objectives.gkd import GKD
from tempering.methods.objectives.nll import NLL
from tempering.methods.reshapes.width_pruning import WidthPruning
from tempering.on_policy import OnPolicy
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, sft_rows, start, tiny, train
from tempering.reshaping.run import reshape
from tempering.types import Policy, Role, Stream
from tempering.worlds.instructions import Instructions

CLAIM = Claim(
    method="gkd",
    catalogue=(),
    title="Distillation on the student's own answers against given ones",
    claim="After as many steps by the same divergence, a student taught on its own answers carries out more new instructions.",
    baseline="the same divergence on the right answers",
    metric="accuracy",
    smallest_effect=0.03,
)
BEFORE, STEPS, RATE, TOKENS = 100, 60, 1e-3, 24


def begun(seed: int, scale: Scale) -> Policy:
    """The small model after some of the tasks."""
    steps = scale(BEFORE)

    def make() -> Policy:
        base = tiny()
        rows = sft_rows(base, Instructions(seed=seed).records("train", 16 * steps))
        read = [segment.ids.tolist() for row in rows[:32] for segment in row["train"]]
        small = reshape(base, WidthPruning(neurons=0.5, heads=0.5), read, say=lambda _: None)
        return train(small, NLL(), rows, steps=steps, seed=seed, lr=RATE)

    return start({"claim": "gkd", "seed": seed, "steps": steps, "lr": RATE}, make)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Accuracy on held-out instructions."""
    world, teacher, student, steps = Instructions(seed=seed), tiny(), begun(seed, scale), scale(STEPS)
    probe = world.probe("test", scale(210))
    beside = {"before": score(student, probe), "teacher": score(teacher, probe)} if arm == "baseline" else {}
    rows = sft_rows(student, world.records("train", 16 * (scale(BEFORE) + steps)))[16 * scale(BEFORE) :]
    stream: Stream = Shuffled(rows, 16, seed)
    if arm == "method":
        stream = OnPolicy(stream, student.tokenizer, 1.0, TOKENS, seed=seed)
    tuned = train(student, GKD(), stream, steps=steps, seed=seed, lr=RATE, roles={"teacher": Role(teacher.model)})
    return {"accuracy": score(tuned, probe), **beside}
