"""Sampling: the tokens, their log-probs and the stopping rules, on a random Llama built in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch

from tempering.errors import UserError
from tempering.methods.decodes.mixture import Mixture
from tempering.models.tokens import end_of_turn
from tempering.sample import PAD, behaviour_logps, evaluating, sample, stop_ids
from tempering.types import Policy
from tests.conftest import make_llama, make_tokenizer

PROMPTS = [[5, 6, 7], [9], [11, 12, 13, 14, 15, 16, 17], [9, 8], [40, 41, 42, 43, 44], [100], [7, 7, 7], [21, 22, 23, 24, 25, 26, 27, 28, 29]]


def policy(**changes) -> Policy:
    return Policy(make_llama(**changes), make_tokenizer(), "tiny")


def tokens(episodes) -> list:
    return [[e.ids for e in row] for row in episodes]


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_k": 20, "top_p": 0.9}])
def test_tokens_do_not_depend_on_the_batch(options):
    p = policy()
    whole = sample(p, PROMPTS, n=2, max_new_tokens=12, batch_size=8, seed=3, **options)
    for batch_size in (1, 3):
        assert tokens(sample(p, PROMPTS, n=2, max_new_tokens=12, batch_size=batch_size, seed=3, **options)) == tokens(whole)
    order = [3, 0, 7, 5, 1, 6, 2, 4]
    shuffled = sample(p, [PROMPTS[i] for i in order], n=2, max_new_tokens=12, batch_size=3, seed=3, keys=order, **options)
    assert tokens(shuffled) == [tokens(whole)[i] for i in order]


def test_greedy_equals_transformers_generate():
    p = policy()
    mine = sample(p, PROMPTS, max_new_tokens=10)
    for prompt, (episode,) in zip(PROMPTS, mine, strict=True):
        inputs = {"inputs": torch.tensor([prompt]), "attention_mask": torch.ones(1, len(prompt)).long()}
        theirs = p.model.generate(**inputs, max_new_tokens=10, do_sample=False, eos_token_id=2, pad_token_id=3)
        assert list(episode.ids) == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.0}, {"temperature": 0.6}, {"temperature": 0.9, "top_k": 15}, {"temperature": 1.1, "top_p": 0.8}]
)
def test_logps_equal_a_plain_forward_pass(options):
    p = policy()
    for prompt, episodes in zip(PROMPTS, sample(p, PROMPTS, n=2, max_new_tokens=9, batch_size=5, **options), strict=True):
        for e in episodes:
            with torch.no_grad():
                logits = p.model(torch.tensor([[*prompt, *e.ids]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
            settings = {"temperature": 0.0, **options}
            expected = behaviour_logps(logits, **settings).gather(1, torch.tensor(e.ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(e.logps), expected, atol=1e-4, rtol=0)


def test_filters_by_hand():
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()
    for options, kept in [
        ({"top_k": 2}, [0.5, 0.25, 0, 0]),
        ({"top_p": 0.5}, [0.5, 0, 0, 0]),
        ({"top_p": 0.51}, [0.5, 0.25, 0, 0]),
        ({"top_p": 0.9}, [0.5, 0.25, 0.15, 0]),
        ({"top_k": 3, "top_p": 0.8}, [0.5, 0.25, 0, 0]),
        ({}, [0.5, 0.25, 0.15, 0.1]),
    ]:
        expected = torch.tensor([kept]) / sum(kept)
        torch.testing.assert_close(behaviour_logps(logits, temperature=1.0, **options).exp(), expected)
    squared = torch.tensor([[0.25, 0.0625, 0.0225, 0.01]])
    torch.testing.assert_close(behaviour_logps(logits, temperature=0.5).exp(), squared / squared.sum())
    unsorted = behaviour_logps(logits[:, [3, 0, 2, 1]], temperature=1.0, top_p=0.7).exp()
    torch.testing.assert_close(unsorted, torch.tensor([[0, 2 / 3, 0, 1 / 3]]))


@dataclass
class Fixed:
    """A decode that puts a given next-token distribution in the model's place, and keeps what it saw."""

    probs: tuple[float, ...]
    role: str | None = None
    seen: list = field(default_factory=list)

    @property
    def roles(self):
        return ()

    def __call__(self, tokens_RL, logits):
        self.seen.append(tokens_RL.tolist())
        out = torch.full_like(logits["policy"], -torch.inf)
        out[:, : len(self.probs)] = torch.tensor(self.probs).log()
        return out


