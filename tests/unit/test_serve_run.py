"""The process: where it listens, its key, and how it ends. Signals go to a child that serves a decoder without a model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tempering.cli import main
from tempering.errors import UserError
from tempering.serve.jobs import Served
from tempering.serve.run import KEY_ENV, serve
from tests.conftest import ROOT, make_llama
from tests.serving import GatedDecoder, Letters

PROGRAM = """
import sys
import threading
from tempering.serve.jobs import Served
from tempering.serve.run import serve
from tests.serving import GatedDecoder, Letters

decoder = GatedDecoder()
for _ in range(int(sys.argv[2])):
    decoder.gate.release()
# Every line that comes in is one more step.
threading.Thread(target=lambda: [decoder.gate.release() for line in sys.stdin], daemon=True).start()
say = lambda text: print(text, flush=True)
sys.exit(serve(lambda: decoder, Served("gated", Letters(), 512, frozenset()), port=0, grace=float(sys.argv[1]), say=say))
"""


@pytest.fixture
def child() -> Iterator[Callable[[float, int], subprocess.Popen[str]]]:
    """Starts a server with a grace and a number of steps that its decoder may make; it reads the key that was made."""
    started: list[subprocess.Popen[str]] = []

    def start(grace: float, steps: int) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if name != KEY_ENV}
        command = [sys.executable, "-c", PROGRAM, str(grace), str(steps)]
        started.append(
            subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def address_and_key(process: subprocess.Popen[str]) -> tuple[str, str]:
    assert process.stdout is not None
    first, second = process.stdout.readline(), process.stdout.readline()
    assert first.startswith("serving gated at http://127.0.0.1:") and first.endswith("/v1; Ctrl-C stops\n")
    assert second.startswith("key (made for this run, shown once): ")
    return first.split()[3].rstrip(";"), second.split()[-1]


def ask(url: str, key: str, tokens: int) -> tuple[threading.Thread, list[httpx2.Response]]:
    """A stream, begun; the thread reads it to its end."""
    found: list[httpx2.Response] = []
    begun = threading.Event()

    def run() -> None:
        body = {"model": "gated", "prompt": "x", "max_tokens": tokens, "stream": True}
        with httpx2.stream("POST", f"{url}/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=60) as response:
            begun.set()
            response.read()
            found.append(response)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(30)
    return thread, found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_code_0(child: Any, number: signal.Signals) -> None:
    process = child(5.0, 0)
    url, key = address_and_key(process)
    assert len(key) >= 32
    assert httpx2.get(f"{url}/models", headers={"authorization": f"Bearer {key}"}).json()["data"][0]["id"] == "gated"
    process.send_signal(number)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out, errors) == (0, "stopping\nstopped\n", "")


def test_what_is_in_flight_is_told_when_its_grace_is_over(child: Any) -> None:
    process = child(0.2, 1)
    thread, found = ask(*address_and_key(process), 50)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=30)
    thread.join()
    *_, last, rest = found[0].text.split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "the server is shutting down"
    assert rest == ""
    said = "stopping; choices in flight: 1, which get 0.2 s, or until a second signal\nchoices that were ended unfinished: 1\nstopped\n"
    assert (process.returncode, out, errors) == (0, said, "")


def test_a_second_signal_ends_the_grace(child: Any) -> None:
    process = child(3600.0, 1)
    thread, found = ask(*address_and_key(process), 50)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline().startswith("stopping; choices in flight: 1, which get 3600 s")
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    thread.join()
    assert "shutting down" in found[0].text
    assert (process.returncode, out, errors) == (0, "choices that were ended unfinished: 1\nstopped\n", "")


def test_what_can_finish_in_its_grace_does(child: Any) -> None:
    """All steps but the first are taken after the signal."""
    process = child(3600.0, 1)
    thread, found = ask(*address_and_key(process), 20)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline().startswith("stopping; choices in flight: 1")
    out, errors = process.communicate("\n" * 19, timeout=30)
    thread.join()
    assert found[0].text.endswith("data: [DONE]\n\n")
    assert (process.returncode, out, errors) == (0, "stopped\n", "")


# ---------------------------------------------------------------------------------------------------------------------- what it refuses to begin with


def begin(**options: Any) -> int:
    served = Served("gated", Letters(), 512, frozenset())
    return serve(GatedDecoder, served, say=lambda text: pytest.fail(f"it began: {text}"), **options)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_other_hosts_need_a_key(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_ENV, raising=False)
    with pytest.raises(UserError, match=f"--host {host}: others can reach this address"):
        begin(host=host)


@pytest.mark.parametrize("key", ["", " x", "a b\n", "schlüssel"])
def test_keys_that_no_header_holds(key: str) -> None:
    with pytest.raises(UserError, match="--key: expected printable ASCII"):
        begin(key=key)


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: something listens on 127.0.0.1:{port} already"):
            begin(port=port)


def test_addresses_that_cannot_be() -> None:
    with pytest.raises(UserError, match="--port 70000: expected a number from 0 to 65535"):
        begin(port=70000)
    with pytest.raises(UserError, match=r"--host 192\.0\.2\.1: cannot listen there"):
        begin(host="192.0.2.1", port=0, key="k")
    with pytest.raises(UserError, match=r"--host no\.such\.host\.invalid: cannot listen there"):
        begin(host="no.such.host.invalid", port=0, key="k")


def test_the_command_checks_its_flags_before_it_loads(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for flags, said in (
        (["--max-rows", "0"], "--max-rows 0: expected 1 or more"),
        (["--max-tokens", "0"], "--max-tokens 0: expected 1 or more"),
        (["--max-waiting", "-1"], "--max-waiting -1: expected 0 or more"),
        (["--timeout", "0"], "--timeout 0.0"),
        (["--timeout", "nan"], "--timeout nan"),
        (["--grace", "-1"], "--grace -1.0: expected 0 or more"),
        (["--grace", "inf"], "--grace inf"),
    ):
        assert main(["serve", str(tmp_path / "none"), *flags]) == 2
        assert said in capsys.readouterr().err
    assert main(["serve", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err


def test_the_command_passes_its_flags_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from tempering.sampling import decoder, weights
    from tempering.serve import run
    from tempering.serve.app import Limits

    seen: dict[str, Any] = {}
    monkeypatch.setattr(run, "serve", lambda make, served, **options: seen.update(make=make, served=served, options=options) or 0)
    flags = "--port 0 --key k --max-rows 5 --max-waiting 7 --max-tokens 9 --max-body 11 --timeout 13 --grace 15 --precision bf16 --name n"
    copied: list[str] = []
    monkeypatch.setattr(weights, "for_decoding", lambda policy, dtype: (copied.append(str(dtype)), policy)[1])
    assert main(["serve", "builtin:tiny", *flags.split()]) == 0
    said = seen["options"].pop("say")
    limits = Limits(max_tokens=9, body_bytes=11, timeout=13.0)
    assert callable(said)
    assert seen["options"] == {"host": "127.0.0.1", "port": 0, "key": "k", "capacity": 12, "limits": limits, "grace": 15.0}
    assert (seen["served"].name, seen["served"].positions, len(seen["served"].ends) > 0) == ("n", 1024, True)
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(decoder, "Decoder", lambda policy, **options: made.append(options))
    seen["make"]()
    assert made == [{"max_rows": 5}] and copied == ["torch.bfloat16"]


@pytest.mark.parametrize(("precision", "fast", "dtype"), [("auto", True, "bfloat16"), ("auto", False, "float32"), ("fp32", True, "float32")])
def test_precision_is_a_copy_only_where_it_is_wanted(precision: Any, fast: bool, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tempering import signals
    from tempering.serve.engine import ready
    from tempering.types import Policy

    monkeypatch.setattr(signals, "fast_bf16", lambda device: fast)
    policy = Policy(make_llama(), None)
    made = ready(policy, precision)
    assert {str(p.dtype) for p in made.model.parameters()} == {f"torch.{dtype}"}
    assert (made is policy) == (dtype == "float32")


@pytest.mark.slow
def test_the_whole_program() -> None:
    """`temper serve` as a user starts it, with the official client, ended by Ctrl-C."""
    import openai

    environment = {**os.environ, KEY_ENV: "from-the-environment"}
    command = [sys.executable, "-m", "tempering", "serve", "builtin:tiny", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[3].rstrip(";")
            with openai.OpenAI(base_url=url, api_key="from-the-environment") as client:
                turns: Any = [{"role": "user", "content": "What is 2 + 3?"}]
                asked: dict[str, Any] = {"model": "builtin:tiny", "messages": turns, "temperature": 0}
                whole = client.chat.completions.create(**asked).choices[0]
                pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**asked, stream=True)]
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert whole.finish_reason == "stop" and whole.message.content == "".join(pieces) != ""
    assert (process.returncode, out, errors) == (0, "stopping\nstopped\n", "")
