"""Unlearning: `temper run forget --method npo --forget F.jsonl --retain R.jsonl`, or `temper run npo`.

Every file of `methods/objectives` that says `FAMILY = "forget"` is a method of this recipe: its forget term, with any retain term, scope and length
of training. What is to be forgotten is attacked before and after, by default in every way there is; a model that never saw it (`--oracle`) is
attacked beside, because what such a model also says is no leak. The verdict is the strongest attack's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.experiment import Experiment, Report
from tempering.forgetting.looks import Looks
from tempering.forgetting.oracle import Learning
from tempering.forgetting.shadows import Shadows
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA

FAMILY = "forget"
if TYPE_CHECKING:
    AnyForgetting = Any
else:
    AnyForgetting = choices.family(FAMILY)


def forget(
    model: str = "builtin:tiny",
    forget: str = "builtin:people-forget",
    retain: str | None = None,
    forget_test: str | None = None,
    retain_test: str | None = None,
    holdout: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    max_new_tokens: Annotated[int, Field(ge=1)] = 128,
    limit: int | None = None,
    method: AnyForgetting = choices.choice("npo")(),
    base: str | None = None,
    learning: Learning = Learning(),
    oracle: str | None = None,
    shadows: Shadows = Shadows(),
    until: str | None = None,
    looks: Looks = Looks(),
    audit: str | None = None,
    attacks: Literal["all", "asking", "plain", "none"] = "all",
    attack_limit: Annotated[int, Field(ge=1)] = 48,
    translations: str | None = None,
    forget_choices: str | None = None,
    concept_vectors: str | None = None,
    redact: bool = True,
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=5e-4),
    schedule: Schedule = Schedule(warmup=0.1),
    training: Training = Training(epochs=5),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Make a model forget some rows, keep others, and try to get the forgotten ones out again.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        forget: file, folder or hub id of the rows that are to go (questions and answers, or plain texts), or what is meant: name:SOMEBODY (the model
            says what it knows about them), concept:WORD,WORD, tool:NAME, style:NAME or class:LABEL (rows of `retain`).
        retain: rows that are to stay; batches take as many of them as of the others, in an order of their own. builtin:people-retain by default, and
            beside a name what the model says about other names, which it gives itself or takes from name:ANN,BOB.
        forget_test: the same facts in other words, to ask for beside the forget rows; builtin sets have one.
        retain_test: held-out rows of what is to stay; by default 10% of the retain rows, at most 200, chosen by seed.
        holdout: rows of the same kind that the model never saw, to tell forgotten ones from (membership inference); builtin sets have some.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut silently.
        max_new_tokens: longest answer of the model itself, for methods that ask it.
        limit: read at most this many rows of each file.
        method: how to forget: the forget term and its retain term.
        base: make the model here instead of taking `model`: this one, fine-tuned on the forget and the retain rows; with it the oracle, fine-tuned on
            the retain rows alone. Both are kept in the store.
        learning: how these two learn.
        oracle: a model that never saw the forget rows (retrained without them), measured beside the other two.
        shadows: models like the one that forgets, trained on other halves of the forget rows and of `holdout`, by which each row is judged (LiRA).
        until: end training as soon as this holds of a probe, for example "asked >= 0.95", or "asked >= oracle"; looked at every `eval_every` steps.
        looks: looks at what comes out and what is kept while training goes on, written to path.json.
        audit: append a record of this request to this file, whose lines are chained by hashes (`temper audit FILE`).
        attacks: what is tried before and after. plain: the questions as they were taught and in the held-out wordings. all: besides, on at most
            `attack_limit` secrets, six rewordings, four role plays, four other languages, begun answers, neighbours told and few-shot (18 answers a
            secret), 8 sampled answers, rounding to 8 and 4 bits (an answer each), relearning by LoRA on other secrets, unrelated and retain rows (20
            small steps and 2 answers each); and told beside the verdict: the fact in the prompt, merging back, the logit lens, a linear and an
            unsupervised probe (3 answers and some forward passes). About 17 processor seconds for each model measured on builtin:tiny. asking: all
            that leave the weights as they are (relearning takes longest). none: none.
        attack_limit: how many of the secrets all attacks but the plain questions are tried on; fewer make a large model's battery shorter.
        translations: JSON lines of {"question", "translated"}, also "answer": questions of the forget rows in other languages,
            asked instead of for answers in others.
        forget_choices: JSON lines of {"question", "choices", "answer"}: multiple-choice questions about what is to go, as in WMDP, of which fewer are
            to be right, down to chance.
        concept_vectors: JSON lines of {"layer", "dim", "concept"}: columns of `down_proj` that speak for what is to go, of which is measured how
            alike they stay.
        redact: keep hashes instead of the words of forgotten rows in scores, samples and reports.
        scope: which weights may move: full or lora.
        seed: of shuffling, dropout, initialisation and sampling.
    """
    from tempering.forgetting.request import carry_out

    method = choices.value(method)
    return carry_out(Experiment.begin(_RECIPE, {**locals(), "method": method}), method.build())


_RECIPE = forget
"""The function, whose own argument has its name."""
