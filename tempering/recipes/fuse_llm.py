"""Fusing models of different tokenizers into one: it learns a text, and what of all their distributions fits that text best (FuseLLM, S066).

Each source reads the rows once, in its own tokens; its `k` likeliest tokens are kept and brought into the student's vocabulary: tokens by the path of
least edit distance, words by the nearest one (`data/aligned.py`). Of a row's distributions, the student's own at the start among them, `--fuse
min_ce` takes that of the model to which the row's answer is the likeliest, `avg_ce` averages all with weights softmax(exp(-CE)), CE in nats for each
token of the student. Wan et al. 2024, arXiv 2401.10491.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA

if TYPE_CHECKING:
    import numpy as np

    from tempering.data.aligned import Words
    from tempering.types import Row, Segment

CATALOGUE = ("S066",)
NOTHING = -1e4
"""The log-prob of a place that is not taken; a number that every file and dtype keeps."""


def fuse_llm(
    sources: tuple[str, ...] = (),
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    train_on: Literal["assistant", "last", "each", "all"] = "assistant",
    max_length: int = 1024,
    limit: int | None = None,
    fuse: Literal["min_ce", "avg_ce"] = "min_ce",
    k: Annotated[int, Field(ge=1)] = 10,
    lambda_: Annotated[float, Field(ge=0, le=1)] = 0.9,
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=2e-4),
    schedule: Schedule = Schedule(),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Fuse other models into one by what they say of a text.

    Args:
        sources: the models to learn from, of any tokenizer; they stay as they are.
        model: the student: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of conversations, instructions, prompt/completion rows or texts; builtin:demo is made for this project.
        test: held-out rows of the same kind; by default 10% of the data, at most 200 rows, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the student's own: a Jinja file, or plain (for base models); it is saved with the model.
        train_on: what is scored: every assistant turn, the last, each in a sequence of its own (templates that rewrite earlier turns), or all.
        max_length: longest sequence in tokens; rows over it, in any of the models' tokens, are dropped and counted, never cut silently.
        limit: read at most this many rows.
        fuse: take the best model's distribution of a row, or average all by how good they are there.
        k: how many tokens of a distribution are kept.
        lambda_: what the text itself counts.
        scope: which weights of the student may move: full or lora.
        seed: of shuffling, dropout and initialisation.
    """
    from tempering.data.aligned import Words
    from tempering.data.taught import Read
    from tempering.methods.objectives.fuse_llm import FuseLLM

    if not sources:
        raise UserError("fuse_llm: no models to learn from; name them with --sources (hub ids, folders, models of other runs)")
    run = Experiment.begin(fuse_llm, locals())
    student = run.load(model, template=template)
    others = [run.beside(f"source{i}", spec) for i, spec in enumerate(sources)]
    how = {"shape": shape, "limit": limit, "max_length": max_length, "train_on": train_on}
    groups = run.rows(data, test, Read([other.tokenizer for other in others]), **how)
    before = run.measure("before", student, groups[1])
    asked = ("logp", f"top_logp.{k}", f"top_id.{k}")
    for i, who in enumerate([student, *others]):
        groups = run.cache_reference(who, *groups, column=tuple(f"said{i}.{name}" for name in asked), part=f"read{i - 1}" if i else "train")
    words = Words(student.tokenizer)
    train, held = (list(fused(rows, words, [other.tokenizer for other in others], student.tokenizer, fuse, k)) for rows in groups)
    tuned = run.fit("fit", student, FuseLLM(k=k, lambda_=lambda_), train, held)
    return run.finish(tuned, before, run.measure("after", tuned, groups[1]))


def fused(rows: Sequence[Row], words: Words, tokenizers: Sequence[Any], own: Any, fuse: str, k: int) -> Iterator[Row]:
    """Rows {"train": ...} with the fused distributions as columns, of rows in which every model has said what it thinks.

    Args:
        rows: {"train": the student's segments, "read0", "read1", ...: the sources'}, with columns "said0..." on the first, "said1..." on the next.
        words: of the student's vocabulary.
    """
    for row in rows:
        segments = []
        for at, segment in enumerate(row["train"]):
            said = [_said(segment, 0, k)]
            for i, tokenizer in enumerate(tokenizers):
                said.append(_as_ours(segment, row[f"read{i}"][at], i + 1, tokenizer, own, words, k))
            segments.append(_joined(segment, said, fuse, k))
        yield {"train": tuple(segments)}


Said = tuple[float, "list[dict[int, float]]"]
"""Nats of the whole answer, and for each scored token id -> chance."""


def _said(segment: Segment, number: int, k: int) -> Said:
    """What a model says of a segment of its own."""
    import numpy as np

    scored = np.flatnonzero(segment.weight)
    logp, top, ids = (segment.extras[f"said{number}.{name}"] for name in ("logp", f"top_logp.{k}", f"top_id.{k}"))
    each = [_chances(zip(ids[t], np.exp(top[t]), strict=True)) for t in scored]
    return -float(logp[scored].sum()), each


def _chances(pairs: Any) -> dict[int, float]:
    """Id -> chance, those of one id added, all brought to 1."""
    found: dict[int, float] = {}
    for number, chance in pairs:
        found[int(number)] = found.get(int(number), 0.0) + float(chance)
    total = sum(found.values())
    return {number: chance / total for number, chance in found.items()}


def _as_ours(mine: Segment, other: Segment, number: int, tokenizer: Any, own: Any, words: Words, k: int) -> Said:
    """What a source says, at the student's tokens and in its words; the text's own token where nothing meets."""
    import numpy as np

    from tempering.data.aligned import same, written

    nats, each = _said(other, number, k)
    ids, theirs = mine.ids[np.flatnonzero(mine.weight)], other.ids[np.flatnonzero(other.weight)]
    places = same(written(tokenizer, theirs.tolist()), written(own, ids.tolist()))
    found = []
    for gold, place in zip(ids, places, strict=True):
        if place is None:
            found.append({int(gold): 1.0})
        else:
            spelled = written(tokenizer, list(each[place]))
            found.append(_chances(zip(map(words.nearest, spelled), each[place].values(), strict=True)))
    return nats, found


def _joined(segment: Segment, said: Sequence[Said], fuse: str, k: int) -> Segment:
    """The student's segment with the columns of the fused distribution."""
    import numpy as np

    scored = np.flatnonzero(segment.weight)
    ce = np.asarray([nats / max(1, len(scored)) for nats, _ in said])
    weights = np.eye(len(said))[ce.argmin()] if fuse == "min_ce" else np.exp(np.exp(-ce)) / np.exp(np.exp(-ce)).sum()
    logp, ids = np.full((len(segment.ids), k), NOTHING, np.float32), np.zeros((len(segment.ids), k), np.float32)
    for n, t in enumerate(scored):
        mixed = _chances(
            (number, weight * chance) for weight, (_, each) in zip(weights, said, strict=True) if weight for number, chance in each[n].items()
        )
        best = sorted(mixed.items(), key=lambda one: (-one[1], one[0]))[:k]
        for j, (number, chance) in enumerate(best):
            ids[t, j], logp[t, j] = number, np.log(max(chance, 1e-30))
    columns: Mapping[str, np.ndarray] = {f"fused.top_logp.{k}": logp, f"fused.top_id.{k}": ids}
    return replace(segment, extras=columns)
