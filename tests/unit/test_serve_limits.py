"""What `temper serve` refuses, and what becomes of requests whose client leaves, whose time is up or whose step fails."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest

from tempering.sampling.types import Token
from tempering.serve.app import Limits, make_app
from tempering.serve.engine import Engine
from tempering.serve.jobs import Served
from tempering.types import Policy
from tests.conftest import make_llama, make_tokenizer
from tests.serving import KEY, GatedDecoder, running, serving

POLICY = Policy(make_llama(), make_tokenizer(), "tiny")
CHAT = "chat/completions"


def post(url: str, route: str, body: Any, key: str = KEY) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx2.post(f"{url}/{route}", content=content, headers={"authorization": f"Bearer {key}"}, timeout=60)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(POLICY, limits=Limits(max_tokens=50, body_bytes=10_000)) as address:
        yield address


# ---------------------------------------------------------------------------------------------------------------------------------------- who may ask


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", f"Bearer {KEY}x", f"Basic {KEY}", KEY, f"bearer {KEY}", "Bearer \xe9"])
def test_without_the_key_nothing_is_answered(url: str, header: str) -> None:
    for route in ("models", "completions", "nothing"):
        refused = httpx2.get(f"{url}/{route}", headers={b"authorization": header.encode("latin-1")} if header else {})
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_api_key"


def test_health_needs_no_key(url: str) -> None:
    assert httpx2.get(f"{url.removesuffix('/v1')}/health").json() == {"status": "ok", "rows": 0}


def test_unknown_routes_are_objects_too(url: str) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    assert httpx2.get(f"{url}/embeddings", headers=headers).json()["error"]["message"] == "GET /v1/embeddings: not found"
    refused = httpx2.get(f"{url}/completions", headers=headers)
    assert (refused.status_code, refused.json()["error"]["type"]) == (405, "invalid_request_error")


def test_the_official_client_knows_the_errors(url: str) -> None:
    with openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as client, pytest.raises(openai.AuthenticationError):
        client.models.list()
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as unknown:
            client.completions.create(model="gpt", prompt="x")
        with pytest.raises(openai.BadRequestError) as wrong:
            client.completions.create(model="tiny", prompt="x", temperature=-1)
    assert (unknown.value.param, unknown.value.code) == ("model", "model_not_found")
    assert (wrong.value.param, wrong.value.code) == ("temperature", "invalid_value")


# ------------------------------------------------------------------------------------------------------------------------------- what cannot be asked

P = {"model": "tiny", "prompt": "hi"}
M = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("route", "change", "param", "said"),
    [
        ("completions", {"promt": "x"}, "promt", "there is no field 'promt'; did you mean 'prompt'?"),
        ("completions", {"frequency_penalty": 0.5}, "frequency_penalty", "frequency_penalty is not offered by this server: leave it out"),
        ("completions", {"suffix": "x"}, "suffix", "suffix is not offered"),
        ("completions", {"best_of": 2}, "best_of", "best_of is not offered"),
        ("completions", {"max_tokens": 51}, "max_tokens", "max_tokens is 51, this server gives at most 50"),
        ("completions", {"max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
        ("completions", {"max_tokens": 0}, "max_tokens", "0 without echo asks for nothing"),
        ("completions", {"max_tokens": True}, "max_tokens", "valid integer"),
        ("completions", {"max_tokens": "5"}, "max_tokens", "valid integer"),
        ("completions", {"n": 0}, "n", "greater than or equal to 1"),
        ("completions", {"n": 65}, "n", "65 choices are asked for, this server takes at most 64 at once"),
        ("completions", {"n": 129}, "n", "less than or equal to 128"),
        ("completions", {"top_p": 0}, "top_p", "greater than 0"),
        ("completions", {"top_p": 1.1}, "top_p", "less than or equal to 1"),
        ("completions", {"temperature": "hot"}, "temperature", "valid number"),
        ("completions", {"logprobs": 21}, "logprobs", "less than or equal to 20"),
        ("completions", {"stop": ""}, "stop", "none of them empty"),
        ("completions", {"stop": ["x"] * 17}, "stop", "at most 16"),
        ("completions", {"stop": [1]}, "stop", "a string or at most 16 strings"),
        ("completions", {"stream_options": {"include_usage": True}}, "stream_options", "needs stream"),
        ("completions", {"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "not permitted"),
        ("completions", {"prompt": []}, "prompt", "a text, a list of texts"),
        ("completions", {"prompt": ""}, "prompt", "prompt 0 has no tokens"),
        ("completions", {"prompt": ["x", 1]}, "prompt", "a text, a list of texts"),
        ("completions", {"prompt": [1.5]}, "prompt", "a text, a list of texts"),
        ("completions", {"prompt": [-1]}, "prompt", "a text, a list of texts"),
        ("completions", {"prompt": [274]}, None, "token id 274"),
        ("completions", {"prompt": "\ud800"}, "prompt", "half of a surrogate pair"),
        ("completions", {"prompt": [5] * 500}, "prompt", "prompt 0 has 500 tokens and 16 more are asked for, the model has 512 positions"),
        ("completions", {"prompt": None}, "prompt", "it is missing"),
        ("completions", {"model": None}, "model", "it is missing"),
        ("completions", {"model": 5}, "model", "valid string"),
        ("completions", {"seed": 2**63}, "seed", "less than"),
        (CHAT, {"tools": [{"type": "function"}]}, "tools", "tools is not offered"),
        (CHAT, {"response_format": {"type": "json_object"}}, "response_format", "response_format is not offered"),
        (CHAT, {"messages": []}, "messages", "at least 1 item"),
        (CHAT, {"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "'system', 'developer', 'user'"),
        (CHAT, {"messages": [{"role": "user"}]}, "messages.0.content", "it is missing"),
        (CHAT, {"messages": [{"role": "user", "content": "x", "refusal": "no"}]}, "messages.0.refusal", "not permitted"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type", "should be 'text'"),
        (CHAT, {"messages": [{"role": "user", "content": "hi " * 300}]}, "messages", "the model has 512 positions"),
        (CHAT, {"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        (CHAT, {"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        (CHAT, {"prompt": "x"}, "prompt", "there is no field 'prompt'"),
    ],
)
def test_a_wrong_field_is_named(url: str, route: str, change: dict[str, Any], param: str | None, said: str) -> None:
    for stream in ({}, {"stream": True}):
        refused = post(url, route, {**(M if route == CHAT else P), **stream, **change})
        assert refused.status_code == 400, refused.text
        error = refused.json()["error"]
        assert error["param"] == param
        assert said in error["message"]
        if "stream_options" in change:
            break


def test_fields_that_ask_for_nothing_are_taken(url: str) -> None:
    more = {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "best_of": 1, "suffix": None, "stop": None, "user": "u", "seed": -1}
    assert post(url, "completions", {**P, **more, "max_tokens": 1}).status_code == 200
    more = {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "metadata": {"a": "b"}, "store": False}
    assert post(url, CHAT, {**M, **more, "max_tokens": 1}).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b'{"model": NaN}', b"\xff\xfe{", b"[" * 9000])
def test_a_body_that_is_not_json(url: str, body: bytes) -> None:
    refused = post(url, "completions", body)
    assert (refused.status_code, refused.json()["error"]["message"]) == (400, "the body is not JSON")


def test_a_body_that_is_no_object(url: str) -> None:
    assert post(url, "completions", b"[]").json()["error"]["message"] == "the body must be a JSON object, this is a list"


def test_a_large_body_is_not_read_to_its_end(url: str) -> None:
    assert post(url, "completions", {**P, "prompt": "x" * 10_000}).status_code == 413

    def without_end() -> Iterator[bytes]:
        while True:
            yield b" " * 1000

    headers = {"authorization": f"Bearer {KEY}"}
    # A write error: the server had closed before the client looked at the answer.
    with contextlib.suppress(httpx2.WriteError):
        assert httpx2.post(f"{url}/completions", content=without_end(), headers=headers, timeout=60).status_code == 413


def test_a_model_without_a_template_has_no_chat() -> None:
    policy = Policy(POLICY.model, make_tokenizer(template=None), "tiny")
    with serving(policy) as url:
        assert post(url, CHAT, M).json()["error"]["message"] == "tiny has no chat template; use /v1/completions"


def test_a_template_that_refuses_says_why() -> None:
    policy = Policy(POLICY.model, make_tokenizer(template="{{ raise_exception('turns must alternate') }}"), "tiny")
    with serving(policy) as url:
        refused = post(url, CHAT, M)
    assert refused.status_code == 400
    assert "turns must alternate" in refused.json()["error"]["message"]


# --------------------------------------------------------------------------------------------------------------------- load, time, clients that leave


def in_thread(action: Callable[[], httpx2.Response]) -> tuple[threading.Thread, list[httpx2.Response]]:
    found: list[httpx2.Response] = []
    thread = threading.Thread(target=lambda: found.append(action()))
    thread.start()
    return thread, found


def test_more_than_there_is_room_for_is_sent_away_and_let_in_later() -> None:
    decoder = GatedDecoder()
    with serving(POLICY, lambda: decoder, capacity=3) as url:
        thread, first = in_thread(lambda: post(url, "completions", {**P, "n": 2, "max_tokens": 1}))
        decoder.wait(lambda d: len(d.submitted) == 2)
        full = post(url, "completions", {**P, "n": 2, "max_tokens": 1})
        assert (full.status_code, full.headers["retry-after"], full.json()["error"]["type"]) == (429, "1", "rate_limit_error")
        assert httpx2.get(f"{url.removesuffix('/v1')}/health").json()["rows"] == 2
        decoder.gate.release()
        thread.join()
        assert [choice["text"] for choice in first[0].json()["choices"]] == [POLICY.tokenizer.decode([41])] * 2
        decoder.gate.release()
        assert post(url, "completions", {**P, "n": 3, "max_tokens": 1}).status_code == 200
    assert len(decoder.submitted) == 5, "what was sent away never reached the decoder"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_client_that_leaves_takes_its_rows_along(stream: bool, steps: int) -> None:
    decoder = GatedDecoder()
    with serving(POLICY, lambda: decoder) as url:
        host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
        body = json.dumps({**P, "n": 2, "max_tokens": 50, "stream": stream}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
        with socket.create_connection((host, int(port))) as client:
            client.sendall(head.encode() + body)
            decoder.wait(lambda d: len(d.submitted) == 2)
            for _ in range(steps):
                decoder.gate.release()
            if stream and steps:
                assert client.recv(12) == b"HTTP/1.1 200"
        decoder.wait(lambda d: d.cancelled == [1, 2])
        # The room is free again.
        for _ in range(steps + 1):
            decoder.gate.release()
        assert post(url, "completions", {**P, "n": 64, "max_tokens": 1}).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_whose_time_is_up(stream: bool) -> None:
    decoder = GatedDecoder()
    with serving(POLICY, lambda: decoder, limits=Limits(timeout=0.3)) as url:
        late = post(url, "completions", {**P, "stream": stream})
        decoder.wait(lambda d: d.cancelled == [1])
        assert (late.status_code, late.json()["error"]["code"]) == (503, "timeout")


def test_a_stream_whose_time_is_up_ends_with_the_error() -> None:
    decoder = GatedDecoder()
    decoder.gate.release()
    with serving(POLICY, lambda: decoder, limits=Limits(timeout=1.0)) as url:
        late = post(url, "completions", {**P, "stream": True})
        assert late.status_code == 200
        first, last, rest = late.text.split("\n\n")
        assert json.loads(first.removeprefix("data: "))["choices"][0]["text"] == POLICY.tokenizer.decode([41])
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
        assert rest == ""


class Failing(GatedDecoder):
    """Its first step fails, as if memory had run out."""

    def step(self) -> list[Token]:
        raise MemoryError("no room for the cache")


def test_a_failed_step_costs_its_requests_only() -> None:
    decoders: list[GatedDecoder] = [Failing(), GatedDecoder()]
    decoders[1].gate.release()
    made = iter(decoders)
    with serving(POLICY, lambda: next(made)) as url:
        failed = post(url, "completions", {**P, "max_tokens": 1})
        assert (failed.status_code, failed.json()["error"]["message"]) == (500, "the server failed on this request")
        assert post(url, "completions", {**P, "max_tokens": 1}).status_code == 200


def test_without_its_thread_the_server_says_so() -> None:
    def make() -> GatedDecoder:
        if decoders:
            raise MemoryError("no room for another one")
        decoders.append(Failing())
        return decoders[0]

    decoders: list[GatedDecoder] = []
    with serving(POLICY, make) as url:
        assert post(url, "completions", P).status_code == 500
        lost = post(url, "completions", P)
        assert (lost.status_code, lost.json()["error"]["code"]) == (503, "stopped")
        assert lost.json()["error"]["message"] == "the decoder failed and could not be made again (MemoryError); restart the server"
        assert httpx2.get(f"{url.removesuffix('/v1')}/health").status_code == 503


def test_a_fault_before_decoding_is_an_object_too() -> None:
    class Broken:
        chat_template = None

        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            if text == "break":
                raise RuntimeError("the tokenizer fell over")
            return {"input_ids": [5]}

        def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
            return "x" * len(ids)

    faults: list[str] = []
    engine = Engine(GatedDecoder, 1)
    try:
        with running(make_app(engine, Served("m", Broken(), 512, frozenset()), KEY, Limits(), faults.append)) as address:
            failed = post(f"{address}/v1", "completions", {"model": "m", "prompt": "break"})
    finally:
        engine.close()
    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "fault")
    assert faults == ["a request failed: RuntimeError: the tokenizer fell over"]
