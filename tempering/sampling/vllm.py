"""Sampling with vLLM in this process: its offline interface (`vllm.LLM`) behind the protocol that all backends share.

One request per sample, each with its own seed made of the call's seed, the prompt's key and the sample's number: vLLM's `n` would number its seeds by
itself, and its prefix cache computes a shared prompt once anyway. Log-probs are those of the distribution that was drawn from, as everywhere in this
package, so the engine is told `logprobs_mode="processed_logprobs"`; at temperature 0 they are those at temperature 1.

Source: vLLM's API reference for `LLM.generate`, `LLM.chat`, `SamplingParams` and `CompletionOutput` (0.11 and later). vLLM needs a GPU and is not a
dependency; the tests run against a recorded stand-in of its shapes, never against vLLM itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from tempering.errors import UserError
from tempering.sampling.server import derived_seed
from tempering.sampling.types import Prompt
from tempering.types import Episode, Message

if TYPE_CHECKING:
    from types import ModuleType


class VLLMSampler:
    """A model in vLLM, as a `Sampler`. Takes token ids, texts and messages (with the model's own chat template).

    Args:
        model: a folder or hub id, as `vllm.LLM` takes it; `temper export` writes such folders.
        engine: further arguments of `vllm.LLM`, for example {"tensor_parallel_size": 2, "dtype": "bfloat16"}.
    Raises:
        UserError: vLLM is not installed, or cannot load the model.
    """

    def __init__(self, model: str, *, engine: dict[str, Any] | None = None) -> None:
        self._vllm = _vllm()
        try:
            self._llm = self._vllm.LLM(model=model, **{"logprobs_mode": "processed_logprobs", **(engine or {})})
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            raise UserError(f"vLLM cannot load {model}: {' '.join(str(error).split())[:300]}; check the model and the engine's arguments") from error

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int = 1,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        stop: Sequence[str] = (),
        seed: int = 0,
        keys: Sequence[int] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Episode]]:
        """Continues every prompt `n` times; one list of `n` episodes per prompt, in the order of the prompts.

        Args:
            keys: name the noise of each prompt (default: its position).
            progress: called once at the end as (all, all); vLLM shows its own progress.
        Raises:
            UserError: an option or prompt that makes no sense, or one that vLLM refuses.
        """
        if n < 1 or max_new_tokens < 1 or not 0 <= temperature < math.inf or not 0 < top_p <= 1 or top_k < 0:
            raise UserError("sampling needs n and max_new_tokens of at least 1, temperature and top_k of at least 0, top_p above 0 and at most 1")
        if keys is not None and len(keys) != len(prompts):
            raise UserError(f"{len(keys)} keys for {len(prompts)} prompts: give one key per prompt")
        stops = [stop] if isinstance(stop, str) else list(stop)

        def params(prompt: int, sample: int) -> Any:
            drawn = derived_seed(seed, prompt if keys is None else keys[prompt], sample) if temperature > 0 else None
            return self._vllm.SamplingParams(
                temperature=temperature, top_p=top_p, top_k=top_k, stop=stops or None, seed=drawn, max_tokens=max_new_tokens, logprobs=0
            )

        rows = [(i, k) for i in range(len(prompts)) for k in range(n)]
        given = [_given(prompt, i) for i, prompt in enumerate(prompts)]
        chats = [row for row in rows if isinstance(given[row[0]], list)]
        others = [row for row in rows if not isinstance(given[row[0]], list)]
        found: dict[tuple[int, int], Episode] = {}
        for some, run in ((chats, self._llm.chat), (others, self._llm.generate)):
            if not some:
                continue
            try:
                outputs = run([given[i] for i, _ in some], [params(*row) for row in some])
            except ValueError as error:
                raise UserError(f"vLLM refuses these prompts: {' '.join(str(error).split())[:300]}") from error
            found |= {row: _episode(output) for row, output in zip(some, outputs, strict=True)}
        if progress is not None:
            progress(len(rows), len(rows))
        return [[found[i, k] for k in range(n)] for i in range(len(prompts))]


def _vllm() -> ModuleType:
    try:
        import vllm  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("sampling with vLLM needs the package vllm: pip install vllm (it needs a GPU; elsewhere use tempering.sample)") from error
    return vllm


def _given(prompt: Prompt, i: int) -> dict[str, Any] | list[dict[str, str]]:
    """A prompt as vLLM takes it: a dict for `generate`, a list of messages for `chat`."""
    if isinstance(prompt, str) and prompt:
        return {"prompt": prompt}
    if len(prompt) and all(isinstance(p, Integral) for p in prompt):
        return {"prompt_token_ids": [int(p) for p in prompt if isinstance(p, Integral)]}
    messages = [{"role": m.role, "content": m.content} for m in prompt if isinstance(m, Message) and m.role != "text" and not m.tool_calls]
    if not messages or len(messages) != len(prompt):
        raise UserError(f"prompt {i}: expected a text, token ids or messages with the roles of a chat and no tool calls, at least one")
    return messages


def _episode(output: Any) -> Episode:
    """A `RequestOutput` with one `CompletionOutput`; each position's dict holds the sampled token among others."""
    (one,) = output.outputs
    ids = tuple(int(token) for token in one.token_ids)
    logps = tuple(float(at[token].logprob) for token, at in zip(ids, one.logprobs, strict=True))
    return Episode(tuple(output.prompt_token_ids), ids, logps, one.text, one.finish_reason == "stop")
