"""ICUL, in-context unlearning: nothing is trained; the prompt shows questions that are to go with wrong answers, and others with right ones.

Pawelczyk et al. 2023 (arXiv 2310.07579, section 4): the rows to be forgotten with their labels flipped, rows with true labels, then the query. The
surveys (S076) have it as the way for a model that is only behind an interface. A flipped label is here the answer of another forget question, or a
refusal, and what is shown stands in the chat template, so the same turns come before every question. Only questions that are shown can be forgotten,
a context holds few of them, and the weights know everything as before: the attack "weights alone" says so. builtin:tiny never read prompts this
long and answers next to nothing right under them; it shows the mechanism, not the method.
"""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Literal

from pydantic import Field

from tempering.config import Budget
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.forgetting.attacked import Attacked, Request

CATALOGUE = ("S076",)


def icul(
    model: str = "builtin:tiny",
    request: Request = Request(),
    gone: Annotated[int, Field(ge=0)] = 8,
    shown: Annotated[int, Field(ge=0)] = 8,
    instead: Literal["other", "refusal"] = "other",
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Show a model forget questions with wrong answers before every question, and try to get the right ones out all the same.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m; it needs a chat template, in which the examples stand.
        request: what is to go and to stay, and how it is attacked.
        gone: how many of the forget questions are shown with a wrong answer, evenly spread over the rows.
        shown: how many retain questions follow with their right answers (the paper's L).
        instead: what a forget question gets: the answer of another one, or a refusal.
        seed: of which wrong answer a question gets, and of what is held out.
    """
    from tempering.data import with_template
    from tempering.forgetting import in_context
    from tempering.forgetting.targets import secrets
    from tempering.sample import max_positions
    from tempering.types import Policy

    case = Attacked(Experiment.begin(icul, locals()))
    run, policy, data = case.run, case.policy, (request.forget, request.retain)
    plain = policy.tokenizer.chat_template
    if plain is None:
        raise UserError(f"model {model}: the examples stand in the chat template, and there is none; give one with --template")
    sources = [islice(run.source(name, request.shape, request.limit), request.limit) for name in data]
    of, others = (secrets(records, most) if most else () for records, most in zip(sources, (gone, shown), strict=True))
    if any(role == "text" for secret in (*of, *others) for role, _ in secret.prompt):
        raise UserError(f"forget {data[0]}, retain {data[1]}: examples are questions with answers, and some rows are plain texts; leave those out")
    tokenizer = with_template(policy.tokenizer, in_context.showing(plain, in_context.turns(of, others, instead, seed)))
    added, most = in_context.length(tokenizer) - in_context.length(policy.tokenizer), max_positions({"policy": policy.model})
    if most and added > most // 2:
        raise UserError(f"the {len(of) + len(others)} examples take {added} of the {most} tokens that {model} reads; lower --gone and --shown")
    run.trains_nothing()
    case.before(decodes=True)
    run.display.say(f"{len(of)} questions with wrong answers and {len(others)} with right ones stand before every question: {added} tokens")
    run.tokenizer = tokenizer
    _, later = case.retained(longer=added)
    return case.after(Policy(policy.model, tokenizer, name=f"{policy.name} + icul", source=policy.source), later)
