"""TOFU (Maini et al. 2024, arXiv:2401.06121) on any data: questions from records, its three probes on each set, and the two numbers made of them.

Wrong answers and paraphrases come from the data where it has them (`perturbed_answer`, `paraphrased_answer`, the fields of the published sets). In
the built-in worlds wrong answers are other people's values of the same kind, and a bare value stands for its own paraphrase.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tempering.errors import UserError
from tempering.items import mean
from tempering.making import best, is_text, spoken
from tempering.types import Probe, ProbeScores, Record, Scores

if TYPE_CHECKING:
    from tempering.methods.probes._answers import AnswersItem
    from tempering.methods.probes.multiple_choice import ChoiceItem

RIVALS = 5
"""Wrong answers of a question in a world; TOFU has three to five."""
METRICS = ("probability", "rouge", "truth_ratio")
"""Probes of a set are called SET_probability and so on."""
FORGET_TRUTH_RATIO = "forget_truth_ratio"


def facts(records: Iterable[Record], most: int, name: str = "fact") -> tuple[AnswersItem, ...]:
    """Questions of the records with their answers, at most `most`, evenly spread; plain texts and records without an answer are left out.

    Raises:
        UserError: a field of wrong answers that is no list of texts.
    """
    from tempering.methods.probes._answers import AnswersItem

    asked = {}
    for record in records:
        if record.responses and record.prompt and not is_text(record) and (said := spoken(best(record).messages).strip()):
            asked.setdefault((tuple((m.role, m.content) for m in record.prompt), said), record)
    values: dict[Any, set[str]] = {}
    for record in asked.values():
        if _of_world(record):
            values.setdefault((record.tags["world"], record.tags["kind"]), set()).add(str(record.tags["answer"]))
    found = [
        AnswersItem(id=f"{name}:{i}", prompt=prompt, answer=said, paraphrase=str(record.tags.get("paraphrased_answer") or ""), wrong=wrong)
        for i, ((prompt, said), record) in enumerate(asked.items())
        for wrong in [_wrong(record, said, values)]
    ]
    return tuple(found[i * len(found) // most] for i in range(most)) if len(found) > most else tuple(found)


def _of_world(record: Record) -> bool:
    return {"world", "kind", "answer"} <= set(record.tags)


def _wrong(record: Record, said: str, values: dict[Any, set[str]]) -> tuple[str, ...]:
    given = record.tags.get("perturbed_answer")
    if given is not None:
        given = (given,) if isinstance(given, str) else given
        if not isinstance(given, (list, tuple)) or not all(isinstance(text, str) and text.strip() for text in given):
            raise UserError(f"{record.source}: field 'perturbed_answer' must be a list of texts, it is {str(given)[:60]!r}")
        return tuple(given)
    if not _of_world(record):
        return ()
    answer = str(record.tags["answer"])
    others = sorted(values[record.tags["world"], record.tags["kind"]] - {answer})
    # from a place that follows from the question, so that not all questions have the same rivals
    start = hashlib.sha256(f"{record.id}{said}".encode()).digest()[0] if others else 0
    return tuple(said.replace(answer, others[(start + i) % len(others)]) for i in range(min(RIVALS, len(others))))


def choices(items: Sequence[AnswersItem], options: int = 4) -> tuple[ChoiceItem, ...]:
    """Multiple-choice questions: an answer among its wrong ones, or where it has none among other items' answers; where it stands follows from the
    question. Items with fewer than two wrong answers are left out."""
    from tempering.methods.probes._answers import shown
    from tempering.methods.probes.multiple_choice import ChoiceItem

    found = []
    for i, item in enumerate(items):
        others = item.wrong or tuple(other.answer for other in (*items[i + 1 :], *items[:i]))
        wrong = [text for text in dict.fromkeys(others) if text != item.answer][: options - 1]
        if len(wrong) > 1:
            place = hashlib.sha256(shown(item.prompt).encode()).digest()[0] % (len(wrong) + 1)
            found.append(ChoiceItem(id=item.id, question=shown(item.prompt), choices=(*wrong[:place], item.answer, *wrong[place:]), answer=place))
    return tuple(found)


def probes(
    items: Sequence[AnswersItem], name: str, side: Literal["target", "keep"], *, choices: bool = False, max_new_tokens: int | None = None
) -> tuple[Probe, ...]:
    """TOFU's three probes of a set.

    Args:
        items: its questions (`facts`); those without wrong answers have no truth ratio.
        name: of the set: "forget", "retain", "real_authors".
        choices: probability over the answers to choose from, as TOFU has it for real authors and world facts.
        max_new_tokens: of a generated answer; None takes what the longest answer needs.
    """
    from tempering.methods.probes.answer_probability import AnswerProbability
    from tempering.methods.probes.rouge import Rouge
    from tempering.methods.probes.truth_ratio import TruthRatio

    if not items:
        return ()
    every, told = tuple(items), tuple(item for item in items if item.wrong)
    room = max_new_tokens or min(256, max(16, max(len(item.answer) for item in items) // 2))
    found: list[Probe] = [AnswerProbability(name=f"{name}_probability", items=told if choices else every, choices=choices, side=side)]
    found.append(Rouge(name=f"{name}_rouge", items=every, max_new_tokens=room, side=side))
    if told:
        found.append(TruthRatio(name=f"{name}_truth_ratio", items=told, side=side))
    return tuple(found)


def harmonic_mean(values: Sequence[float]) -> float:
    """n / sum of 1 / value; 0 where any value is 0."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)


def model_utility(scores: Scores) -> float | None:
    """Harmonic mean of the means of all TOFU probes on the side that is to stay: of nine in the paper (retain, real authors, world facts), of three
    where only retain rows are measured. None where none was."""
    of_sets = [p for p in scores.probes if p.side == "keep" and p.probe.endswith(tuple(f"_{metric}" for metric in METRICS))]
    values = [mean([item.score for item in probe.items]) for probe in of_sets]
    return harmonic_mean(values) if values else None


@dataclass(frozen=True)
class ForgetQuality:
    """A two-sample Kolmogorov-Smirnov test: are the truth ratios those of a model that never saw the data?"""

    p_value: float
    """Forget quality: 1 for the oracle itself, below 0.05 for a model that can be told from it."""
    statistic: float
    """Largest distance of the two distribution functions."""
    n: int


def forget_quality(model: Scores, oracle: Scores, probe: str = FORGET_TRUTH_RATIO) -> ForgetQuality | None:
    """Forget quality of a model; None where the truth ratio was not measured on both.

    Args:
        oracle: scores of a model that never saw the data, on the same items.

    Raises:
        UserError: the two were asked about different items.
    """
    from scipy import stats

    ours, theirs = _probe(model, probe), _probe(oracle, probe)
    if ours is None or theirs is None:
        return None
    if [item.id for item in ours.items] != [item.id for item in theirs.items]:
        raise UserError(f"probe '{probe}': model and oracle were asked about different items, measure both with the same probes")
    test: Any = stats.ks_2samp([item.extra["ratio"] for item in ours.items], [item.extra["ratio"] for item in theirs.items])
    return ForgetQuality(float(test.pvalue), float(test.statistic), len(ours.items))


def _probe(scores: Scores, name: str) -> ProbeScores | None:
    return next((p for p in scores.probes if p.probe == name), None)
