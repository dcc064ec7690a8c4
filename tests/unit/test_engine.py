"""vLLM as the decoder of conversations, against a stand-in of its shapes that decodes with the very weights it is given. vLLM itself is not run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from tempering.errors import UserError
from tempering.methods.credits.group_relative import GroupRelative
from tempering.rollouts import engine as engines
from tempering.rollouts.acting import Acting
from tempering.rollouts.engine import Engine
from tempering.rollouts.play import How, go_on, opened, play
from tempering.rollouts.samplers import Beside, _Sampler
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.rollouts.types import Trajectory
from tempering.sampling.server import derived_seed
from tempering.sampling.types import Request
from tempering.types import Policy
from tests.conftest import make_llama, make_tokenizer
from tests.unit.test_rollouts import TRAINING, Echo

TOKENIZER = make_tokenizer()
TASKS = list(enumerate(Echo().tasks("train")))


class FakeLLM:
    """Opens the folder as a checkpoint, and samples from what it holds."""

    def __init__(self, model: str, **how: Any) -> None:
        from transformers import AutoModelForCausalLM

        self.model, self.how, self.resets = AutoModelForCausalLM.from_pretrained(model, dtype=how["dtype"]), how, 0
        self.llm_engine = FakeEngine(self.model)

    def apply_model(self, call: Callable[[Any], Any]) -> list[Any]:
        return [call(SimpleNamespace(load_weights=self._load))]

    def _load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, weight in weights:
                own.pop(name).copy_(weight)
        assert set(own) <= {"lm_head.weight"}, "all weights come, but for a tied output layer"

    def reset_prefix_cache(self) -> bool:
        assert not self.llm_engine.flying
        self.resets += 1
        return True


class FakeEngine:
    """`step` gives each request a token and answers with all that it has so far, as vLLM does unless told otherwise."""

    def __init__(self, model: Any) -> None:
        self.model, self.flying = model, dict[str, tuple[list[int], Any, list[int], list[Any]]]()
        self.asked = list[tuple[list[int], Any]]()

    def add_request(self, request_id: str, prompt: dict[str, Any], params: Any) -> None:
        self.asked.append((prompt["prompt_token_ids"], params))
        self.flying[request_id] = prompt["prompt_token_ids"], params, [], []

    def step(self) -> list[SimpleNamespace]:
        outputs = []
        for name, (prompt, params, ids, at) in list(self.flying.items()):
            with torch.no_grad():
                logits = self.model(torch.tensor([prompt + ids])).logits[0, -1].float()
            logps = (logits / (params.temperature or 1.0)).log_softmax(-1)
            if params.temperature:
                noise = torch.Generator().manual_seed(params.seed % 2**31 + len(ids))
                token = int(torch.multinomial(logps.exp(), 1, generator=noise))
            else:
                token = int(logps.argmax())
            ids.append(token)
            at.append({token: SimpleNamespace(logprob=float(logps[token]))})
            reason = "stop" if token in params.stop_token_ids else "length" if len(ids) == params.max_tokens else None
            if reason:
                del self.flying[name]
            one = SimpleNamespace(token_ids=list(ids), logprobs=list(at), finish_reason=reason)
            outputs.append(SimpleNamespace(request_id=name, outputs=[one], finished=bool(reason)))
        return outputs


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = FakeLLM, SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(engines, "installed", lambda: None)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


def policy(seed: int = 0) -> Policy:
    torch.manual_seed(seed)
    model = make_llama()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return Policy(model.eval(), TOKENIZER)


def assert_drawn_from(model: Any, groups: Sequence[Sequence[Trajectory]], temperature: float = 1.0) -> None:
    """Every token's log-prob is that of the model behind what was seen and said before it."""
    for turn in (turn for group in groups for one in group for turn in one.turns):
        with torch.no_grad():
            logits = model(torch.tensor([[*turn.prompt_ids, *turn.ids]])).logits[0, len(turn.prompt_ids) - 1 : -1].float()
        logps = (logits / temperature).log_softmax(-1)[torch.arange(len(turn.ids)), torch.tensor(turn.ids)]
        torch.testing.assert_close(torch.tensor(turn.logps), logps, atol=1e-4, rtol=0)


def test_conversations_are_sampled_by_the_engine_and_know_their_log_probs() -> None:
    start = policy()
    engine = Engine(start, 8, "float32")
    assert engine._llm.how == {"dtype": "float32", "max_num_seqs": 8, "logprobs_mode": "processed_logprobs", "skip_tokenizer_init": True}
    how = How(6, 0.7, seed=3, engine=engine.decoder)
    groups = play(start, Echo(), TASKS[:3], 2, how)
    assert [len(one.turns) for group in groups for one in group] == [2] * 6
    assert_drawn_from(start.model, groups, 0.7)
    ends = {turn.finished for group in groups for one in group for turn in one.turns}
    for turn in (turn for group in groups for one in group for turn in one.turns):
        assert turn.finished == (turn.ids[-1] in engine._llm.llm_engine.asked[0][1].stop_token_ids) and len(turn.ids) <= 6
        assert turn.finished or len(turn.ids) == 6
    assert ends == {True, False} or ends == {False}
    again = play(start, Echo(), TASKS[:3], 2, how)
    assert [one.turns for group in again for one in group] == [one.turns for group in groups for one in group]
    assert len({one.turns[0].ids for group in groups for one in group}) > 3, "samples differ"


