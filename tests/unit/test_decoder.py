"""The decoder against plain twins: a forward pass of the whole sequence, a batch of one, transformers' own caches, whatever else is in flight."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tempering.errors import UserError
from tempering.methods.decodes.mixture import Mixture
from tempering.sampling.cache import PAGE, SlotLayer, page_ranges
from tempering.sampling.choose import behaviour_logps
from tempering.sampling.decoder import Decoder
from tempering.sampling.passes import Alone, fits_slots
from tempering.sampling.types import Request, Token
from tempering.sampling.weights import PackedLinear, can_pack, decoding_copy
from tempering.types import Policy
from tests.conftest import make_llama, shared

PROPERTY = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def policy(model: Any = None) -> Policy:
    """Without a tokenizer and a stop token, so that every request has its whole budget."""
    made = Policy(model or make_llama(), None, "tiny")
    made.model.generation_config.eos_token_id = None
    return made


def run(decoder: Decoder) -> dict[int, list[Token]]:
    """Every request's tokens, to the end."""
    found: dict[int, list[Token]] = {}
    while not decoder.idle:
        for token in decoder.step():
            found.setdefault(token.ticket, []).append(token)
    return found


def ids(tokens: list[Token]) -> list[int]:
    return [token.id for token in tokens]


def alone(p: Policy, request: Request) -> list[Token]:
    """The plain twin: one request, the model's own attention, the whole sequence again for every token."""
    decoder = Decoder(p, max_rows=1)
    runner = Alone(p.model)
    runner.cached = False
    decoder._runners = {"policy": runner}
    ticket = decoder.submit(request)
    return run(decoder)[ticket]


def requests(prompts: list[list[int]], **options: Any) -> list[Request]:
    return [Request(tuple(prompt), key=i, **options) for i, prompt in enumerate(prompts)]


# -------------------------------------------------------------------------------------------------------------------- what a request gets


@st.composite
def workloads(draw: Any) -> tuple[list[Request], int, list[int]]:
    """Requests of random lengths, budgets and settings, some with a common beginning; rows in flight; at which step each is submitted."""
    beginning = draw(st.lists(st.integers(4, 60), min_size=12, max_size=12))
    made = []
    for key in range(draw(st.integers(2, 7))):
        own = draw(st.lists(st.integers(4, 60), min_size=1, max_size=20))
        prompt = beginning[: draw(st.sampled_from([0, 0, 9, 12]))] + own
        options = draw(st.sampled_from([{}, {"temperature": 1.0}, {"temperature": 0.7, "top_k": 12}, {"temperature": 1.2, "top_p": 0.8}]))
        made.append(Request(tuple(prompt), max_new_tokens=draw(st.integers(1, 20)), key=key, seed=3, **options))
    return made, draw(st.integers(1, 5)), draw(st.lists(st.integers(0, 6), min_size=len(made), max_size=len(made)))


@PROPERTY
@given(workloads())
def test_tokens_and_logps_are_those_of_the_plain_twin_whatever_is_in_flight(workload: tuple[list[Request], int, list[int]]) -> None:
    asked, rows, when = workload
    p = policy()
    decoder = Decoder(p, max_rows=rows)
    assert decoder.batched
    tickets: dict[int, Request] = {}
    found: dict[int, list[Token]] = {}
    for step in range(max(when) + 1):
        tickets |= {decoder.submit(request): request for request, start in zip(asked, when, strict=True) if start == step}
        for token in decoder.step():
            found.setdefault(token.ticket, []).append(token)
    for ticket, tokens in run(decoder).items():
        found.setdefault(ticket, []).extend(tokens)
    assert set(found) == set(tickets)
    for ticket, request in tickets.items():
        twin = alone(p, request)
        assert ids(found[ticket]) == ids(twin)
        assert [t.logp for t in found[ticket]] == pytest.approx([t.logp for t in twin], abs=1e-4)
        assert [t.finished for t in found[ticket]] == [""] * (request.max_new_tokens - 1) + ["length"]


def test_a_shared_beginning_changes_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    beginning = list(range(30, 60))
    asked = [Request((*beginning, *own), max_new_tokens=10, temperature=1.0, sample=j) for own in ((5,), (6, 7), ()) for j in range(3)]
    p, computed = policy(), list[int]()
    given: dict[int, dict[int, list[int]]] = {}
    for least in (8, 10**6):
        monkeypatch.setattr("tempering.sampling.decoder.SHARED", least)
        decoder = Decoder(p, max_rows=4)
        forward = decoder._runners["policy"].forward
        seen = list[int]()
        monkeypatch.setattr(
            decoder._runners["policy"], "forward", lambda rows, plan, f=forward, s=seen: (s.append(len(plan.ids_T)), f(rows, plan))[1]
        )
        for request in asked:
            decoder.submit(request)
        given[least] = {ticket: ids(tokens) for ticket, tokens in run(decoder).items()}
        computed.append(sum(seen))
    assert given[8] == given[10**6]
    # 9 prompts of 31, 32 and 30 tokens; with sharing one is computed whole, and of each other what is its own, one token at least
    decoding = 9 * 9
    assert computed[1] == 3 * (31 + 32 + 30) + decoding
    assert computed[0] < 32 + 2 * 2 + 3 * 2 + 3 + decoding


