"""lm-eval's `local-completions` model against `temper serve`: log-probs of continuations, whether they are greedy, rolling perplexity, and texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tempering.measure import score_pairs
from tempering.sample import sample
from tempering.types import Policy
from tests.conftest import make_llama, make_tokenizer
from tests.serving import KEY, serving

lm_eval = pytest.importorskip("lm_eval")
pytestmark = pytest.mark.peer

POLICY = Policy(make_llama(), make_tokenizer(), "tiny")
PAIRS = [("the cat", " is on the mat"), ("the cat", " sat"), ("a hen and", " an error in the stream"), ("in", " the end it is a")]


@pytest.fixture(params=[1, 3], ids=["one at a time", "three at once"])
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    POLICY.tokenizer.save_pretrained(tmp_path)
    with serving(POLICY) as url:
        yield LocalCompletionsAPI(
            base_url=f"{url}/completions",
            model="tiny",
            tokenizer=str(tmp_path),
            tokenizer_backend="huggingface",
            max_length=512,
            num_concurrent=request.param,
            batch_size=2,
        )


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=given, idx=i) for i, given in enumerate(arguments)]


def test_log_likelihoods_are_those_of_measure(model: Any) -> None:
    found = model.loglikelihood(requests("loglikelihood", PAIRS))
    expected = score_pairs(POLICY, [model._encode_pair(*pair) for pair in PAIRS])
    assert [logp for logp, _ in found] == pytest.approx([float(logps.sum()) for logps, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [bool(tops.all()) for _, tops in expected]


def test_what_the_model_would_say_is_greedy(model: Any) -> None:
    ids = POLICY.tokenizer.encode("the cat")
    ((episode,),) = sample(POLICY, [ids], max_new_tokens=3)
    other = [*episode.ids[:2], (episode.ids[2] + 1) % 200]
    found = model._loglikelihood_tokens([(("", ""), ids, list(episode.ids)), (("", ""), ids, other)])
    assert [greedy for _, greedy in found] == [True, False]
    assert found[0][0] == pytest.approx(sum(episode.logps), abs=1e-4)


def test_rolling_log_likelihoods(model: Any) -> None:
    text = "the cat is on the mat and a hen is in the street"
    (found,) = model.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,)]))
    ((logps, _),) = score_pairs(POLICY, [([model.prefix_token_id], POLICY.tokenizer.encode(text))])
    assert found == pytest.approx(float(logps.sum()), abs=1e-4)


def test_generated_texts_are_those_of_sample(model: Any) -> None:
    prompts = ["the cat", "a hen and", "in the end"]
    found = model.generate_until(requests("generate_until", [(prompt, {"until": ["e", "\n\n"], "max_gen_toks": 9}) for prompt in prompts]))
    expected = sample(POLICY, [POLICY.tokenizer.encode(prompt) for prompt in prompts], max_new_tokens=9, stop=["e", "\n\n"])
    assert found == [episode.text for (episode,) in expected]