def test_a_stop_token_ends_a_turn_and_is_part_of_it() -> None:
    start = policy()
    decoder = Engine(start, 8, "float32").decoder(start, How(6))
    first = decoder.submit(Request((5, 6, 7), 6))
    assert not decoder.idle
    likeliest = [decoder.step()[0].id for _ in range(6)]
    assert decoder.idle and first == 1
    decoder._ends = [likeliest[2]]  # type: ignore[attr-defined]
    decoder.submit(Request((5, 6, 7), 6))
    found = []
    while not decoder.idle:
        found += decoder.step()
    assert [token.id for token in found] == likeliest[: likeliest.index(likeliest[2]) + 1]
    assert [token.finished for token in found] == [""] * (len(found) - 1) + ["stop"]


def test_new_weights_come_through_a_checkpoint_and_drop_the_cache() -> None:
    start, later = policy(0), policy(1)
    engine = Engine(start, 8, "float32")
    engine.load(later)
    assert engine._llm.resets == 1
    groups = play(later, Echo(), TASKS[:2], 2, How(6, engine=engine.decoder))
    assert_drawn_from(later.model, groups)
    with pytest.raises(AssertionError):
        assert_drawn_from(start.model, groups)


def test_an_adapter_is_folded_in_and_stays_on_the_policy() -> None:
    start = policy()
    engine = Engine(start, 8, "float32")
    model: Any = get_peft_model(start.model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    tuned = Policy(model, TOKENIZER)
    engine.load(tuned)
    groups = play(tuned, Echo(), TASKS[:2], 2, How(6, engine=engine.decoder))
    assert_drawn_from(model, groups)
    assert any("lora" in name for name, _ in model.named_parameters())


def test_an_open_turn_goes_on_with_a_seed_of_its_own() -> None:
    start = policy()
    engine = Engine(start, 8, "float32")
    decoder: Any = engine.decoder(start, How(6))
    decoder.submit(Request((5, 6), 4, 1.0, seed=1, key=2, sample=3))
    decoder.submit(Request((5, 6, 9), 3, 1.0, seed=1, key=2, sample=3, begun=1))
    seeds = [params.seed for _, params in engine._llm.llm_engine.asked]
    assert seeds == [derived_seed(1, 2, 3), derived_seed(derived_seed(1, 2, 3), 1, 0)]
    while not decoder.idle:
        decoder.step()
    games = opened(TASKS[:4], 2)
    groups, left = go_on(start, Echo(), games, How(6, engine=engine.decoder), enough=2)
    assert len(groups) == 2 and len(left) == 4
    rest, none = go_on(start, Echo(), left, How(6, engine=engine.decoder))
    assert len(rest) == 2 and not none
    assert_drawn_from(start.model, list(rest.values()))


def stream(**settings: Any) -> Conversations:
    given = Rollouts(**{"samples": 2, "samplers": 1, "engine": "vllm", **settings})
    return Conversations(
        TOKENIZER, Echo(), Echo().tasks("train"), GroupRelative(), given, training=TRAINING, max_new_tokens=6, seed=7, samplers=Beside(1)
    )


def acting_of(made: Any) -> Acting:
    return next(value for value in vars(made).values() if isinstance(value, Acting))


def test_a_sampler_pushes_the_weights_of_a_version_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = ModuleType("ray")
    ray.get = lambda given: given  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    start, later = policy(0), policy(1)
    sampler = _Sampler([acting_of(stream()), start.model], 1)
    weights = {name: p.detach() for name, p in later.model.named_parameters()}
    (groups,) = sampler.round(1, weights, 0, []).tries
    assert_drawn_from(later.model, [group.played for group in groups])
    sampler.round(1, weights, 8, [])
    assert sampler.engine is not None and sampler.engine._llm.resets == 1, "once for a version"


def test_what_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="engine: vllm decodes in processes beside the trainer, and there are none"):
        Rollouts(engine="vllm")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="the package vllm is not installed"):
        engines.installed()
    decoder: Any = engines._Asked(None, SimpleNamespace, (), 8, 10)
    long = "5 tokens and 6 new ones are asked for, the model has 8 positions"
    for prompt, says in (((1, 2, 3, 4, 5), long), ((), "no tokens"), ((10,), "token id 10")):
        with pytest.raises(UserError, match=says):
            decoder.submit(Request(prompt, 6))