def test_a_finished_conversation_is_continued_in_its_slot() -> None:
    p = policy()
    decoder = Decoder(p, max_rows=2)
    first = Request(tuple(range(5, 25)), max_new_tokens=6)
    ticket = decoder.submit(first)
    answer = ids(run(decoder)[ticket])
    second = Request((*first.prompt_ids, *answer, 9, 9), max_new_tokens=6)
    ticket = decoder.submit(second)
    decoder.step()
    # the first turn's prompt and all but the last token of its answer were in the slot
    assert decoder._rows[ticket].slot == 0
    assert ids(run(decoder)[ticket]) == ids(alone(p, second))[1:]


def test_holes_are_closed_and_nothing_is_lost() -> None:
    p = policy()
    decoder = Decoder(p, max_rows=12)
    asked = requests([[5 + i] * (3 + 2 * i) for i in range(12)], temperature=1.0)
    asked = [replace(request, max_new_tokens=40 if i % 3 == 0 else 4) for i, request in enumerate(asked)]
    tickets = [decoder.submit(request) for request in asked]
    found: dict[int, list[Token]] = {}
    slots = []
    for _ in range(7):
        for token in decoder.step():
            found.setdefault(token.ticket, []).append(token)
        slots.append(sorted(row.slot for row in decoder._rows.values()))
    assert slots[3] == [2, 5, 8, 11] and slots[-1] == [0, 1, 2, 3]
    for ticket, tokens in run(decoder).items():
        found[ticket].extend(tokens)
    assert [ids(found[ticket]) for ticket in tickets] == [ids(alone(p, request)) for request in asked]


def test_memory_follows_what_is_in_flight() -> None:
    decoder = Decoder(policy(), max_rows=64)
    cache = next(decoder._caches())
    for request in requests([[5, 6, 7]] * 3, max_new_tokens=PAGE):
        decoder.submit(request)
    decoder.step()
    assert (cache.slots, cache.pages) == (3, 1)
    run(decoder)
    # 3 + 128 tokens, of which the last is never fed; the model has 512 positions
    assert (cache.slots, cache.pages) == (3, 2)
    assert [page.shape[::2] for layer in cache.layers for page in layer.pages[0]] == [(3, PAGE)] * 2 * len(cache.layers)


def test_pages_take_memory_where_they_are_written() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    layer, like = SlotLayer(), torch.zeros(1, 8, 1, 64)
    before = resident()
    layer.fit(256, 4, like, like)
    # 512 MiB of keys and values, which nobody has written
    assert layer.pages[0][3].shape == (256, 8, PAGE, 64) and not layer.pages[0][3][255].any()
    assert resident() - before < 2**26
    layer.pages[0][0][:, :, 5] = 1
    layer.fit(300, 4, like, like)
    assert layer.pages[0][0][:256, :, 5].all() and layer.pages[0][0].sum() == 256 * 8 * 64


def test_pages_are_read_where_rows_reach() -> None:
    assert page_ranges([0, 1, 3], [2 * PAGE + 33, PAGE, PAGE + 1]) == [(0, 4, PAGE), (0, 4, PAGE), (0, 1, 64)]
    assert page_ranges([2], [1]) == [(2, 3, 32)]
    assert page_ranges([2], [PAGE]) == [(2, 3, PAGE)]
    assert page_ranges([], []) == []


def test_rows_over_several_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempering.sampling.cache.PAGE", 8)
    monkeypatch.setattr("tempering.sampling.cache.STRIDE", 4)
    p = policy()
    decoder = Decoder(p, max_rows=3)
    common = list(range(20, 33))
    asked = requests([[9] * 3, common, [*common, 5, 6], [7] * 30, [*common, 5], [8] * 17], temperature=1.0)
    asked = [replace(request, max_new_tokens=5 + 6 * i) for i, request in enumerate(asked)]
    tickets = [decoder.submit(request) for request in asked]
    found = run(decoder)
    assert [ids(found[ticket]) for ticket in tickets] == [ids(alone(p, request)) for request in asked]
    assert next(decoder._caches()).pages == 7


