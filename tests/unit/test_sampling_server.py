"""The client for OpenAI-compatible servers, against a stand-in that misbehaves: how often it asks, how long it waits, what it makes of answers."""

from __future__ import annotations

import asyncio
import math
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tempering.errors import UserError
from tempering.sampling.server import ServerSampler, derived_seed
from tempering.sampling.types import Sampler
from tempering.sampling.wire import Clock, retry_after
from tempering.types import Episode, Message
from tests.standin import Deed, StandIn

ANSWER = "Good day"


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPERING_HOME", str(tmp_path / "store"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@dataclass
class Watch:
    """A clock that moves only by sleeping, and draws the longest wait."""

    slept: list[float] = field(default_factory=list)

    def clock(self) -> Clock:
        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        return Clock(now=lambda: sum(self.slept), wall=lambda: 1e9, sleep=sleep, draw=lambda most: most)


def sampler(server: StandIn, watch: Watch | None = None, **options: Any) -> ServerSampler:
    return ServerSampler(server.url, "m", clock=(watch or Watch()).clock(), **options)


# ---------------------------------------------------------------------------------------------------------------------------- what is worth repeating


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("deed", ["429", "500", "hang up", "cut", "silence", "not json", "html", "list", "no choices", "error object"])
def test_every_passing_trouble_is_survived_with_one_more_request(deed: Deed, stream: bool) -> None:
    watch = Watch()
    with StandIn([deed]) as server:
        # Silence is the one trouble that takes real time to notice.
        out = sampler(server, watch, stream=stream, timeout=0.2 if deed == "silence" else 30.0).sample(["Hi"])
    assert [[e.text for e in row] for row in out] == [[ANSWER]]
    assert len(server.asked) == 2
    assert server.asked[0].body == server.asked[1].body
    assert watch.slept == [0.5]


