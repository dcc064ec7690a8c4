"""Published unlearning benchmarks on a run's own data: their probes, and the numbers that they make of a run's scores (TOFU's model utility and
forget quality, MUSE's KnowMem and privacy leak, KnowUnDo's success on either side, PISTOL's deviation)."""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from tempering.forgetting import knowundo, muse, pistol, tofu
from tempering.forgetting.targets import secrets
from tempering.making import is_text
from tempering.types import Probe, Record, Scores

if TYPE_CHECKING:
    from tempering.experiment import Experiment

UNSEEN = {"builtin:people-forget": "builtin:demo-people", "builtin:authors-forget": "builtin:authors-unseen"}
"""Built-in set -> one of the same kind that builtin:tiny never saw."""


def probes(run: Experiment, forget: str, *, shape: str, limit: int | None) -> list[Probe]:
    """TOFU's and KnowUnDo's probes of what goes and of what stays, questions about both at once, such that depend on a forgotten answer or have one
    among their choices, MUSE's of plain texts and of questions about them (`forget_test`), and membership where unseen rows are named (`holdout`)."""
    from tempering.methods.probes.both_asked import BothAsked
    from tempering.methods.probes.dependent import Dependent, fits
    from tempering.methods.probes.swapped_choice import SwappedChoice, swapped

    most, values, of_tiny = run.budget.max_test, run.values, forget.startswith("builtin:")

    def rows(data: str, limit: int | None = None) -> list[Record]:
        return list(islice(run.source(data, shape, limit), limit))

    how: dict[str, Any]
    going = rows(forget, limit)
    retain = str(values["retain"])
    stays = values.get("retain_test") or (f"{retain}-test" if retain.startswith("builtin:") else retain)
    unseen = values.get("holdout") or UNSEEN.get(forget)
    kept = rows(stays)
    gone, left = tofu.facts(going, most), tofu.facts(kept, most)
    found = [*tofu.probes(gone, "forget", "target"), *knowundo.of(gone, left)]
    asked, beside = (secrets((r for r in of if r.prompt and not is_text(r)), most) for of in (going, kept))
    if asked and beside:
        # builtin:tiny takes no instruction around a question: in the words above it would answer neither
        how = {"form": "{first}\n{second}"} if of_tiny else {}
        longest = min(256, max(len(s.answer) for s in (*asked, *beside)))
        found.append(BothAsked(items=asked, beside=beside, max_new_tokens=longest, **how))
        if fits(asked, beside):
            found.append(Dependent(items=asked, beside=beside, max_new_tokens=longest, limit=values["attack_limit"]))
    choices, answers = tofu.choices(left), tuple(dict.fromkeys(item.answer for item in gone))
    if fit := swapped(choices, answers):
        # builtin:tiny does not know letters either
        how = {"normalise": "sum" if of_tiny else "letter", "limit": values["attack_limit"]}
        found.append(SwappedChoice(items=tuple(item for item in choices if item.id in fit), going=answers, **how))
    if texts := secrets(filter(is_text, going), most):
        found.append(muse.verbatim(texts))
        if not gone and values["forget_test"]:
            chat = values["template"] != "plain" and run.tokenizer.chat_template is not None
            found += muse.about_texts(tofu.facts(rows(values["forget_test"]), most), left, chat=chat)
    if unseen:
        found.append(muse.membership(muse.texts(going, most, "member"), muse.texts(rows(unseen), most, "unseen")))
    return [*found, *tofu.probes(left, "retain", "keep")]


def benchmarks(before: Scores, after: Scores, oracle: Scores | None = None) -> dict[str, dict[str, Any]]:
    """{"before": numbers, "after": numbers, "oracle": numbers}, as JSON can hold them; numbers that were not measured are left out.

    Args:
        oracle: scores of a model that never saw the data; forget quality and privacy leak need one.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, scores in (("before", before), ("after", after), ("oracle", oracle)):
        if scores is not None:
            numbers: dict[str, Any] = {"model_utility": tofu.model_utility(scores), "deviation": pistol.deviation_score(scores)}
            for of in ("forget", "retain"):
                if told := muse.knowmem(scores, of):
                    numbers |= {f"knowmem_{of}": told[0], f"knowmem_{of}_recall": told[1]}
            if {knowundo.UNLEARN, knowundo.RETENTION} <= {p.probe for p in scores.probes}:
                numbers |= knowundo.success(scores)
            if oracle is not None:
                quality = tofu.forget_quality(scores, oracle)
                numbers |= {"forget_quality": quality and asdict(quality), "privacy_leak": muse.privacy_leak(scores, oracle)}
            found[name] = {key: value for key, value in numbers.items() if value is not None}
    return found


def write(run: Experiment, before: Scores, after: Scores, oracle: Scores | None) -> tuple[str, ...]:
    """benchmarks.json in a run's folder, and what it says; nothing of both where nothing was measured."""
    if not (told := sentence(numbers := benchmarks(before, after, oracle))):
        return ()
    run.folder.write("benchmarks.json", numbers)
    return (f"{told[0].upper()}{told[1:]}.",)


def sentence(numbers: dict[str, dict[str, Any]]) -> str:
    """One line of what `benchmarks` found; empty where nothing was measured."""
    told = []
    for key, what in (
        ("model_utility", "model utility (TOFU)"),
        ("deviation", "deviation (PISTOL, by ROUGE-L)"),
        ("forget_quality", "forget quality (TOFU, p)"),
        ("knowmem_forget", "KnowMem of what goes (MUSE, ROUGE-L F1)"),
        ("knowmem_retain", "of what stays"),
        ("privacy_leak", "privacy leak (MUSE)"),
        ("unlearn_success", "unlearn success (KnowUnDo)"),
        ("retention_success", "retention success (KnowUnDo)"),
    ):
        values = [(name, of[key]["p_value"] if key == "forget_quality" else of[key]) for name, of in numbers.items() if key in of]
        if values:
            told.append(f"{what}: " + ", ".join(f"{value:.3g} {name}" for name, value in values))
    return "; ".join(told)