# ------------------------------------------------------------------------------------------------------------------------ other models


def tiny(kind: str) -> Any:
    """A random model of another family, with windows short enough to matter."""
    import transformers as tf

    size = {"vocab_size": 274, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2}
    grouped = {**size, "num_key_value_heads": 2, "head_dim": 8}
    torch.manual_seed(0)
    made = {
        "gemma2": lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(**grouped, sliding_window=6, query_pre_attn_scalar=8, attn_logit_softcapping=2.0)),
        "gemma3": lambda: tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**grouped, sliding_window=6, query_pre_attn_scalar=8)),
        "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**grouped)),
        "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**grouped, sliding_window=5)),
        "gpt2": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=274, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)),
        "bloom": lambda: tf.BloomForCausalLM(tf.BloomConfig(vocab_size=274, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2)),
        "mamba": lambda: tf.MambaForCausalLM(tf.MambaConfig(vocab_size=274, hidden_size=32, num_hidden_layers=2, state_size=4)),
    }[kind]()
    return made.float().eval()


@pytest.mark.parametrize(
    ("kind", "batched"),
    [("gemma2", True), ("gemma3", True), ("qwen3", True), ("mistral", True), ("gpt2", True), ("bloom", False), ("mamba", False)],
)
def test_families_in_slots_or_row_by_row_give_the_model_s_own_tokens(kind: str, batched: bool) -> None:
    p = policy(tiny(kind))
    name = p.model.config._attn_implementation
    decoder = Decoder(p, max_rows=3)
    assert decoder.batched == batched
    asked = requests([list(range(5, 5 + n)) for n in (14, 3, 9, 11)], max_new_tokens=8, temperature=1.0)
    tickets = [decoder.submit(request) for request in asked]
    found = run(decoder)
    for ticket, request in zip(tickets, asked, strict=True):
        assert ids(found[ticket]) == ids(alone(p, request))
    assert p.model.config._attn_implementation == name


def test_a_model_that_ignores_the_slots_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_llama()
    monkeypatch.setattr("tempering.sampling.cache._run", lambda q, k, v, *rest: torch.zeros_like(q))
    assert not fits_slots(model)


# ----------------------------------------------------------------------------------------------------------------------------- precision


def test_a_copy_in_another_precision() -> None:
    p = policy()
    twin = decoding_copy(p.model, torch.float32)
    assert any(isinstance(m, PackedLinear) for m in twin.modules()) == can_pack(torch.float32)
    x = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(twin(x).logits, p.model(x).logits, atol=1e-5, rtol=0)
    assert {q.dtype for q in decoding_copy(p.model, torch.bfloat16).parameters()} == {torch.bfloat16}
    assert {q.dtype for q in p.model.parameters()} == {torch.float32}
    asked = requests([[5, 6, 7], [9, 10, 11, 12]], max_new_tokens=8, temperature=1.0)
    packed = Decoder(p, dtype=torch.float32)
    tickets = [packed.submit(request) for request in asked]
    found = run(packed)
    assert [ids(found[ticket]) for ticket in tickets] == [ids(alone(p, request)) for request in asked]


