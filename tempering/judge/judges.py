"""Who judges: a language model behind any sampler, asked for a verdict or for a mark, or a program that gives marks.

What a model says is text: exactly one kind of verdict in double brackets counts (the form of MT-bench's judges, Zheng et al. 2023, arXiv 2306.05685),
anything else is unreadable. Answers are kept on disk under everything that was asked and who was asked, so a second judgement costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tempering.errors import UserError
from tempering.judge.verdicts import Question, Verdict
from tempering.sampling.answers import AnswerCache
from tempering.sampling.types import Sampler
from tempering.types import Episode, Message, Policy

PAIRWISE = (
    "Two assistants answered a conversation. Judge which answer serves the user better: is it correct, does it do what was asked, is it clear? "
    "Neither the order nor the length of the answers is a merit.\n\n<conversation>\n{prompt}\n</conversation>\n\n<answer_a>\n{first}\n</answer_a>\n\n"
    "<answer_b>\n{second}\n</answer_b>\n\nEnd with your verdict: [[A]] if answer A is better, [[B]] if answer B is better, [[C]] if they are equal."
)
MARKS = (
    "An assistant answered the conversation below. Judge how well the answer serves the user: is it correct, does it do what was asked, is it clear? "
    "Length is no merit.\n\n<conversation>\n{prompt}\n</conversation>\n\n<answer>\n{answer}\n</answer>\n\n"
    "End with a mark from 1 (useless) to 10 (could not be better), for example [[5]]."
)
_VERDICTS: dict[str, Verdict] = {"A": "first", "B": "second", "C": "tie"}


def read_verdict(text: str) -> Verdict | None:
    """The one verdict that a text gives; None where it gives none, or several that differ."""
    found = {match[1] for match in re.finditer(r"\[\[([ABC])\]\]", text)}
    return _VERDICTS[found.pop()] if len(found) == 1 else None


def read_mark(text: str) -> float | None:
    """The one mark from 1 to 10 that a text gives; None where it gives none, several that differ, or one out of range."""
    found = {float(match[1]) for match in re.finditer(r"\[\[(?:rating:\s*)?(-?\d+(?:\.\d+)?)\]\]", text, flags=re.IGNORECASE)}
    mark = found.pop() if len(found) == 1 else None
    return mark if mark is not None and 1 <= mark <= 10 else None


def fill(form: str, **parts: str) -> str:
    """A form with its places filled, in one pass: braces and place names inside an answer stay what they are."""
    return re.sub(r"\{(\w+)\}", lambda match: parts.get(match[1], match[0]), form)


def transcript(prompt: Sequence[Message]) -> str:
    """A conversation as text."""
    return "\n".join(f"{message.role}: {message.content}" for message in prompt)


class Local:
    """A policy as a `Sampler` of conversations: rendered with its chat template, decoded here."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def sample(self, prompts: Sequence[Any], **options: Any) -> list[list[Episode]]:
        """See `sampling.types.Sampler`; a prompt is a conversation."""
        from tempering.data import prompt_ids
        from tempering.sample import sample

        ids = [prompt_ids(self.policy.tokenizer, p) for p in prompts]
        return sample(self.policy, ids, **options)


