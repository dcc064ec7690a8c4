"""The vLLM backend against a stand-in module with vLLM's shapes: what it is given, and what becomes of its answers. vLLM itself is not run."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tempering.errors import UserError
from tempering.sampling.server import derived_seed
from tempering.sampling.types import Sampler
from tempering.sampling.vllm import VLLMSampler
from tempering.types import Episode, Message


def completion(prompt_ids: list[int], params: Any) -> SimpleNamespace:
    """A `RequestOutput` as vLLM 0.11 gives it: at each position the sampled token and, where it was not the likeliest, nothing else at logprobs=0."""
    ids = [10 + len(prompt_ids), 2]
    at = [{token: SimpleNamespace(logprob=-0.25 * (i + 1), rank=1, decoded_token="x")} for i, token in enumerate(ids)]
    reason = "stop" if params.max_tokens > 1 else "length"
    one = SimpleNamespace(index=0, text=f"said {len(prompt_ids)}", token_ids=ids, logprobs=at, cumulative_logprob=-0.75, finish_reason=reason)
    return SimpleNamespace(request_id="0", prompt_token_ids=prompt_ids, prompt_logprobs=None, outputs=[one], finished=True)


class FakeLLM:
    """Remembers what it was asked."""

    made: dict[str, Any]
    calls: list[tuple[str, list[Any], list[Any]]]

    def __init__(self, model: str, **engine: Any) -> None:
        if model == "missing":
            raise OSError("missing is not a local folder and is not\na valid model identifier")
        type(self).made, type(self).calls = {"model": model, **engine}, []

    def generate(self, prompts: list[Any], sampling_params: list[Any]) -> list[SimpleNamespace]:
        self.calls.append(("generate", prompts, sampling_params))
        given = [p["prompt_token_ids"] if "prompt_token_ids" in p else [1] * len(p["prompt"]) for p in prompts]
        if max(map(len, given)) > 50:
            raise ValueError("The decoder prompt (length 99) is longer than the maximum model length of 50.")
        return [completion(ids, params) for ids, params in zip(given, sampling_params, strict=True)]

    def chat(self, messages: list[Any], sampling_params: list[Any]) -> list[SimpleNamespace]:
        self.calls.append(("chat", messages, sampling_params))
        return [completion([7] * len(chat), params) for chat, params in zip(messages, sampling_params, strict=True)]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("vllm")
    module.LLM = FakeLLM  # type: ignore[attr-defined]
    module.SamplingParams = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module


def test_prompts_of_every_kind_in_their_order(vllm: ModuleType) -> None:
    told: list[tuple[int, int]] = []
    sampler: Sampler = VLLMSampler("folder", engine={"dtype": "bfloat16"})
    out = sampler.sample(
        [(5, 6), (Message("user", "Hi"),), "Hey"],
        n=2,
        max_new_tokens=8,
        temperature=0.7,
        top_p=0.9,
        top_k=4,
        stop="\n",
        seed=3,
        keys=[30, 40, 50],
        progress=lambda *done: told.append(done),
    )
    assert FakeLLM.made == {"model": "folder", "logprobs_mode": "processed_logprobs", "dtype": "bfloat16"}

    def params(key: int, sample: int) -> SimpleNamespace:
        seed = derived_seed(3, key, sample)
        return SimpleNamespace(temperature=0.7, top_p=0.9, top_k=4, stop=["\n"], seed=seed, max_tokens=8, logprobs=0)

    chat = [{"role": "user", "content": "Hi"}]
    assert FakeLLM.calls == [
        ("chat", [chat, chat], [params(40, 0), params(40, 1)]),
        (
            "generate",
            [{"prompt_token_ids": [5, 6]}] * 2 + [{"prompt": "Hey"}] * 2,
            [params(30, 0), params(30, 1), params(50, 0), params(50, 1)],
        ),
    ]
    assert out == [
        [Episode((5, 6), (12, 2), (-0.25, -0.5), "said 2", True)] * 2,
        [Episode((7,), (11, 2), (-0.25, -0.5), "said 1", True)] * 2,
        [Episode((1, 1, 1), (13, 2), (-0.25, -0.5), "said 3", True)] * 2,
    ]
    assert told == [(6, 6)]


def test_greedy_has_no_seed_and_a_used_up_budget_is_not_finished(vllm: ModuleType) -> None:
    ((episode,),) = VLLMSampler("folder").sample([(5,)], max_new_tokens=1)
    assert episode.finished is False
    params = FakeLLM.calls[0][2][0]
    assert (params.seed, params.stop, params.temperature, params.top_k) == (None, None, 0.0, 0)


def test_wrong_input_is_a_sentence(vllm: ModuleType) -> None:
    with pytest.raises(UserError, match="vLLM cannot load missing: missing is not a local folder and is not a valid model identifier"):
        VLLMSampler("missing")
    sampler = VLLMSampler("folder")
    with pytest.raises(UserError, match="vLLM refuses these prompts: The decoder prompt"):
        sampler.sample([(1,) * 99])
    for prompt in ("", (), (Message("text", "x"),), (Message("assistant", "", tool_calls=({"name": "f"},)),)):
        with pytest.raises(UserError, match="prompt 0: expected"):
            sampler.sample([prompt])
    for wrong in ({"n": 0}, {"temperature": -1.0}, {"top_p": 2.0}, {"keys": []}):
        with pytest.raises(UserError):
            sampler.sample([(1,)], **wrong)


def test_without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="pip install vllm"):
        VLLMSampler("folder")
