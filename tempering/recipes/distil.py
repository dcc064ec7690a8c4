"""Distillation: a model learns from the whole distributions of a teacher, or from its answers: `--loss reverse_kl`, or `temper run gkd`.

Every file of `methods/objectives` that says `FAMILY = "distil"` is a loss of this recipe. Teacher and student read the same rows, with the same
vocabulary; the teacher's numbers are computed beside the student's, some tokens at a time (late.py). With `--on-policy` some steps take the student's
own answers instead of the data's. Some losses read other rows: a rule that the teacher alone sees (`--rule`), or a teacher of another vocabulary; one
reads the teacher's likeliest tokens off the disk, asked once. Measured are held-out rows, on the data's answers. To learn from answers that a teacher
writes is a matter of data: `temper run sequence_kd --teacher T`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA

FAMILY = "distil"
if TYPE_CHECKING:
    from tempering.hacking import Gauge
    from tempering.types import Policy, Row, Stream

    AnyDistil = Any
else:
    AnyDistil = choices.family(FAMILY)


def distil(
    teacher: str | None = None,
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    train_on: Literal["assistant", "last", "each", "all"] = "assistant",
    max_length: int = 1024,
    max_new_tokens: Annotated[int, Field(ge=1)] = 64,
    limit: int | None = None,
    loss: AnyDistil = choices.default(FAMILY, "forward_kl"),
    nll: Annotated[float, Field(ge=0)] = 0.0,
    on_policy: Annotated[float, Field(ge=0, le=1)] = 0.0,
    rule: str | None = None,
    calibrate: bool = False,
    oracle: str | None = None,
    look_every: Annotated[int, Field(ge=1)] = 10,
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=2e-4),
    schedule: Schedule = Schedule(),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Train a student on a teacher's distributions.

    Args:
        teacher: the model to learn from, given as a model is; it stays as it is.
        model: the student: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of conversations, instructions, prompt/completion rows or texts; builtin:demo is made for this project.
        test: held-out rows of the same kind; by default 10% of the data, at most 200 rows, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the student's own: a Jinja file, or plain (for base models); it is saved with the model.
        train_on: what is scored: every assistant turn, the last, each in a sequence of its own (templates that rewrite earlier turns), or all.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut silently.
        max_new_tokens: longest answer that is sampled.
        limit: read at most this many rows.
        loss: what is wanted of the student where the teacher says what it thinks.
        nll: what the likelihood of the data's own answers counts beside the loss.
        on_policy: the chance that the answers of a step are sampled from the student as it is, instead of the data's.
        rule: what stands in front of the teacher's prompt, as a system turn, for rule_distillation; the teacher is then by default the start model.
        calibrate: for first: choose the teacher's temperature c that makes its confidence on the held-out rows most honest.
        oracle: a model that is trusted more than the teacher, of the same vocabulary (a larger one, or the teacher's own teacher): the distance to it
            on held-out rows is measured, and looked at along the way, since it may rise while that to the teacher falls (teacher hacking).
        look_every: steps between two such looks (`hacking.json` in the run folder).
        scope: which weights of the student may move: full or lora.
        seed: of shuffling, dropout, initialisation and sampling.
    """
    from tempering.distributed import word

    loss = choices.value(loss)
    reads = loss.build().needs
    if ("told" in reads) != (rule is not None):
        raise UserError("--rule TEXT is what rule_distillation distils: give both (temper run rule_distillation --rule TEXT), or neither")
    teacher = teacher or (model if rule is not None else None)
    if teacher is None:
        raise UserError("distil: no teacher; name the model to learn from with --teacher (a hub id, a folder, the model of another run)")
    if on_policy and (word.several() or "train" not in reads or len(reads) > 1):
        raise UserError(
            "--on-policy: the student is asked while it trains, in one process, for losses that read nothing but its answers; leave it out"
        )
    if oracle is not None and (word.several() or "train" not in reads or len(reads) > 1):
        raise UserError("--oracle: the student is looked at while it trains, in one process, on rows of plain answers; leave it out")
    if calibrate and (loss.kind != "first" or on_policy):
        raise UserError("--calibrate chooses the temperature c of --loss first, on the data's answers (no --on-policy); leave it out")
    run = Experiment.begin(distil, {**locals(), "loss": loss})
    student, master = run.load(model, template=template), run.beside("teacher", teacher)
    return _taught(run, student, master, loss.build())