@dataclass
class ModelJudge:
    """A model asked through a sampler; calling it judges pairs.

    Args:
        sampler: takes conversations.
        name: who it is, in the cache's key: a model's content, or a server's name of it.
        pointwise: ask for a mark of each answer alone and compare marks; equal ones are a tie. No order, but coarser.
        form: the question, with {prompt}, {first}, {second}, or {prompt}, {answer} for marks.
    """

    sampler: Sampler
    name: str
    pointwise: bool = False
    form: str | None = None
    max_new_tokens: int = 256
    cache: bool = True
    progress: Callable[[int, int], None] | None = None

    def __call__(self, questions: Sequence[Question]) -> list[Verdict | None]:
        """A verdict for each question, None where it cannot be read."""
        if self.pointwise:
            marks = self.marks([(q.prompt, text) for q in questions for text in (q.first, q.second)])
            return [compared(a, b) for a, b in zip(marks[::2], marks[1::2], strict=True)]
        form = self.form or PAIRWISE
        asked = [fill(form, prompt=transcript(q.prompt), first=q.first, second=q.second) for q in questions]
        return [read_verdict(text) for text in self.ask(asked)]

    def marks(self, answers: Sequence[tuple[Sequence[Message], str]]) -> list[float | None]:
        """A mark for each (prompt, answer), None where it cannot be read."""
        form = self.form or MARKS
        return [read_mark(text) for text in self.ask([fill(form, prompt=transcript(p), answer=answer) for p, answer in answers])]

    def ask(self, texts: Sequence[str]) -> list[str]:
        """Greedy answers; each different text is asked once, and not at all where the cache knows it."""
        cache = AnswerCache() if self.cache else None
        keys = {text: {"judge": self.name, "text": text, "max_new_tokens": self.max_new_tokens} for text in dict.fromkeys(texts)}
        known: dict[str, str] = {}
        for text, key in keys.items():
            kept = cache.get(key) if cache else None
            if kept is not None and isinstance(kept.get("text"), str):
                known[text] = kept["text"]
        missing = [text for text in keys if text not in known]
        if missing:
            asked: list[Any] = [(Message("user", text),) for text in missing]
            for text, (episode,) in zip(
                missing, self.sampler.sample(asked, max_new_tokens=self.max_new_tokens, temperature=0.0, progress=self.progress), strict=True
            ):
                known[text] = episode.text
                if cache:
                    cache.put(keys[text], {"text": episode.text})
        return [known[text] for text in texts]


def compared(first: float | None, second: float | None) -> Verdict | None:
    """The verdict of two marks."""
    if first is None or second is None:
        return None
    return "tie" if first == second else ("first" if first > second else "second")


@dataclass(frozen=True)
class ProgramJudge:
    """A reward that a program computes from the last user's turn and the answer, as a judge; for example `Preferences().reward`."""

    reward: Callable[[str, str], float]

    def __call__(self, questions: Sequence[Question]) -> list[Verdict | None]:
        """The answer with the higher reward; a tie where they are equal."""
        return [compared(self.reward(asked_of(q.prompt), q.first), self.reward(asked_of(q.prompt), q.second)) for q in questions]


def asked_of(prompt: Sequence[Message]) -> str:
    """The last user's turn.

    Raises:
        UserError: there is none.
    """
    found = next((m.content for m in reversed(prompt) if m.role == "user"), None)
    if found is None:
        raise UserError("a judge needs a prompt with a user's turn")
    return found


def judge_of(spec: str, *, model: str = "", pointwise: bool = False, max_new_tokens: int = 256, progress: Any = None) -> Any:
    """The judge that a word stands for: "gold", a server's address with the server's name of the model, or a model of one's own.

    Raises:
        UserError: a server without a model's name, or a model that cannot be loaded.
    """
    if spec == "gold":
        from tempering.worlds.preferences import Preferences

        return ProgramJudge(Preferences().reward)
    if spec.startswith(("http://", "https://")):
        from tempering.sampling.server import ServerSampler

        if not model:
            raise UserError(f"--judge {spec}: say which model of the server judges, with --judge-model NAME")
        # Kept once, under the judge's own key.
        return ModelJudge(ServerSampler(spec, model, logprobs=False, cache=False), f"server:{model}", pointwise, None, max_new_tokens, True, progress)
    from tempering import models
    from tempering.stages import content_of

    policy = models.load(spec, say=lambda _: None)
    origin = models.provenance(policy.model)
    name = content_of(spec) or f"{spec}:{origin.base_sha256() if origin else ''}"
    return ModelJudge(Local(policy), name, pointwise, None, max_new_tokens, True, progress)
