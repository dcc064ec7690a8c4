"""vLLM in the place of our own decoder: conversations ask it for tokens by the same three words, and it gets the policy's weights by version.

It runs in a sampler's process (`samplers.py`), beside a copy of the policy that stays on the CPU. New weights go through a folder, under the names
that a checkpoint has, so that a model whose layers have other names or shapes in vLLM, or that carries an adapter, is loaded as any checkpoint is;
what the prefix cache holds of older ones is dropped. Token ids go in and come out; nothing is turned into text and back. Noise is vLLM's own, seeded
for each turn by (seed, task's key, sample, turn), so tokens are not those of our decoder; an open turn that goes on has a seed of its own.

Source: vLLM's reference for `LLM.llm_engine.add_request`, `step`, `has_unfinished_requests`, `LLM.apply_model`, `LLM.reset_prefix_cache`,
`SamplingParams` and `load_weights` of its models (0.11 and later). It needs a GPU: the tests run a stand-in of these shapes, never vLLM itself.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tempering.errors import UserError
from tempering.sampling.server import derived_seed
from tempering.sampling.types import Request, Token, check_prompt

if TYPE_CHECKING:
    from collections.abc import Collection

    from tempering.rollouts.play import How
    from tempering.types import Policy


class Decodes(Protocol):
    """What conversations ask of whoever decodes for them; `sampling.decoder.Decoder` is one."""

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is in flight."""
        ...

    def submit(self, request: Request) -> int:
        """Queues a request; its ticket."""
        ...

    def step(self) -> list[Token]:
        """What has been sampled since the last one; a request's tokens in their order."""
        ...


def installed() -> None:
    """Raises `UserError` where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError("--rollouts.engine vllm: the package vllm is not installed: pip install vllm (it needs a GPU), or leave the engine out")


class Engine:
    """A policy in vLLM.

    Args:
        policy: what it begins with.
        rows: requests in flight at the same time.
        dtype: as torch calls it.

    Raises:
        UserError: vLLM is not installed or cannot load the policy, or the policy's scope cannot be folded into plain weights.
    """

    def __init__(self, policy: Policy, rows: int, dtype: str = "auto") -> None:
        # The sampler is a process of its own already, and functions then reach the model without being pickled.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        installed()
        self._vllm: Any = importlib.import_module("vllm")
        with tempfile.TemporaryDirectory(prefix="tempering-vllm-") as folder:
            _write(policy, folder)
            how = {"dtype": dtype, "max_num_seqs": rows, "logprobs_mode": "processed_logprobs", "skip_tokenizer_init": True}
            try:
                self._llm = self._vllm.LLM(model=folder, **how)
            except (ValueError, TypeError, OSError, RuntimeError) as error:
                raise UserError(f"--rollouts.engine vllm: it cannot load the policy ({' '.join(str(error).split())[:300]})") from error

    def load(self, policy: Policy) -> None:
        """The policy's weights from now on. Nothing may be in flight."""
        with tempfile.TemporaryDirectory(prefix="tempering-vllm-") as folder:
            _write(policy, folder)
            self._llm.apply_model(partial(_read, folder))
        self._llm.reset_prefix_cache()

    def decoder(self, policy: Policy, how: How) -> Decodes:
        """What conversations with these weights ask."""
        from tempering.sampling.chain import max_positions, models_of, stop_ids, vocabulary_size

        models = models_of(policy)
        return _Asked(self._llm.llm_engine, self._vllm.SamplingParams, stop_ids(policy), max_positions(models), vocabulary_size(models))


class _Asked:
    def __init__(self, engine: Any, params: Any, ends: Collection[int], limit: int | None, vocabulary: int) -> None:
        self._engine, self._params, self._ends = engine, params, sorted(ends)
        self._limit, self._vocabulary = limit, vocabulary
        self._tickets, self._told = 0, dict[str, int]()

    @property
    def idle(self) -> bool:
        return not self._told

    def submit(self, request: Request) -> int:
        request.check()
        check_prompt(request.prompt_ids, request.max_new_tokens, self._limit, self._vocabulary)
        seed = derived_seed(request.seed, request.key, request.sample)
        params = self._params(
            temperature=request.temperature, top_p=request.top_p, top_k=request.top_k, max_tokens=request.max_new_tokens, logprobs=0,
            seed=(derived_seed(seed, request.begun, 0) if request.begun else seed) if request.temperature > 0 else None,
            stop_token_ids=self._ends, detokenize=False,
        )  # fmt: skip
        self._tickets += 1
        self._told[name := str(self._tickets)] = 0
        self._engine.add_request(name, {"prompt_token_ids": list(request.prompt_ids)}, params)
        return self._tickets

    def step(self) -> list[Token]:
        found: list[Token] = []
        for output in self._engine.step():
            (one,), name = output.outputs, output.request_id
            ids = [int(token) for token in one.token_ids]
            for at in range(self._told[name], len(ids)):
                ended = one.finish_reason if output.finished and at == len(ids) - 1 else ""
                logp = float(one.logprobs[at][ids[at]].logprob)
                found.append(Token(int(name), ids[at], logp, finished="stop" if ended == "stop" else "length" if ended else ""))
            self._told[name] = len(ids)
            if output.finished:
                del self._told[name]
        return found


def _write(policy: Policy, folder: str) -> None:
    """The policy as a checkpoint, with the scope's change folded in."""
    from tempering.models.gguf import quiet
    from tempering.models.save import plain_model

    with quiet():
        plain_model(policy).save_pretrained(folder)


def _read(folder: str, model: Any) -> None:
    """In vLLM: a checkpoint's weights into its model."""
    from safetensors import safe_open

    def every() -> Any:
        for file in sorted(Path(folder).glob("*.safetensors")):
            with safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (it is no dict)
                    yield name, opened.get_tensor(name)

    model.load_weights(every())
