"""What the model is to say instead: rows of unlearning with everything that their loss asks for, and other answers of the model's own where it asks
for those.

AltPO (Mekala et al. 2024, arXiv 2409.13474) shows the model each question with its answer and asks for another one in which the facts are changed;
UnSTAR (S091) asks for a wrong one with a reason, and only where the model still gives the true one; ToolDelete (S200) asks another model plainly. The
wording is ours. An answer that still gives the secret away is left out (the authors of AltPO keep it), and where none is left a refusal takes its
place, so that no secret goes untrained. What was drawn lies in the run folder by its record's place, without questions and true answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from tempering.errors import UserError
from tempering.making import Ask, best, is_text, spoken
from tempering.types import Message, Objective, Policy, Record

if TYPE_CHECKING:
    from tempering.experiment import Experiment
    from tempering.held import Rows

FILE = "alternates.json"
REQUESTS = {
    "another": "Question: {question}\nAnswer: {answer}\nNow make things up: answer the question anew, as plausibly as before, with every fact of the "
    "answer changed. Write the new answer alone.",
    "wrong": "Question: {question}\nAnswer: {answer}\nGive a wrong answer of the same kind to this question, and after it one sentence that makes it "
    "sound right. Do not name the true answer.",
    "plain": "",
}
"""What the model is asked for (`asks_for` of an objective) -> how; "" is the question as it stands, without tools."""


class Wanted(Protocol):
    """What an objective that reads the part "alternate" says of it."""

    @property
    def alternates(self) -> int:
        """Answers to each question."""
        ...

    @property
    def asks_for(self) -> str:
        """A key of `REQUESTS`."""
        ...

    @property
    def only_known(self) -> bool:
        """Leave out questions that the model does not answer right."""
        ...

    @property
    def asks_of(self) -> str:
        """The model that is asked; "" is the one that forgets."""
        ...


def going_rows(run: Experiment, policy: Policy, objective: Objective, forget: str, *, shape: str, limit: int | None, max_length: int) -> Rows:
    """The forget rows with the parts and columns that the objective asks for.

    Args:
        run: an opened run; its values name the model and the seed.
        policy: asked for alternates before training, if the objective wants any.
        forget: what data was named.

    Raises:
        UserError: unreadable data, no usable row, or alternates are wanted of rows without questions.
    """
    from tempering import models
    from tempering.data import forget_row
    from tempering.forgetting.counterfactual import named_rows
    from tempering.lessons import Made

    how: dict[str, Any] = {"refusals": "refused" in objective.needs, "noise": "noise" in objective.needs.get("forget", ()), "max_length": max_length}
    if "fake0" in objective.needs:
        return named_rows(run, objective, forget, shape=shape, limit=limit, max_length=max_length)
    if "alternate" not in objective.needs:
        return run.all_rows("forget", forget, forget_row, shape=shape, limit=limit, **how)
    source = run.source(forget, shape, limit)
    records, wanted = tuple(islice(source, limit)), cast("Wanted", objective)
    if not any(asks(record) for record in records):
        raise UserError(f"forget {forget}: no row has a question, so there is nothing to give another answer to; use a loss that needs none")
    inputs = {"data": source.fingerprint, "limit": limit, "model": run.values["model"], "seed": run.values["seed"]}
    inputs |= {name: getattr(wanted, name) for name in ("alternates", "asks_for", "only_known", "asks_of")}

    def work(folder: Path) -> None:
        other = policy if run.rehearses or not wanted.asks_of else models.load(wanted.asks_of, say=run.display.say)
        (folder / FILE).write_text(json.dumps(drawn(run.ask(other), records, wanted), ensure_ascii=False), encoding="utf-8")

    texts = json.loads((run.stage("alternates", inputs, work) / FILE).read_text(encoding="utf-8"))
    made = with_alternates(records, texts)
    if not made:
        raise UserError(f"forget {forget}: the model gives none of the {len(records)} answers when it is asked, so nothing is left to forget")
    sizes = [len(t) for t in texts if t is not None]
    run.display.say(f"{sum(sizes)} answers to {len(sizes)} of {len(records)} questions; {sizes.count(0)} have none that will do and take a refusal")
    return run.made_rows("forget", Made(f"{forget} with alternates", made), forget_row, alternates=True, **how)


def asks(record: Record) -> bool:
    """Whether a record is a question with an answer."""
    return bool(record.prompt) and bool(record.responses) and not is_text(record)


def drawn(ask: Ask, records: Sequence[Record], wanted: Wanted) -> list[list[str] | None]:
    """For each record the model's other answers that do not give its own away, each once; None for one that is no question, or that the model does
    not answer right where only known ones are wanted.

    Args:
        ask: the model.
        wanted: the objective: how many answers of which kind to which questions.
    """
    from tempering.methods.probes._attack import leaked

    answers = {i: spoken(best(record).messages) for i, record in enumerate(records) if asks(record)}
    if wanted.only_known:
        said = ask([records[i].prompt for i in answers], 1, 0.0)
        answers = {i: answer for (i, answer), (text,) in zip(answers.items(), said, strict=True) if leaked(text, answer)}
    request = REQUESTS[wanted.asks_for]

    def asking(record: Record, answer: str) -> tuple[Message, ...]:
        return (Message("user", request.format(question=record.prompt[-1].content, answer=answer)),) if request else record.prompt

    prompts = [asking(records[i], answer) for i, answer in answers.items()]
    found = dict(zip(answers, ask(prompts, wanted.alternates, 1.0) if prompts else [], strict=True))
    texts: list[list[str] | None] = [None] * len(records)
    for i, answer in answers.items():
        texts[i] = [text for text in dict.fromkeys(text.strip() for text in found[i]) if text and not leaked(text, answer)]
    return texts


def with_alternates(records: Sequence[Record], texts: Sequence[Sequence[str] | None]) -> tuple[Record, ...]:
    """A record for each alternate, which stands in its tag "alternate"; a refusal where there is none; records with None are left out.

    Args:
        texts: by record.
    """
    from tempering.data.forgetting import refusal

    made = []
    for record, others in zip(records, texts, strict=True):
        for i, text in enumerate([] if others is None else others or [refusal(record)]):
            made.append(replace(record, id=f"{record.id}#{i}", tags={**record.tags, "alternate": text}))
    return tuple(made)
