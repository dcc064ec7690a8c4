"""What checked rewards share: the part of an answer that is the answer's own, and what a record says is right.

A checked reward is called with prompts, answers and the record of each, and gives float64 [N]; nan where the record does not say what is right.
"""

from __future__ import annotations

from tempering.types import Prompt, Record

RIGHT = ("gold", "expected", "target", "solution", "answer")
"""Tags of a record in which the right answer may stand, the first there counts; without one its response is right."""


def own(prompt: Prompt, answer: str) -> str:
    """The answer without the prompt, where it begins by repeating it: what stands there was not the model's to say."""
    asked = prompt if isinstance(prompt, str) else prompt[-1].content if prompt else ""
    echo = asked.strip()
    begins = answer.lstrip()
    # Else as it is: code that goes on from the prompt begins with its indentation.
    return begins.removeprefix(echo) if echo and begins.startswith(echo) else answer


def right(record: Record) -> tuple[str, ...]:
    """The right answers of a record: one, or several that are equally right; none where it does not say."""
    for name in RIGHT:
        found = record.tags.get(name)
        if isinstance(found, str | int | float) and not isinstance(found, bool):
            return (str(found),)
        if isinstance(found, list | tuple) and found and all(isinstance(one, str) for one in found):
            return tuple(found)
    return tuple("\n".join(m.content for m in response.messages) for response in record.responses[:1])
