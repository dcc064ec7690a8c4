"""`temper serve MODEL`: a model behind an OpenAI-compatible HTTP interface."""

from __future__ import annotations

from typing import Literal

from tempering.cli.show import say
from tempering.errors import UserError


def serve(
    model: str,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    key: str | None = None,
    name: str | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    max_rows: int = 64,
    max_waiting: int = 256,
    max_tokens: int = 4096,
    max_body: int = 8 * 2**20,
    timeout: float = 600.0,
    grace: float = 10.0,
) -> int:
    """Serve a model to OpenAI's clients: /v1/completions, /v1/chat/completions, /v1/models, /health.

    Args:
        model: hub id, folder, .gguf file, builtin name or run folder.
        host: address to listen on; others than this machine need a key of yours.
        port: to listen on; 0 takes a free one.
        key: that clients must send; better in the environment's TEMPERING_SERVE_KEY, where `ps` does not show it. One is made if there is none.
        name: what clients call the model; its own name if left out.
        precision: bf16 decodes faster from a copy of the weights; auto takes it where the processor is fast at it.
        max_rows: choices decoded at once.
        max_waiting: choices that may wait for that; more are refused with 429.
        max_tokens: most new tokens of one choice.
        max_body: largest request, in bytes.
        timeout: seconds that one request may take.
        grace: seconds that requests in flight get when the server is stopped.
    """
    for flag, value, least in (
        ("--max-rows", max_rows, 1),
        ("--max-waiting", max_waiting, 0),
        ("--max-tokens", max_tokens, 1),
        ("--max-body", max_body, 1),
        ("--grace", grace, 0),
    ):
        if not value >= least:
            raise UserError(f"{flag} {value}: expected {least} or more")
    if not 0 < timeout < float("inf") or grace == float("inf"):
        raise UserError(f"--timeout {timeout}, --grace {grace}: expected seconds, and a timeout above 0")
    from tempering.cli.models import load
    from tempering.heap import give_back
    from tempering.serve.app import Limits
    from tempering.serve.engine import decoder_for, ready
    from tempering.serve.jobs import Served
    from tempering.serve.run import serve as run

    policy = ready(load(model), precision)
    # Where a copy in bfloat16 serves in its place, what was loaded is gone.
    give_back()
    return run(
        lambda: decoder_for(policy, max_rows),
        Served.of(policy, name or policy.name or model),
        host=host,
        port=port,
        key=key,
        capacity=max_rows + max_waiting,
        limits=Limits(max_tokens, max_body, timeout),
        grace=grace,
        say=say,
    )
