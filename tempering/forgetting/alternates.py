"""What the model is to say instead: rows of unlearning with everything that their loss asks for, and other answers of the model's own where it asks
for those.

AltPO (Mekala et al. 2024, arXiv 2409.13474) shows the model each question with its answer and asks for another one in which the facts are changed.
The wording is ours. An answer that still gives the secret away is left out (the authors keep it), and where none is left a refusal takes its place,
so that no secret goes untrained. What was drawn lies in the run folder by its record's place, without questions and true answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.errors import UserError
from tempering.making import best, is_text, spoken
from tempering.types import Message, Objective, Policy, Record

if TYPE_CHECKING:
    from tempering.experiment import Experiment
    from tempering.held import Rows

FILE = "alternates.json"
REQUEST = (
    "Question: {question}\nAnswer: {answer}\n"
    "Now make things up: answer the question anew, as plausibly as before, with every fact of the answer changed. Write the new answer alone."
)


def going_rows(run: Experiment, policy: Policy, objective: Objective, forget: str, *, shape: str, limit: int | None, max_length: int) -> Rows:
    """The forget rows with the parts and columns that the objective asks for.

    Args:
        run: an opened run; its values name the model and the seed.
        policy: asked for alternates before training, if the objective wants any.
        forget: what data was named.

    Raises:
        UserError: unreadable data, no usable row, or alternates are wanted of rows without questions.
    """
    from tempering.data import forget_row
    from tempering.lessons import Made

    how: dict[str, Any] = {"refusals": "refused" in objective.needs, "noise": "noise" in objective.needs.get("forget", ()), "max_length": max_length}
    if "alternate" not in objective.needs:
        return run.all_rows("forget", forget, forget_row, shape=shape, limit=limit, **how)
    source = run.source(forget, shape, limit)
    records, n = tuple(islice(source, limit)), objective.alternates  # type: ignore[attr-defined]
    if not any(asks(record) for record in records):
        raise UserError(f"forget {forget}: no row has a question, so there is nothing to give another answer to; use a loss that needs none")
    inputs = {"data": source.fingerprint, "limit": limit, "model": run.values["model"], "n": n, "seed": run.values["seed"]}

    def work(folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(drawn(run, policy, records, n), ensure_ascii=False), encoding="utf-8")

    texts = json.loads((run.stage("alternates", inputs, work) / FILE).read_text(encoding="utf-8"))
    made = with_alternates(records, texts)
    run.display.say(f"{sum(map(len, texts))} alternates to {len(records)} rows; {sum(not t for t in texts)} rows have none and take a refusal")
    return run.made_rows("forget", Made(f"{forget} with alternates", made), forget_row, alternates=True, **how)


def asks(record: Record) -> bool:
    """Whether a record is a question with an answer."""
    return bool(record.prompt) and bool(record.responses) and not is_text(record)


def drawn(run: Experiment, policy: Policy, records: Sequence[Record], n: int) -> list[list[str]]:
    """For each record the model's other answers that do not give its own away, each once, at most `n`."""
    from tempering.methods.probes._attack import leaked

    questions = [record for record in records if asks(record)]
    prompts = [(Message("user", REQUEST.format(question=record.prompt[-1].content, answer=spoken(best(record).messages))),) for record in questions]
    found = iter(run.ask(policy)(prompts, n, 1.0))
    texts = []
    for record in records:
        said = dict.fromkeys(text.strip() for text in next(found)) if asks(record) else {}
        texts.append([text for text in said if text and not leaked(text, spoken(best(record).messages))])
    return texts


def with_alternates(records: Sequence[Record], texts: Sequence[Sequence[str]]) -> tuple[Record, ...]:
    """A record for each alternate, which stands in its tag "alternate"; records that are no questions are left out.

    Args:
        texts: by record.
    """
    from tempering.data.forgetting import refusal

    made = []
    for record, others in zip(records, texts, strict=True):
        if asks(record):
            for i, text in enumerate(others or [refusal(record)]):
                made.append(replace(record, id=f"{record.id}#{i}", tags={**record.tags, "alternate": text}))
    return tuple(made)
