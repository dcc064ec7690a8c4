"""`temper chat MODEL`: talk to a model. What it writes is stripped of everything that could steer a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tempering.cli.show import say, strip
from tempering.errors import UserError

if TYPE_CHECKING:
    from tempering.types import Policy

Messages = list[dict[str, str]]
HELP = "an empty line or Ctrl-D ends; /new starts over; Ctrl-C stops an answer"


def chat(
    model: str,
    /,
    *,
    once: str | None = None,
    system: str = "",
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> int:
    """Talk to a model; tokens appear as they are written.

    Args:
        model: hub id, folder, .gguf file, builtin name or run folder.
        once: say this, print the answer and end.
        system: a system message to begin with.
        max_new_tokens: longest answer.
        temperature: 0 takes the likeliest token every time.
        top_p: nucleus mass kept.
        seed: of the sampling.
    """
    from tempering.cli.models import load

    if max_new_tokens < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise UserError("temper chat: expected --max-new-tokens of at least 1, --temperature of at least 0 and --top-p above 0 and up to 1")
    policy = load(model)
    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    begin: Messages = [{"role": "system", "content": system}] if system else []
    if once is not None:
        answer(policy, [*begin, {"role": "user", "content": once}], _write, **options)
        _write("\n")
        return 0
    say(HELP)
    return _talk(policy, begin, options)


def _talk(policy: Policy, begin: Messages, options: dict[str, Any]) -> int:
    messages = list(begin)
    for text in _lines():
        if text == "/new":
            messages = list(begin)
            continue
        messages.append({"role": "user", "content": text})
        said: list[str] = []

        def write(piece: str, said: list[str] = said) -> None:
            said.append(piece)
            _write(piece)

        try:
            answer(policy, messages, write, **options)
        except KeyboardInterrupt:
            _write(" ...")
        _write("\n")
        messages.append({"role": "assistant", "content": "".join(said)})
    return 0


def _lines() -> Iterator[str]:
    while True:
        try:
            text = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            _write("\n")
            return
        if not text:
            return
        yield text


def _write(piece: str) -> None:
    text = strip(piece)
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def answer(
    policy: Policy, messages: Messages, write: Callable[[str], None], *, max_new_tokens: int, temperature: float, top_p: float, seed: int
) -> None:
    """One assistant turn, written piece by piece; whole at the end where a decode chain is in the way of streaming.

    Raises:
        UserError: the conversation is longer than the model's positions.
    """
    from tempering.items import prompt_ids
    from tempering.sample import max_positions, models_of, sample, stop_ids

    ids = prompt_ids(policy, messages)
    limit = max_positions(models_of(policy))
    if limit is not None and len(ids) + 1 > limit:
        raise UserError(f"the conversation has {len(ids)} tokens, the model has {limit} positions; start over with /new")
    if policy.decode:
        options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
        write(sample(policy, [ids], **options)[0][0].text)
        return
    import torch
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            write(text)

    model: Any = policy.model
    drawn = {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature > 0 else {"do_sample": False}
    given = torch.tensor([ids], device=next(model.parameters()).device)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model.eval().generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=min(max_new_tokens, limit - len(ids)) if limit else max_new_tokens,
            eos_token_id=sorted(stop_ids(policy)),
            pad_token_id=policy.tokenizer.pad_token_id or 0,
            streamer=Streamer(policy.tokenizer, skip_prompt=True, skip_special_tokens=True),
            **drawn,
        )