def test_waits_double_up_to_their_cap() -> None:
    watch = Watch()
    with StandIn(["500"] * 9) as server:
        sampler(server, watch, tries=10).sample(["Hi"])
    assert len(server.asked) == 10
    assert watch.slept == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_jitter_is_full() -> None:
    """A wait is whatever is drawn, down to nothing; what the clock draws by itself lies between nothing and the most."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    with StandIn(["500"] * 3) as server:
        ServerSampler(server.url, "m", clock=Clock(sleep=sleep, draw=lambda most: most - 0.5)).sample(["Hi"])
    assert waits == [0.0, 0.5, 1.5]
    drawn = [Clock().draw(2.0) for _ in range(100)]
    assert 0 <= min(drawn) < max(drawn) <= 2 and len(set(drawn)) > 1


def test_retry_after_is_the_least_wait() -> None:
    watch = Watch()
    with StandIn(["429", "429", "429"], retry_after="1.5") as server:
        sampler(server, watch).sample(["Hi"])
    assert watch.slept == [1.5, 1.5, 2.0]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 0), ("7", 7), ("0.25", 0.25), ("-3", 0), ("nan", 0), ("inf", 0), ("soon", 0), ("", 0), ("Sun, 09 Sep 2001 01:47:10 GMT", 30)],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float) -> None:
    assert retry_after(header, Watch().clock()) == seconds


# ------------------------------------------------------------------------------------------------------------------------------------------ giving up


def test_what_does_not_pass_is_asked_once() -> None:
    for deed, said in (("401", "status 401"), ("quota", "status 429: told m to go away")):
        with StandIn([deed]) as server, pytest.raises(UserError, match=said):
            sampler(server).sample(["Hi"])
        assert len(server.asked) == 1


def test_giving_up_names_server_status_and_cause() -> None:
    with StandIn(["500", "429", "500"]) as server, pytest.raises(UserError) as error:
        sampler(server, tries=3).sample(["Hi"])
    assert str(error.value) == (
        f"{server.url}/completions: no answer for prompt 0, sample 0: gave up after 3 tries; last cause: status 500: told m to go away; "
        "answers that came are kept, the same call goes on from them"
    )
    assert len(server.asked) == 3


def test_no_server_is_a_sentence() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        watch = Watch()
        with pytest.raises(UserError, match=r"gave up after 4 tries; last cause: ConnectError"):
            ServerSampler(url, "m", tries=4, clock=watch.clock()).sample(["Hi"])
    assert watch.slept == [0.5, 1, 2]


def test_a_deadline_ends_the_waiting_before_it_begins() -> None:
    watch = Watch()
    with StandIn(["429"] * 9, retry_after="40") as server, pytest.raises(UserError, match=r"the deadline passes before .* 3 tries .* status 429"):
        sampler(server, watch, deadline=100).sample(["Hi"])
    assert watch.slept == [40, 40]
    assert len(server.asked) == 3


def test_one_failure_ends_the_others() -> None:
    """The first request is refused for good while the second is never answered: the call ends all the same."""
    with StandIn(["401", "silence"]) as server, pytest.raises(UserError, match="status 401"):
        sampler(server, concurrency=2, timeout=3600).sample(["a", "b"])
    assert len(server.asked) == 2


# -------------------------------------------------------------------------------------------------------------------------------------------- the key


def test_the_key_is_sent_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    with StandIn(["answer", "401"]) as server:
        one = sampler(server, key_env="MY_KEY")
        one.sample(["Hi"])
        with pytest.raises(UserError) as error:
            one.sample(["Ho"])
    assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer sk-secret-123"] * 2
    assert "wrong key: [key]" in str(error.value)
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 1
    assert not [text for text in [*written, caplog.text, repr(one), repr(error.value)] if "secret" in text]


def test_no_key_sends_no_header() -> None:
    with StandIn() as server:
        sampler(server).sample(["Hi"])
    assert "authorization" not in server.asked[0].headers


# ------------------------------------------------------------------------------------------------------------------------------------------- requests


def test_each_kind_of_prompt_has_its_route() -> None:
    chat = (Message("system", "Be brief."), Message("user", "Hi", name="Jo"))
    with StandIn() as server:
        out = sampler(server, concurrency=1).sample(
            ["Hi", (5, 6, 7), chat], max_new_tokens=9, temperature=0.5, top_p=0.9, top_k=3, stop=["\n"], seed=4, keys=[10, 20, 30]
        )
    shared = {"model": "m", "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "stop": ["\n"]}
    assert [asked.path for asked in server.asked] == ["/v1/completions", "/v1/completions", "/v1/chat/completions"]
    assert [asked.body for asked in server.asked] == [
        {**shared, "prompt": "Hi", "logprobs": 1, "seed": derived_seed(4, 10, 0)},
        {**shared, "prompt": [5, 6, 7], "logprobs": 1, "seed": derived_seed(4, 20, 0)},
        {
            **shared,
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi", "name": "Jo"}],
            "logprobs": True,
            "seed": derived_seed(4, 30, 0),
        },
    ]
    assert out == [[Episode(ids, (), (-0.5, -0.25), ANSWER, True)] for ids in ((), (5, 6, 7), ())]


def test_seeds_are_31_bits_and_differ() -> None:
    seeds = {derived_seed(s, k, n) for s in range(10) for k in range(10) for n in range(10)}
    assert len(seeds) == 1000
    assert min(seeds) >= 0 and max(seeds) < 2**31


def test_greedy_and_plain_requests_say_no_more_than_needed() -> None:
    with StandIn() as server:
        sampler(server, logprobs=False).sample(["Hi"])
    assert server.asked[0].body == {"model": "m", "max_tokens": 64, "temperature": 0.0, "top_p": 1.0, "prompt": "Hi"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["Hi", (Message("user", "Hi"),)])
def test_token_ids_where_the_server_gives_them(prompt: Any, stream: bool) -> None:
    with StandIn(finish="length") as server:
        out = sampler(server, token_ids=True, stream=stream).sample([prompt])
    assert out == [[Episode((), (4, 4), (-0.5, -0.25), ANSWER, False)]]


def test_a_server_without_token_ids_or_logprobs() -> None:
    with StandIn(offers_logprobs=False) as server:
        assert sampler(server).sample(["Hi"]) == [[Episode((), (), (), ANSWER, True)]]
        with pytest.raises(UserError, match="the server gives no token ids"):
            sampler(server, token_ids=True).sample(["Hi"])
    assert len(server.asked) == 2


def test_requests_at_once_are_bounded_and_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    with StandIn() as server:
        sampler(server, concurrency=3).sample([f"p{i}" for i in range(10)], n=2, progress=lambda *done: told.append(done))
    assert server.most_at_once == 3
    assert told == [(i, 20) for i in range(1, 21)]


def test_inside_a_running_loop() -> None:
    async def main(url: str) -> list[list[Episode]]:
        return ServerSampler(url, "m").sample(["Hi"])

    with StandIn() as server:
        assert asyncio.run(main(server.url))[0][0].text == ANSWER


# ---------------------------------------------------------------------------------------------------------------------------------------------- cache


def test_a_hit_makes_no_request_whatever_the_address() -> None:
    with StandIn() as one, StandIn() as other:
        first = sampler(one).sample(["Hi", "Ho"], n=2, temperature=1.0)
        assert sampler(other).sample(["Hi", "Ho"], n=2, temperature=1.0) == first
        assert sampler(other, stream=True).sample(["Hi", "Ho"], n=2, temperature=1.0) == first
    assert (len(one.asked), len(other.asked)) == (4, 0)


def test_every_value_of_a_request_is_part_of_its_key() -> None:
    base: dict[str, Any] = {"max_new_tokens": 8, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "stop": (), "seed": 0}
    others: list[dict[str, Any]] = [
        {"max_new_tokens": 9},
        {"temperature": 0.9},
        {"top_p": 0.9},
        {"top_k": 2},
        {"stop": ("x",)},
        {"seed": 1},
        {"keys": [1]},
    ]
    with StandIn() as server:
        for change in [{}, *others]:
            sampler(server).sample(["Hi"], **(base | change))
        sampler(server, logprobs=False).sample(["Hi"], **base)
        ServerSampler(server.url, "n").sample(["Hi"], **base)
        sampler(server).sample(["Ha"], **base)
        sampler(server).sample(["Hi"], n=2, **base)
    # The last call asks for its second sample only.
    assert len(server.asked) == 1 + len(others) + 3 + 1


def test_a_call_that_broke_off_goes_on(tmp_path: Path) -> None:
    with StandIn(["answer", "401"]) as server:
        with pytest.raises(UserError):
            sampler(server, concurrency=1).sample(["a", "b", "c"])
        sampler(server, concurrency=1).sample(["a", "b", "c"])
    assert [asked.body["prompt"] for asked in server.asked] == ["a", "b", "b", "c"]


def test_a_torn_file_is_asked_for_again(tmp_path: Path) -> None:
    with StandIn() as server:
        sampler(server).sample(["Hi"])
        (file,) = tmp_path.rglob("*.json")
        whole = file.read_text()
        for broken in (whole[:20], "[]", '{"format": 0, "answer": {}}', ""):
            file.write_text(broken)
            assert sampler(server).sample(["Hi"])[0][0].text == ANSWER
            assert file.read_text() == whole
    assert len(server.asked) == 5


def test_without_a_cache_nothing_is_written(tmp_path: Path) -> None:
    with StandIn() as server:
        for _ in range(2):
            sampler(server, cache=False).sample(["Hi"])
    assert len(server.asked) == 2
    assert not list(tmp_path.rglob("*.json"))


# ---------------------------------------------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    "url", ["", "nonsense", "ftp://host/v1", "http://", "http://user:pw@host/v1", "http://host/v1?x=1", "http://host:99999/v1", "http://[::1/v1"]
)
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(UserError) as error:
        ServerSampler(url, "m")
    assert "pw" not in str(error.value)


def test_wrong_settings_and_prompts() -> None:
    url = "http://127.0.0.1:9/v1"
    for name, value in (("concurrency", 0), ("tries", 0), ("timeout", 0), ("timeout", math.nan), ("deadline", 0)):
        with pytest.raises(UserError):
            ServerSampler(url, "m", **{name: value})
    for key in ("with space ", "a\nb", "é"):
        with pytest.raises(UserError):
            ServerSampler(url, "m", key)
    server = ServerSampler(url, "m")
    for prompt in ("", (), (Message("text", "plain"),), (1, "a"), (1.5,)):
        with pytest.raises(UserError, match="prompt 1: expected a text, token ids or messages"):
            server.sample(["fine", prompt])  # type: ignore[list-item]
    for wrong in ({"n": 0}, {"max_new_tokens": 0}, {"temperature": -1.0}, {"temperature": math.nan}, {"top_p": 0.0}, {"top_k": -1}, {"keys": [1, 2]}):
        with pytest.raises(UserError):
            server.sample(["Hi"], **wrong)


def test_it_is_a_sampler() -> None:
    checked: Sampler = ServerSampler("http://127.0.0.1:9/v1", "m")
    assert repr(checked) == "ServerSampler('http://127.0.0.1:9/v1', 'm')"