def _taught(run: Experiment, student: Policy, master: Policy, objective: Any) -> Report:
    """The steps of an opened run with both models there."""
    from tempering.data.streams import Shuffled
    from tempering.held import target_probes
    from tempering.methods.objectives.nll import NLL
    from tempering.types import Role

    v = run.values
    make_row, how = _rows(run, student, master, objective)
    train, held = run.rows(v["data"], v["test"], make_row, shape=v["shape"], limit=v["limit"], max_length=v["max_length"], **how)
    run.check(objective, train)
    gauge = _gauge(run, student, master, held) if v["oracle"] and not run.rehearses else None
    probes = (*target_probes(held, v["budget"].max_test), gauge.probe) if gauge else None
    before = run.measure("before", student, held, probes=probes)
    roles, watched = {"teacher": Role(master.model)}, held
    # The student's own answers are new: for them the teacher stays.
    if not v["on_policy"] and (kept := run.cache_likeliest("teacher", master, objective, train, held)):
        roles, (train, watched) = {}, kept
    if v["calibrate"]:
        objective = replace(objective, c=calibrated(watched, objective.k))
        run.display.say(f"the teacher's temperature is {objective.c:g}: so its confidence is most honest on the held-out rows")
    if v["nll"]:
        objective = objective + v["nll"] * NLL()
    stream, until = _sampled(run, student, train), None
    if gauge:
        stream = gauge.counting(*(stream or (Shuffled(train, v["training"].batch_size, v["seed"]), run.steps(train))))
        until = (gauge, v["look_every"])
    tuned = run.fit("fit", student, objective, train, watched, stream, until, roles=roles)
    if gauge:
        run.display.say(gauge.told())
    return run.finish(tuned, before, run.measure("after", tuned, held, probes=probes))


def _gauge(run: Experiment, student: Policy, master: Policy, held: Sequence[Row]) -> Gauge:
    from tempering.hacking import Gauge
    from tempering.methods.probes.teacher_hacking import TeacherHacking

    probe = TeacherHacking(rows=held, oracle=run.beside("oracle", run.values["oracle"]), teacher=master, limit=run.values["budget"].max_test)
    return Gauge(probe, run.folder.path, student.tokenizer)


def _rows(run: Experiment, student: Policy, master: Policy, objective: Any) -> tuple[Any, dict[str, Any]]:
    """How a record becomes a row of the parts that the loss reads."""
    from tempering.data import sft_row
    from tempering.data.taught import Taught, told_row

    v = run.values
    how = {"train_on": v["train_on"]}
    if "taught" in objective.needs:
        return Taught(master.tokenizer), how
    if master.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise UserError(
            f"--teacher {v['teacher']}: its vocabulary is another than the student's, so its words are not the same; --loss universal_logit needs no "
            "common one, and `temper run sequence_kd` learns from its answers"
        )
    return (told_row, {**how, "rule": v["rule"]}) if "told" in objective.needs else (sft_row, how)


def calibrated(rows: Sequence[Row], k: int) -> float:
    """The temperature of `first` with the least expected calibration error: ten bins of the teacher's chance for its likeliest token, over the tokens
    of rows that have its `k` likeliest as columns."""
    import numpy as np

    from tempering.methods.probes.calibration import ece

    logps, hits = [], []
    for segment in (s for row in rows for s in row["train"]):
        scored = segment.weight != 0
        top = segment.extras[f"teacher.top_logp.{k}"][scored].astype(np.float64)
        rest = np.log(np.maximum(1 - np.exp(top).sum(-1, keepdims=True), 1e-12))
        logps.append(np.concatenate([top, rest], -1))
        hits.append(segment.extras[f"teacher.top_id.{k}"][scored][:, 0] == segment.ids[scored])
    logp, hit = np.concatenate(logps), np.concatenate(hits)

    def error(c: float) -> float:
        warm = np.exp((logp - logp.max(-1, keepdims=True)) / c)
        return ece(list(warm[:, 0] / warm.sum(-1)), list(hit))

    return min((round(0.5 * 1.05**i, 4) for i in range(64)), key=error)


def _sampled(run: Experiment, student: Policy, rows: Sequence[Row]) -> tuple[Stream, int] | None:
    """The stream of a run that samples from its student, and its steps; None for one that does not."""
    from tempering.data.streams import Shuffled
    from tempering.on_policy import OnPolicy

    v, training = run.values, run.values["training"]
    if not v["on_policy"]:
        return None
    stream = OnPolicy(Shuffled(rows, training.batch_size, v["seed"]), student.tokenizer, v["on_policy"], v["max_new_tokens"], seed=v["seed"])
    return stream, run.steps(rows)