def instructions(count: int) -> tuple[Policy, list[list[int]]]:
    """The 135M model without a stop token, and real instructions as it is asked them."""
    import gzip
    import json

    from tempering.models import load

    with gzip.open(shared("data/alpaca/alpaca_slice.jsonl.gz"), "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["instruction"] for _, line in zip(range(count), file, strict=False)]
    loaded = load("builtin:smollm2-135m", say=lambda note: None)
    asked = [loaded.tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False) for text in texts]
    return policy(loaded.model), [list(loaded.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in asked]


def gaps(p: Policy, asked: list[Request], found: list[list[Token]]) -> torch.Tensor:
    """|log-prob as sampled - log-prob by a float32 forward pass| of every token."""
    every = []
    for request, tokens in zip(asked, found, strict=True):
        with torch.no_grad():
            logits = p.model(torch.tensor([[*request.prompt_ids, *ids(tokens)]])).logits[0, len(request.prompt_ids) - 1 : -1]
        plain = behaviour_logps(logits, temperature=request.temperature).gather(1, torch.tensor(ids(tokens))[:, None])[:, 0]
        every.append((plain - torch.tensor([token.logp for token in tokens])).abs())
    return torch.cat(every)


@pytest.mark.slow
def test_the_real_model_in_both_precisions() -> None:
    p, prompts = instructions(8)
    asked = requests(prompts, max_new_tokens=16, temperature=1.0)

    def tokens(dtype: torch.dtype | None, rows: int) -> list[list[Token]]:
        decoder = Decoder(p, max_rows=rows, dtype=dtype)
        assert decoder.batched
        tickets = [decoder.submit(request) for request in asked]
        found = run(decoder)
        return [found[ticket] for ticket in tickets]

    plain, packed, alone_, half = (tokens(*way) for way in ((None, 8), (torch.float32, 8), (torch.float32, 1), (torch.bfloat16, 8)))
    assert [ids(t) for t in plain] == [ids(t) for t in packed] == [ids(t) for t in alone_]
    assert max(gaps(p, asked, x).max() for x in (plain, packed, alone_)) < 1e-4
    gap = gaps(p, asked, half)
    assert gap.median() < 0.03 and gap.quantile(0.95) < 0.25


# -------------------------------------------------------------------------------------------------------------------- echo, top, cancel


def test_echo_and_top_logps_by_a_forward_pass() -> None:
    p = policy()
    decoder = Decoder(p)
    prompt = [5, 9, 9, 40, 41, 5, 9, 9, 40, 41, 7]
    other, asked = decoder.submit(Request(tuple(prompt))), decoder.submit(Request(tuple(prompt), max_new_tokens=1, top_logps=3, echo=True))
    token = next(t for t in decoder.step() if t.ticket == asked)
    echoed = decoder.prompt_logps(asked)
    with torch.no_grad():
        logps = p.model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    assert echoed.logps[0] is None and echoed.top[0] == ()
    assert echoed.logps[1:] == pytest.approx([logps[i, t].item() for i, t in enumerate(prompt[1:])], abs=1e-4)
    for top, row in zip([*echoed.top[1:], token.top], logps, strict=True):
        assert [i for i, _ in top] == row.topk(3).indices.tolist()
        assert [x for _, x in top] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
    with pytest.raises(KeyError):
        decoder.prompt_logps(other)


def test_echo_goes_through_the_decode_chain() -> None:
    p = policy()
    p.decode, p.roles = (Mixture(0.3),), {"other": make_llama(seed=1)}
    decoder = Decoder(p)
    ticket = decoder.submit(Request((5, 6, 7, 8), max_new_tokens=1, echo=True))
    decoder.step()
    with torch.no_grad():
        a, b = (m(torch.tensor([[5, 6, 7, 8]])).logits[0].softmax(-1) for m in (p.model, p.roles["other"]))
    mixed = (0.3 * a + 0.7 * b).log()
    assert decoder.prompt_logps(ticket).logps[1:] == pytest.approx([mixed[i, t].item() for i, t in enumerate((6, 7, 8))], abs=1e-4)


def test_cancel_waiting_and_in_flight() -> None:
    p = policy()
    decoder = Decoder(p, max_rows=2)
    asked = requests([[5, 6], [7, 8], [9, 10]], max_new_tokens=5)
    a, b, c = (decoder.submit(request) for request in asked)
    decoder.step()
    assert (decoder.active, decoder.waiting) == (2, 1)
    decoder.cancel(a)
    found = run(decoder)
    assert set(found) == {b, c} and ids(found[c]) == ids(alone(p, asked[2]))
    decoder.cancel(b)
    decoder.submit(asked[0])
    decoder.cancel(4)
    assert decoder.idle and decoder.step() == []


def test_prompts_are_let_in_some_tokens_at_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempering.sampling.decoder.PASS_TOKENS_CPU", 8)
    p, asked = policy(), requests([[5, 6, 7], [8, 9, 10, 11], [12, 13], [5] * 11, [14]], max_new_tokens=6)
    decoder = Decoder(p, max_rows=8)
    tickets = [decoder.submit(request) for request in asked]
    found: dict[int, list[Token]] = {}
    active = []
    while not decoder.idle:
        for token in decoder.step():
            found.setdefault(token.ticket, []).append(token)
        active.append(decoder.active)
    # Seven tokens, then two because eleven do not fit beside them, then the eleven alone, then the last.
    assert active[:4] == [2, 3, 4, 5]
    assert [ids(found[ticket]) for ticket in tickets] == [ids(alone(p, request)) for request in asked]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(()), "the prompt has no tokens"),
        (Request((5,), max_new_tokens=512), "the prompt has 1 tokens and 512 new ones are asked for, the model has 512 positions"),
        (Request((274,)), "the prompt has token id 274"),
        (Request((5,), top_logps=-1), "top_logps=-1"),
        (Request((5,), key=-1), "key=-1"),
        (Request((5,), stop=("",)), "stop="),
    ],
)
def test_impossible_requests_are_one_sentence(request_: Request, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Decoder(policy()).submit(request_)


def test_stop_strings_need_a_tokenizer() -> None:
    with pytest.raises(UserError, match="stop strings need a tokenizer"):
        Decoder(policy()).submit(Request((5,), stop=("a",)))