def test_empirical_distribution_and_what_a_decode_sees():
    p = policy()
    decode = Fixed((0.0, 0.1, 0.0, 0.2, 0.3, 0.4))
    p.decode = (decode,)
    p.model.generation_config.eos_token_id = None
    drawn = [e.ids[0] for e in sample(p, [[5]], n=4000, max_new_tokens=1, temperature=1.0, batch_size=1000)[0]]
    for token, prob in enumerate(decode.probs):
        assert abs(drawn.count(token) / 4000 - prob) <= 4 * math.sqrt(prob * (1 - prob) / 4000), token
    decode.seen.clear()
    (first,), (second,) = sample(p, [[7, 8, 9], [6]], max_new_tokens=2)
    # rows with one new token come first in a pass
    assert decode.seen == [[[PAD, PAD, 6], [7, 8, 9]], [[7, 8, 9, 5], [PAD, PAD, 6, 5]]]
    assert first.ids == second.ids == (5, 5)
    assert first.logps == pytest.approx((math.log(0.4), math.log(0.4)))


def test_stop_tokens_and_stop_strings():
    p = policy()
    tokenizer = p.tokenizer
    hello = tokenizer("hello there", add_special_tokens=False)["input_ids"]

    @dataclass
    class Says:
        script: tuple[int, ...]
        roles: tuple[str, ...] = ()

        def __call__(self, tokens_RL, logits):
            out = torch.zeros_like(logits["policy"])
            out[:, self.script[tokens_RL.shape[1] - 1]] = 50.0
            return out

    p.decode = (Says((*hello, 2, 9)),)
    (e,) = sample(p, [[5]], max_new_tokens=30)[0]
    assert (e.ids, e.text, e.finished) == ((*hello, 2), "hello there", True)
    (e,) = sample(p, [[5]], max_new_tokens=3)[0]
    assert (e.ids, e.finished) == (tuple(hello[:3]), False)
    (e,) = sample(p, [[5]], max_new_tokens=30, stop=("o th", "zzz"))[0]
    assert e.text == "hell" and e.finished and tokenizer.decode(e.ids).startswith("hello th")
    assert sample(p, [[5]], max_new_tokens=30, stop="lo")[0][0].text == "hel"
    p.model.generation_config.eos_token_id = [hello[1], 2]
    assert sample(p, [[5]], max_new_tokens=30)[0][0].ids == tuple(hello[:2])


def test_stop_ids_come_from_tokenizer_config_and_template():
    p = policy()
    p.model.generation_config.eos_token_id = [7, 8]
    p.tokenizer.eos_token = "<|endoftext|>"
    assert end_of_turn(p.tokenizer)[0] == 2
    assert stop_ids(p) == {0, 2, 7, 8}
    p.tokenizer.chat_template = None
    assert end_of_turn(p.tokenizer)[0] is None
    assert stop_ids(p) == {0, 7, 8}


def test_mixture_by_hand():
    a, b = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.1, 0.3, 0.6]])
    logits = {"policy": a.log() + 3.0, "other": b.log() - 2.0}
    tokens_RL = torch.tensor([[1]])
    torch.testing.assert_close(Mixture(0.25)(tokens_RL, logits).exp(), torch.tensor([[0.25, 0.275, 0.475]]))
    torch.testing.assert_close(Mixture(1.0)(tokens_RL, logits).exp(), a)
    torch.testing.assert_close(Mixture(0.0)(tokens_RL, logits).exp(), b)
    assert Mixture(role="teacher").roles == ("teacher",)
    with pytest.raises(UserError, match=r"weight is 1\.5"):
        Mixture(1.5)


