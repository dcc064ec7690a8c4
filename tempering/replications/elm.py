"""An expert that is found by prompts alone does more of a task asked in new words than one model that learned all tasks together.

Jang et al. 2023 (arXiv 2302.03202, ELM) tune an expert for each task, find the one whose prompts are nearest to those of an unseen task, and see it
ahead of a model tuned on all tasks. Here eight tasks are a form each: every answer is the task's own word and then the word that is asked for, and
which task it is stands in the request, as one word among others. Each is trained in two wordings; asked is a third one. The baseline is one adapter
that learned all tasks for as many steps as all experts together; the method takes, for each task's new wording, the expert that 16 of its prompts
vote for. Scored is how often the task's form is the likeliest of the eight. Beside it stand the share of tasks that found their own expert, the
accuracy of each task's own one, and that of the average of all experts.
"""

from __future__ import annotations

from collections.abc import Sequence

from tempering.config import Training
from tempering.data import prompt_ids
from tempering.items import answer_ids, mean
from tempering.making import answer, user
from tempering.measure import logps_of
from tempering.merging.library import Library, embed
from tempering.methods.merges.linear import Linear
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.lora import LoRA
from tempering.models.save import plain_model
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import sft_rows, tiny, train
from tempering.replications._merging import merged
from tempering.types import Policy, Record
from tempering.worlds.base import rng
from tempering.worlds.instructions import WORDS

CLAIM = Claim(
    method="elm",
    catalogue=("S213",),
    title="The expert whose prompts are nearest against one adapter for all tasks, asked in a new wording",
    claim="Asked in a new wording, the expert that its prompts find gives a task's form more often than one adapter tuned on all tasks for as long.",
    baseline="one adapter for all tasks, for as many steps as all experts together",
    metric="accuracy",
    smallest_effect=0.05,
)
TASKS, STEPS, RATE = 8, 8, 3e-3
ENTRIES, QUERIES, ASKED = 32, 16, 16
WORDINGS = ("Say {word} the {key} way.", "In the {key} style: {word}", "{word}, as a {key} would have it?")
LAST = len(WORDINGS) - 1


def tasks(seed: int) -> list[dict[int, list[Record]]]:
    """Of each task the questions in each wording; the tag "forms" has the answer in every task's form, the task's own first."""
    source = rng("elm", seed)
    words = source.sample(WORDS, len(WORDS))
    keys, own, asked = words[:TASKS], words[TASKS : 2 * TASKS], words[2 * TASKS :]
    found = []
    for task in range(TASKS):
        rows, forms = dict[int, list[Record]](), [own[task], *(word for word in own if word != own[task])]
        for wording, text in enumerate(WORDINGS):
            some = source.sample(asked, 2 * ASKED)
            rows[wording] = [
                Record(
                    (user(text.format(word=word, key=keys[task])),),
                    (answer(f"{own[task]} {word}"),),
                    tags={"forms": [f"{form} {word}" for form in forms]},
                )
                for word in some
            ]
        found.append(rows)
    return found


def accuracy(policy: Policy, asked: Sequence[Record]) -> float:
    """How often the task's form is the likeliest."""
    pairs = [(prompt_ids(policy.tokenizer, r.prompt), answer_ids(policy, form)) for r in asked for form in r.tags["forms"]]
    found = [float(logp_T.sum()) for logp_T in logps_of(policy, pairs)]
    return mean([float(found[i] == max(found[i : i + TASKS])) for i in range(0, len(found), TASKS)])


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The mean accuracy over the tasks."""
    start, every, steps = tiny(), tasks(seed), scale(STEPS)
    taught = [[record for wording in range(LAST) for record in rows[wording]] for rows in every]
    asked = [rows[LAST][:ASKED] for rows in every]

    def learned(records: Sequence[Record], steps: int, number: int) -> Policy:
        return train(start, NLL(), sft_rows(start, records), steps=steps, seed=seed + number, lr=RATE, scope=LoRA())

    if arm == "baseline":
        whole = learned([record for rows in taught for record in rows], TASKS * steps, 0)
        return {"accuracy": mean([accuracy(whole, rows) for rows in asked]), "before": mean([accuracy(start, rows) for rows in asked])}
    experts = [learned(rows, steps, number) for number, rows in enumerate(taught)]

    def seen(records: Sequence[Record], most: int) -> list[list[int]]:
        return [prompt_ids(start.tokenizer, record.prompt) for record in records[:: max(1, len(records) // most)][:most]]

    library = Library({str(i): embed(start, seen(rows, ENTRIES), Training(precision="fp32")) for i, rows in enumerate(taught)})
    # The prompts that vote are others than those that are answered.
    chosen = [int(library.route(embed(start, seen(rows[LAST][ASKED:], QUERIES), Training(precision="fp32")))[0]) for rows in every]
    averaged = merged(Linear(weight=(1 / TASKS,) * TASKS), [Policy(plain_model(expert), expert.tokenizer) for expert in experts])
    return {
        "accuracy": mean([accuracy(experts[i], rows) for i, rows in zip(chosen, asked, strict=True)]),
        "found their own": mean([float(i == task) for task, i in enumerate(chosen)]),
        "own expert": mean([accuracy(expert, rows) for expert, rows in zip(experts, asked, strict=True)]),
        "average of all": mean([accuracy(averaged, rows) for rows in asked]),
    }
