"""Sampling: prompts (token ids) in, episodes (the very tokens, their behaviour log-probs, the text) out.

One call over `sampling.Decoder`: requests are queued, as many as `batch_size` are in flight at a time, and a finished one makes room for the next.
Randomness is keyed by (seed, prompt key, sample, position), never by the batch: in float32 the tokens do not depend on which requests run together,
in which order, or how many at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tempering.errors import UserError
from tempering.remembered import remembered
from tempering.sampling.chain import (
    PAD,
    apply_decode,
    config_of,
    evaluating,
    max_positions,
    models_of,
    pad_left,
    stop_ids,
    vocabulary_size,
)
from tempering.sampling.choose import behaviour_logps
from tempering.sampling.decoder import Decoder
from tempering.sampling.types import Request, check_prompt
from tempering.types import Episode, Policy

if TYPE_CHECKING:
    import torch

__all__ = ["PAD", "apply_decode", "behaviour_logps", "config_of", "evaluating", "max_positions", "models_of", "pad_left", "sample", "stop_ids"]


def sample(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    n: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stop: Sequence[str] = (),
    seed: int = 0,
    batch_size: int = 32,
    keys: Sequence[int] | None = None,
    skip: int = 0,
    dtype: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Episode]]:
    """Continues every prompt `n` times; returns one list of episodes per prompt, in the order of the prompts.

    While a policy is measured, a greedy answer that it has given before is not asked for again (`remembered`).

    An episode's ids include the stop token or the tokens of the stop string; its text does not. Its log-probs are those of the distribution the
    tokens were drawn from, after the decode chain, temperature, top-k and top-p (natural log); with temperature 0 those at temperature 1.

    Args:
        prompts: token ids, each at least one token.
        temperature: 0 is greedy.
        top_p: nucleus mass kept (Holtzman et al. 2020); 1 keeps all. top_k: 0 keeps all.
        stop: strings that end an episode when they appear in the sampled text.
        batch_size: requests in flight at the same time.
        keys: names the noise of each prompt (default: its position), so that a prompt's samples stay the same in another list.
        skip: samples of each prompt that are left out, the first ones: those that come keep their noise.
        dtype: None runs the policy's own modules; a precision makes a copy of the weights in it for this call, which decodes faster (see `Decoder`).
        progress: called as (finished episodes, all episodes).
    Raises:
        UserError: an empty, too long or out-of-vocabulary prompt; an option out of range; a role that a decode asks for is missing.
    """
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    for name, value, least in (("n", n, 1), ("batch_size", batch_size, 1), ("skip", skip, 0)):
        if value < least:
            raise UserError(f"sampling option {name}={value!r}: must be at least {least}")
    shared: dict[str, Any] = dict(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, stop=stop, seed=seed)
    Request((), **shared).check()
    if keys is not None and len(keys) != len(prompts):
        raise UserError(f"{len(keys)} keys for {len(prompts)} prompts: give one key per prompt")
    models = models_of(policy)
    limit, vocabulary = max_positions(models), vocabulary_size(models)
    for i, prompt in enumerate(prompts):
        check_prompt(prompt, max_new_tokens, limit, vocabulary, f"prompt {i}")
    places = range(len(prompts)) if keys is None else keys

    kept = remembered(policy) if dtype is None else None

    def ask(some: Sequence[Sequence[int]], named: Sequence[int]) -> list[list[Episode]]:
        requests = [[Request(tuple(map(int, p)), key=key, sample=j, **shared) for j in range(skip, n)] for p, key in zip(some, named, strict=True)]
        if not any(requests):
            return [[] for _ in some]
        decoder = kept.decoder(batch_size) if kept is not None else None
        return _drained(policy, decoder or Decoder(policy, max_rows=batch_size, dtype=dtype), requests, progress)

    if kept is not None and (n, skip, temperature) == (1, 0, 0.0):
        whole = [tuple(map(int, prompt)) for prompt in prompts]
        return [[episode] for episode in kept.answered(whole, max_new_tokens, stop, lambda new: [found for (found,) in ask(new, range(len(new)))])]
    return ask(prompts, places)


def _drained(
    policy: Policy, decoder: Decoder, requests: Sequence[Sequence[Request]], progress: Callable[[int, int], None] | None
) -> list[list[Episode]]:
    """The episodes of these requests, in their order."""
    rows = [(i, j) for i, of in enumerate(requests) for j in range(len(of))]
    tickets, ids, logps, finished = dict[int, tuple[int, int]](), dict[Any, list[int]](), dict[Any, list[float]](), dict[Any, bool]()
    # the longest first: what is left to do at the end, when few are in flight, is then short
    for i, j in sorted(rows, key=lambda row: (-len(requests[row[0]][0].prompt_ids), row)):
        tickets[decoder.submit(requests[i][j])] = (i, j)
        ids[i, j], logps[i, j] = [], []
    while not decoder.idle:
        before = len(finished)
        for token in decoder.step():
            row = tickets[token.ticket]
            ids[row].append(token.id)
            logps[row].append(token.logp)
            if token.finished:
                finished[row] = token.finished == "stop"
        if progress is not None and len(finished) > before:
            progress(len(finished), len(rows))
    ends = stop_ids(policy)

    def episode(i: int, j: int) -> Episode:
        request = requests[i][j]
        text = text_of(policy.tokenizer, ids[i, j], request.stop, ends)
        return Episode(request.prompt_ids, tuple(ids[i, j]), tuple(logps[i, j]), text, finished[i, j])

    return [[episode(i, j) for j in range(len(of))] for i, of in enumerate(requests)]


def text_of(tokenizer: Any, ids: Sequence[int], stop: Sequence[str], ends: frozenset[int]) -> str:
    """The text of sampled tokens, without the stop token or stop string that ended them; empty without a tokenizer."""
    if tokenizer is None:
        return ""
    text = tokenizer.decode(ids[:-1] if ids and ids[-1] in ends else ids, skip_special_tokens=True)
    cuts = [text.find(s) for s in stop if s in text]
    return text[: min(cuts)] if cuts else text