def test_sampling_from_a_mixture_of_two_models():
    other = make_llama(seed=1)
    p = policy()
    plain = sample(p, PROMPTS, max_new_tokens=8, temperature=1.0)
    mixed = Policy(p.model, p.tokenizer, decode=(Mixture(1.0),), roles={"other": other})
    assert tokens(sample(mixed, PROMPTS, max_new_tokens=8, temperature=1.0)) == tokens(plain)
    swapped = Policy(other, p.tokenizer, decode=(Mixture(0.0),), roles={"other": p.model})
    assert tokens(sample(swapped, PROMPTS, max_new_tokens=8, temperature=1.0)) == tokens(plain)
    half = Policy(p.model, p.tokenizer, decode=(Mixture(0.3),), roles={"other": other})
    for prompt, (e,) in zip(PROMPTS, sample(half, PROMPTS, max_new_tokens=8, temperature=1.0, batch_size=3), strict=True):
        ids = torch.tensor([[*prompt, *e.ids]])
        with torch.no_grad():
            ours, theirs = (m(ids, use_cache=False).logits[0, len(prompt) - 1 : -1].softmax(-1) for m in (p.model, other))
        expected = (0.3 * ours + 0.7 * theirs).log().gather(1, torch.tensor(e.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(e.logps), expected, atol=1e-4, rtol=0)


def test_empty_list_progress_and_modes():
    p = policy()
    assert sample(p, []) == []
    p.model.train()
    p.model.model.layers[0].eval()
    calls = []
    with torch.enable_grad():
        sample(p, PROMPTS, n=2, max_new_tokens=5, batch_size=5, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (16, 16) and [d for d, _ in calls] == sorted(d for d, _ in calls)
    assert p.model.training and p.model.model.layers[1].training and not p.model.model.layers[0].training
    with evaluating(p.model):
        assert not p.model.training and not torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[5], []], {}, "prompt 1 has no tokens"),
        ([[5], [4] * 500], {"max_new_tokens": 20}, r"prompt 1 has 500 tokens and 20 new ones are asked for, the model has 512 positions"),
        ([[5, 274]], {}, r"prompt 0 has token id 274, the model knows 0 to 273"),
        ([[-1, 5]], {}, "prompt 0 has token id -1"),
        ([[5]], {"n": 0}, "n=0: must be at least 1"),
        ([[5]], {"temperature": -1.0}, r"temperature=-1\.0"),
        ([[5]], {"temperature": float("nan")}, "temperature=nan"),
        ([[5]], {"top_p": 0.0}, r"top_p=0\.0: must be above 0"),
        ([[5]], {"top_k": -1}, "top_k=-1"),
        ([[5]], {"max_new_tokens": 0}, "max_new_tokens=0"),
        ([[5]], {"batch_size": 0}, "batch_size=0"),
        ([[5]], {"seed": -1}, "seed=-1"),
        ([[5]], {"stop": ("a", "")}, "stop="),
        ([[5]], {"keys": [1, 2]}, "2 keys for 1 prompts"),
    ],
)
def test_wrong_input_is_one_sentence(prompts, options, message):
    with pytest.raises(UserError, match=message):
        sample(policy(), prompts, **options)


def test_roles_and_vocabularies_are_checked():
    p = policy()
    p.decode = (Mixture(0.5, role="assistant"),)
    with pytest.raises(UserError, match=r"Mixture asks for the logits of role 'assistant', the policy has none"):
        sample(p, [[5]])
    p.roles = {"assistant": make_llama(vocab=300)}
    with pytest.raises(UserError, match=r"policy 274, assistant 300"):
        sample(p, [[5]])
