"""What `temper serve` answers: to the official client, in streams, in log-probs; and that it is what the model says without a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from tempering.data.rendering import prompt_ids
from tempering.measure import logps_of
from tempering.sample import sample
from tempering.sampling.server import ServerSampler, derived_seed
from tempering.types import Message, Policy
from tests.conftest import make_llama, make_tokenizer
from tests.serving import KEY, serving

POLICY = Policy(make_llama(), make_tokenizer(), "tiny")
TOKENIZER = POLICY.tokenizer
PROMPT = "the cat is on the mat"
IDS = tuple(TOKENIZER.encode(PROMPT))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(POLICY) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as made:
        yield made


def post(url: str, route: str, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/{route}", json={"model": "tiny", **body}, headers={"authorization": f"Bearer {KEY}"}, timeout=60)


def events(response: httpx2.Response) -> list[dict[str, Any]]:
    """The chunks of a stream, which must end with [DONE]."""
    assert response.headers["content-type"].startswith("text/event-stream")
    *lines, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def close(value: Any) -> Any:
    """Equal but for the rounding of numbers: a prompt that the decoder's slots remember is not computed again."""
    if isinstance(value, float):
        return pytest.approx(value, abs=1e-5)
    if isinstance(value, dict):
        return {name: close(v) for name, v in value.items()}
    return [close(v) for v in value] if isinstance(value, list) else value


# --------------------------------------------------------------------------------------------------------------------------------------- what is said


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def test_a_greedy_completion_is_what_sample_gives(client: openai.OpenAI) -> None:
    ((episode,),) = sample(POLICY, [IDS], max_new_tokens=12)
    out = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=12, temperature=0, logprobs=0, extra_body={"return_tokens_as_token_ids": True}
    )
    (choice,) = out.choices
    assert choice.text == episode.text
    assert choice.finish_reason == ("stop" if episode.finished else "length")
    assert choice.logprobs.tokens == [f"token_id:{i}" for i in episode.ids]
    assert choice.logprobs.token_logprobs == pytest.approx(episode.logps, abs=1e-5)
    assert (out.usage.prompt_tokens, out.usage.completion_tokens, out.usage.total_tokens) == (len(IDS), len(episode.ids), len(IDS) + len(episode.ids))


def test_samples_are_those_of_the_seed_and_of_their_place(client: openai.OpenAI) -> None:
    """Choice k of prompt i is drawn with the noise of (seed, i, k), which `sample` draws with too."""
    prompts = [IDS, IDS[:3], IDS]
    expected = sample(POLICY, prompts, n=3, max_new_tokens=8, temperature=1.0, top_p=0.9, top_k=20, seed=5, keys=[0, 1, 2])
    options: dict[str, Any] = {"max_tokens": 8, "temperature": 1.0, "top_p": 0.9, "n": 3, "seed": 5, "extra_body": {"top_k": 20}}
    out = client.completions.create(model="tiny", prompt=[list(p) for p in prompts], **options)
    assert [choice.index for choice in out.choices] == list(range(9))
    assert [choice.text for choice in out.choices] == [episode.text for row in expected for episode in row]
    assert len({choice.text for choice in out.choices}) == 9
    assert out.usage.prompt_tokens == sum(map(len, prompts))


def test_without_a_seed_answers_differ(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": 24}
    assert len({client.completions.create(**asked).choices[0].text for _ in range(3)}) == 3


def test_every_kind_of_prompt(client: openai.OpenAI) -> None:
    def texts(prompt: Any) -> list[str]:
        return [choice.text for choice in client.completions.create(model="tiny", prompt=prompt, max_tokens=6, temperature=0).choices]

    once = texts(PROMPT)
    assert texts(list(IDS)) == once
    assert texts([PROMPT, PROMPT]) == once * 2
    assert texts([list(IDS), list(IDS)]) == once * 2


def test_a_chat_goes_through_the_template(client: openai.OpenAI) -> None:
    turns = [Message("system", "Be brief."), Message("user", "Hi there")]
    ((episode,),) = sample(POLICY, [prompt_ids(TOKENIZER, turns)], max_new_tokens=10)
    out = client.chat.completions.create(
        model="tiny",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]},
        ],
        max_completion_tokens=10,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
    (choice,) = out.choices
    assert (choice.message.role, choice.message.content) == ("assistant", episode.text)
    assert [mark.logprob for mark in choice.logprobs.content] == pytest.approx(episode.logps, abs=1e-5)
    for mark in choice.logprobs.content:
        assert [t.logprob for t in mark.top_logprobs] == sorted((t.logprob for t in mark.top_logprobs), reverse=True)
        assert mark.top_logprobs[0].logprob == mark.logprob, "greedy takes the likeliest"
        assert mark.bytes is None if "\ufffd" in mark.token else bytes(mark.bytes).decode() == mark.token


def test_a_chat_without_a_budget_ends_with_the_model_or_its_positions(client: openai.OpenAI) -> None:
    policy = Policy(make_llama(max_position_embeddings=32), TOKENIZER, "tiny")
    given = len(prompt_ids(TOKENIZER, [Message("user", "Hi")]))
    with serving(policy) as url, openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as short:
        out = short.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hi"}], temperature=0)
    ((episode,),) = sample(policy, [prompt_ids(TOKENIZER, [Message("user", "Hi")])], max_new_tokens=32 - given)
    assert out.choices[0].message.content == episode.text
    assert out.usage.completion_tokens == len(episode.ids)


