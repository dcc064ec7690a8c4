"""ICUL, in-context unlearning: nothing is trained; the prompt shows questions that are to go with wrong answers, and others with right ones.

Pawelczyk et al. 2023 (arXiv 2310.07579, section 4): the rows to be forgotten with their labels flipped, rows with true labels, then the query. The
surveys (S076) have it as the way for a model that is only behind an interface. A flipped label is here the answer of another forget question, or a
refusal, and what is shown stands in the chat template, so the same turns come before every question. Only questions that are shown can be forgotten,
a context holds few of them, and the weights know everything as before: the attack "weights alone" says so.
"""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import Field

from tempering.config import Budget
from tempering.errors import UserError
from tempering.experiment import Experiment, Report

CATALOGUE = ("S076",)


def icul(
    model: str = "builtin:tiny",
    forget: str = "builtin:people-forget",
    retain: str = "builtin:people-retain",
    forget_test: str | None = None,
    retain_test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    gone: Annotated[int, Field(ge=0)] = 8,
    shown: Annotated[int, Field(ge=0)] = 8,
    instead: Literal["other", "refusal"] = "other",
    oracle: str | None = None,
    attacks: Literal["all", "plain", "none"] = "all",
    redact: bool = True,
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Show a model forget questions with wrong answers before every question, and try to get the right ones out all the same.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m; it needs a chat template, in which the examples stand.
        forget: file, folder or hub id of the questions and answers that are to go.
        retain: rows that are to stay.
        forget_test: the same facts in other words, to ask for beside the forget rows; builtin sets have one.
        retain_test: held-out rows of what is to stay; by default 10% of the retain rows, at most 200, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens, without the examples.
        limit: read at most this many rows of each file.
        gone: how many of the forget questions are shown with a wrong answer, evenly spread over the rows.
        shown: how many retain questions follow with their right answers (the paper's L).
        instead: what a forget question gets: the answer of another one, or a refusal.
        oracle: a model that never saw the forget rows (retrained without them), measured beside the other two.
        attacks: all of them before and after, only plain questions, or none.
        redact: keep hashes instead of the words of forgotten rows in scores, samples and reports. The template has the questions that are shown.
        seed: of which wrong answer a question gets, and of what is held out.
    """
    from tempering import models
    from tempering.data import retain_row, with_template
    from tempering.forgetting import battery, in_context
    from tempering.forgetting.redact import redacted
    from tempering.forgetting.targets import secrets
    from tempering.forgetting.verdict import tell
    from tempering.sample import max_positions
    from tempering.types import Policy

    run = Experiment.begin(icul, locals())
    policy = run.load(model, template=template)
    how: dict[str, Any] = {"shape": shape, "limit": limit, "roles": ("retain", "retain-test")}
    _, held = run.rows(retain, retain_test, retain_row, max_length=max_length, **how)
    plain = policy.tokenizer.chat_template
    if plain is None:
        raise UserError(f"model {model}: the examples stand in the chat template, and there is none; give one with --template")
    of, others = (secrets(islice(run.source(data, shape, limit), limit), most) if most else () for data, most in ((forget, gone), (retain, shown)))
    if any(role == "text" for secret in (*of, *others) for role, _ in secret.prompt):
        raise UserError(f"forget {forget}, retain {retain}: examples are questions with answers, and some rows are plain texts; leave those out")
    turns = in_context.turns(of, others, instead, seed)
    tokenizer = with_template(policy.tokenizer, in_context.showing(plain, turns))
    added, most = in_context.length(tokenizer) - in_context.length(policy.tokenizer), max_positions({"policy": policy.model})
    if most and added > most // 2:
        raise UserError(f"the {len(of) + len(others)} examples take {added} of the {most} tokens that {model} reads; lower --gone and --shown")
    run.trains_nothing()
    hide = redacted if redact else lambda scores: scores

    def asked(held: Any) -> tuple[Any, ...]:
        return battery.probes(run, held, decodes=True, template=plain)

    before = run.measure("before", policy, held, probes=asked(held), hide=hide)
    never = run.measure("oracle", models.load(oracle, say=run.display.say), held, probes=asked(held), hide=hide) if oracle else None
    run.display.say(f"{len(of)} questions with wrong answers and {len(others)} with right ones stand before every question: {added} tokens")
    run.tokenizer = tokenizer
    _, later = run.rows(retain, retain_test, retain_row, max_length=max_length + added, **how)
    tuned = Policy(policy.model, tokenizer, name=f"{policy.name} + icul", source=policy.source)
    models.save(tuned, run.folder.path / "model")
    after = run.measure("after", tuned, later, probes=asked(later), hide=hide)
    tell(run, before, after, never)
    return run.finish(tuned, before, after)
