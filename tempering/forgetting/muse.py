"""MUSE (Shi et al. 2024, arXiv:2407.06460) on any data: its probes of what a model still says of texts that are to go, and the privacy leak.

Verbatim memory (VerbMem) is the ROUGE-L F1 of greedy continuations of forgotten texts, knowledge memory (KnowMem) that of short answers to questions,
and the privacy leak compares how well Min-40% tells the texts from unseen ones with how well it does on a model that never saw either. KnowMem of
retain questions is MUSE's utility. Scale and sequential requests are other runs measured by the same probes.

The paper says ROUGE for KnowMem; its code (muse_bench, commit fcd6651d: `knowmem_agg_key` in eval.py) reports the mean F1 and keeps the mean recall
beside, so both are told here. It asks base models behind solved examples, in plain text, for 32 tokens, and so does a run whose forget rows are plain
texts, of a model without a chat template, if it was given questions about them. Other models are asked in their template, alone. Where questions
themselves were taught, KnowMem is made of the answers that TOFU's ROUGE probes got.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from tempering.making import best, is_text, spoken
from tempering.types import Probe, Record, Scores

if TYPE_CHECKING:
    from tempering.forgetting.targets import Secret
    from tempering.methods.probes._answers import AnswersItem
    from tempering.methods.probes.membership import MembershipItem

K = 0.4
"""Share of tokens of MUSE's Min-K%."""
CONTINUED, ANSWERED = 128, 32
"""New tokens of a continuation and of an answer, as released."""
STOPS = ("\n\n", "\nQuestion", "Question:")
SHOTS = 10
"""Solved questions before the one that is asked."""
MEMBERSHIP = "forget_membership"


def verbatim(texts: Sequence[Secret], name: str = "forget_verbatim") -> Probe:
    """VerbMem: plain texts whose beginning is shown and whose continuation is compared with the model's."""
    from tempering.methods.probes._answers import AnswersItem
    from tempering.methods.probes.rouge import Rouge

    items = tuple(AnswersItem(id=text.id, prompt=text.prompt, answer=text.answer) for text in texts)
    return Rouge(name=name, items=items, measure="f1", max_new_tokens=CONTINUED, cut=True, side="target")


def knowledge(
    questions: Sequence[AnswersItem], shots: Sequence[AnswersItem] = (), name: str = "forget_knowledge", side: Literal["target", "keep"] = "target"
) -> Probe:
    """KnowMem of a base model: questions in plain text after a few answered ones.

    Args:
        shots: questions with answers that are shown first; none of them is asked.
    """
    from tempering.methods.probes._answers import AnswersItem, shown
    from tempering.methods.probes.rouge import Rouge

    before = "".join(f"Question: {shown(shot.prompt)}\nAnswer: {shot.answer}\n\n" for shot in shots)
    # no space at the end: answers are generated with the space that belongs to their first word
    items = tuple(AnswersItem(id=q.id, prompt=(("text", f"{before}Question: {shown(q.prompt)}\nAnswer:"),), answer=q.answer) for q in questions)
    return Rouge(name=name, items=items, measure="f1", max_new_tokens=ANSWERED, stop=STOPS, side=side)


def about_texts(going: Sequence[AnswersItem], staying: Sequence[AnswersItem], *, chat: bool) -> tuple[Probe, ...]:
    """KnowMem where texts were taught and questions about them are asked.

    Args:
        going, staying: questions about what goes and stays; a tenth of the latter, `SHOTS` at most, is shown before and not asked.
        chat: whether the model has a chat template. Then it is asked in it, without examples: a chat model may know no other form.
    """
    from tempering.methods.probes.rouge import Rouge

    asked: tuple[tuple[str, Sequence[AnswersItem], Literal["target", "keep"]], ...]
    shots, rest = apart(() if chat else staying)
    asked = (("forget", going, "target"), ("retain", staying if chat else rest, "keep"))
    if chat:
        return tuple(Rouge(name=f"{of}_knowledge", items=tuple(q), measure="f1", max_new_tokens=ANSWERED, side=side) for of, q, side in asked if q)
    return tuple(knowledge(q, shots, f"{of}_knowledge", side) for of, q, side in asked if q)


def apart(questions: Sequence[AnswersItem]) -> tuple[Sequence[AnswersItem], Sequence[AnswersItem]]:
    """(shown before with their answers, asked): of the questions about what stays a tenth is shown, `SHOTS` at most."""
    shots = min(SHOTS, len(questions) // 10)
    return questions[:shots], questions[shots:]


def knowmem(scores: Scores, of: str) -> tuple[float, float] | None:
    """KnowMem of the questions about what goes ("forget") or stays ("retain"): (mean ROUGE-L F1, mean recall); None where none was asked."""
    found = {p.probe: p.summary for p in scores.probes}
    told = found.get(f"{of}_knowledge") or found.get(f"{of}_rouge")
    return (told["f1"], told["recall"]) if told else None


def texts(records: Iterable[Record], most: int, name: str) -> tuple[MembershipItem, ...]:
    """What membership is asked of: plain texts, or answers with their prompts; at most `most`, evenly spread."""
    from tempering.methods.probes.membership import MembershipItem

    found: dict[object, MembershipItem] = {}
    for record in records:
        said = spoken(best(record).messages).strip() if record.responses else ""
        prompt = "" if is_text(record) else tuple((m.role, m.content) for m in record.prompt)
        if said and (prompt or len(said.split()) > 1):
            found.setdefault((prompt, said), MembershipItem(id=f"{name}:{len(found)}", prompt=prompt, text=said))
    every = list(found.values())
    return tuple(every[i * len(every) // most] for i in range(most)) if len(every) > most else tuple(every)


def membership(members: Sequence[MembershipItem], others: Sequence[MembershipItem], name: str = MEMBERSHIP) -> Probe:
    """Min-40% membership, the other attacks beside it."""
    from tempering.methods.probes.membership import Membership

    return Membership(name=name, items=tuple(members), others=tuple(others), k=K)


def leak(auc: float, oracle: float) -> float | None:
    """(A - A_oracle) / A_oracle, where A = 1 - AUC is that of unseen texts as the positive class: -1 for a model that gives every forgotten text
    away, 0 for one like the oracle, above 0 for one that finds them too unlikely. None where A_oracle is 0.

    Args:
        auc: of telling forgotten texts from unseen ones, 1 where every forgotten text scores higher.
    """
    return None if oracle >= 1 else (oracle - auc) / (1 - oracle)


def privacy_leak(model: Scores, oracle: Scores, probe: str = MEMBERSHIP) -> float | None:
    """PrivLeak of a model; None where membership was not measured on both."""
    found = [next((p.summary["auc"] for p in scores.probes if p.probe == probe), None) for scores in (model, oracle)]
    return leak(*found) if None not in found else None  # type: ignore[arg-type]