def test_a_stop_string_ends_the_text_before_it(client: openai.OpenAI) -> None:
    long = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=40, seed=1).choices[0].text
    stop = long[len(long) // 2 :][:3]
    expected = long[: long.find(stop)]
    assert len(stop) == 3 and expected
    for given in (stop, [stop], ["never in it", stop]):
        (choice,) = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=40, seed=1, stop=given).choices
        assert (choice.text, choice.finish_reason) == (expected, "stop")
    stream = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=40, seed=1, stop=stop, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == expected


# -------------------------------------------------------------------------------------------------------------------------------------------- scoring


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_echoed_log_probs_are_those_of_measure(client: openai.OpenAI, max_tokens: int) -> None:
    out = client.completions.create(model="tiny", prompt=[PROMPT, PROMPT], max_tokens=max_tokens, echo=True, logprobs=2, temperature=0)
    (expected,) = logps_of(POLICY, [(IDS[:1], IDS[1:])])
    for choice in out.choices:
        first, *rest = choice.logprobs.token_logprobs[: len(IDS)]
        assert first is None and choice.logprobs.top_logprobs[0] is None
        assert rest == pytest.approx(expected.tolist(), abs=1e-5)
        assert "".join(choice.logprobs.tokens[: len(IDS)]) == PROMPT
        assert choice.logprobs.text_offset[: len(IDS)] == [len(TOKENIZER.decode(IDS[:i])) for i in range(len(IDS))]
        assert len(choice.logprobs.tokens) == len(IDS) + max_tokens
        assert all(2 <= len(top) <= 3 for top in choice.logprobs.top_logprobs[1:] if not any("\ufffd" in name for name in top))
        assert choice.text[: len(PROMPT)] == PROMPT
        assert (choice.text == PROMPT) is (max_tokens == 0)
        assert choice.finish_reason == "length"
    assert out.usage.completion_tokens == 2 * max_tokens


def test_echo_without_log_probs_is_text(client: openai.OpenAI) -> None:
    (plain,) = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=3, temperature=0).choices
    (echoed,) = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=3, temperature=0, echo=True).choices
    assert echoed.text == PROMPT + plain.text
    assert echoed.logprobs is None


# -------------------------------------------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("echo", [False, True])
def test_a_streamed_completion_is_the_answer_in_pieces(url: str, echo: bool) -> None:
    asked = {"prompt": [PROMPT, PROMPT[:9]], "n": 2, "max_tokens": 10, "seed": 2, "logprobs": 1, "echo": echo}
    whole = post(url, "completions", **asked).json()
    chunks = events(post(url, "completions", **asked, stream=True))
    for choice in whole["choices"]:
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == choice["index"]]
        assert "".join(c["text"] for c in mine) == choice["text"]
        for name, listed in choice["logprobs"].items():
            assert [x for c in mine for x in c["logprobs"][name]] == close(listed), name
        assert [c["finish_reason"] for c in mine] == [None] * (len(mine) - 1) + [choice["finish_reason"]]
    assert {c["object"] for c in chunks} == {"text_completion"}
    assert len({c["id"] for c in chunks}) == 1


def test_a_streamed_chat_is_the_answer_in_pieces(url: str) -> None:
    asked = {"messages": [{"role": "user", "content": "Hi"}], "n": 2, "max_tokens": 10, "seed": 2, "logprobs": True, "top_logprobs": 1}
    whole = post(url, "chat/completions", **asked).json()
    *chunks, last = events(post(url, "chat/completions", **asked, stream=True, stream_options={"include_usage": True}))
    for choice in whole["choices"]:
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == choice["index"]]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(c["delta"]["content"] for c in mine) == choice["message"]["content"]
        assert [x for c in mine[1:] for x in c["logprobs"]["content"]] == close(choice["logprobs"]["content"])
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert [c["usage"] for c in chunks] == [None] * len(chunks)
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}


def test_the_official_client_streams(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10, "seed": 2}
    stream = client.chat.completions.create(**asked, stream=True)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert said == client.chat.completions.create(**asked).choices[0].message.content != ""


# ----------------------------------------------------------------------------------------------------------------------------- our client, our server


@pytest.mark.parametrize("stream", [False, True])
def test_the_server_sampler_gives_the_episodes_of_sample(url: str, stream: bool) -> None:
    sampler = ServerSampler(url, "tiny", KEY, token_ids=True, stream=stream, cache=False)
    assert_same(sampler.sample([IDS, IDS[:4]], max_new_tokens=9, stop=["e"]), sample(POLICY, [IDS, IDS[:4]], max_new_tokens=9, stop=["e"]))
    drawn = sampler.sample([IDS, IDS[:4]], n=2, max_new_tokens=9, temperature=0.8, top_p=0.9, top_k=30, seed=6)
    for i, prompt in enumerate([IDS, IDS[:4]]):
        for k in range(2):
            options: dict[str, Any] = {"max_new_tokens": 9, "temperature": 0.8, "top_p": 0.9, "top_k": 30, "keys": [0]}
            assert_same([[drawn[i][k]]], sample(POLICY, [prompt], seed=derived_seed(6, i, k), **options))


def test_many_at_once_do_not_mix(url: str) -> None:
    prompts = [IDS[i % 4 :][: 1 + i % 5] for i in range(24)]
    out = ServerSampler(url, "tiny", KEY, token_ids=True, concurrency=12, cache=False).sample(prompts, max_new_tokens=6)
    assert_same(out, sample(POLICY, prompts, max_new_tokens=6))


def assert_same(ours: list[list[Any]], expected: list[list[Any]]) -> None:
    for mine, other in zip([e for row in ours for e in row], [e for row in expected for e in row], strict=True):
        assert (mine.prompt_ids, mine.ids, mine.text, mine.finished) == (other.prompt_ids, other.ids, other.text, other.finished)
        assert mine.logps == pytest.approx(other.logps, abs=1e-5)
