"""A codebook after an MLP: which codes are chosen, what taking some out does, how they are counted, and that the model is saved with it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from tempering import models
from tempering.errors import UserError
from tempering.forgetting.codebook import EPS, enriched, given, means, speaking, usage
from tempering.measure import logps_of
from tempering.models.codebook import FILE, Codebook, install, mlp_of, of
from tempering.sample import sample
from tempering.types import Policy, Row, Segment
from tests.conftest import make_llama, make_tokenizer

CODES = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 1.0]])


def policy(codes: int = 6, top: int = 2, seed: int = 0) -> Policy:
    made = Policy(make_llama(), make_tokenizer(), name="small")
    torch.manual_seed(seed)
    install(made.model, 1, Codebook(torch.randn(codes, made.model.config.hidden_size), top))  # type: ignore[union-attr]
    return made


def rows(n: int = 5) -> list[Row]:
    draw = np.random.Generator(np.random.PCG64(0))
    weight = np.array([0.0] * 3 + [1.0] * 4, dtype=np.float32)
    return [{"train": (Segment(draw.integers(4, 270, 7).astype(np.int32), weight),)} for _ in range(n)]


def logits(made: Policy) -> torch.Tensor:
    with torch.no_grad():
        return made.model(input_ids=torch.arange(5, 13)[None]).logits  # type: ignore[operator]


def test_the_nearest_codes_by_cosine_are_added_up() -> None:
    book = Codebook(CODES, 2)
    y = torch.tensor([[[0.1, 0.0], [3.0, 2.9]]])
    assert book.chosen(y).tolist() == [[[0, 3], [3, 0]]], "the length of a code does not matter"
    assert book(y).tolist() == [[[3.0, 1.0], [3.0, 1.0]]]
    book.take_out([0])
    assert book.chosen(y).tolist() == [[[3, 1], [3, 1]]]
    book.take_out([])
    assert book.alive_K.tolist() == [False, True, True, True]
    with pytest.raises(UserError, match="of 4 codes 1 would be left, and 2 are chosen"):
        book.take_out([1, 2])
    assert book.alive_K.tolist() == [False, True, True, True], "a refused request takes nothing out"


def test_what_is_never_chosen_is_not_missed_and_what_is_put_back_is_as_before() -> None:
    made = policy(codes=40)
    before, book = logits(made), of(made.model, 1)
    shares = usage(made.model, 1, [Segment(np.arange(5, 13, dtype=np.int32), np.ones(8, np.float32))])
    assert float(shares.sum()) == pytest.approx(2.0), "two codes for every token"
    book.take_out([c for c in range(40) if shares[c] == 0])
    assert torch.equal(logits(made), before)
    book.alive_K.fill_(True)
    book.take_out([int(shares.argmax())])
    assert not torch.equal(logits(made), before)
    book.alive_K.fill_(True)
    assert torch.equal(logits(made), before)


def test_enrichment_by_hand() -> None:
    topic, other = torch.tensor([0.4, 0.0, 0.1, 0.2]), torch.tensor([0.1, 0.5, 0.1, 0.0])
    ratio = (np.log2((0.4 + EPS) / (0.1 + EPS)), np.log2((0.2 + EPS) / EPS))
    assert ratio[1] > ratio[0] > 1.9
    assert enriched(topic, other, 1.0) == [3, 0]
    assert enriched(topic, other, 1.0, 1) == [3] and enriched(topic, other, 1.0, 0) == []
    assert enriched(topic, other, 0.0) == [3, 0, 2], "as often in both is 0"


def test_means_are_those_of_directions() -> None:
    y = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 4.0], [0.0, 6.0]])
    found = [sorted(means(y, 2, seed=seed).tolist()) for seed in range(8)]
    assert [[0.0, 4.0], [2.0, 0.0]] in found, "begun apart, there is one centre a direction, at the mean of its vectors"
    assert means(y, 5).shape == (5, 2)
    with pytest.raises(UserError, match="6 codes cannot be begun on 5 tokens"):
        means(y, 6)


def test_everything_that_reads_the_model_reads_through_the_codebook() -> None:
    made, plain = policy(), Policy(make_llama(), make_tokenizer(), name="small")
    prompt, answer = list(range(5, 9)), list(range(9, 13))
    expected = logits(made)[0, 3:-1].log_softmax(-1)[torch.arange(4), torch.tensor(answer)]
    (found,) = logps_of(made, [(prompt, answer)])
    assert np.allclose(found, expected.numpy(), atol=1e-4)
    (other,) = logps_of(plain, [(prompt, answer)])
    assert not np.allclose(found, other, atol=1e-2)
    with torch.no_grad():
        greedy, ids = [], list(prompt)
        for _ in range(4):
            ids.append(int(made.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))  # type: ignore[operator]
            greedy.append(ids[-1])
    ((episode,),) = sample(made, [prompt], max_new_tokens=4, temperature=0.0)
    assert list(episode.ids) == greedy[: len(episode.ids)] and len(episode.ids) > 1
    copied = copy.deepcopy(made)
    of(copied.model, 1).take_out([0, 1, 2])
    assert of(made.model, 1).alive_K.all(), "a copy has a codebook of its own"


def test_only_the_codes_train_and_they_make_the_rows_likelier() -> None:
    start = Policy(make_llama(), make_tokenizer(), name="small")
    how = {"codes": 8, "top": 2, "lr": 1e-2, "seed": 0}
    first, later = (speaking(start, (1,), rows(), steps=steps, **how) for steps in (0, 6))  # type: ignore[arg-type]
    assert torch.allclose(of(first.model, 1).codes * 2, means(given(start.model, 1, [s for r in rows() for s in r["train"]]), 8))
    now, then = later.model.state_dict(), first.model.state_dict()
    assert [name for name, p in now.items() if not torch.equal(p, then[name])] == ["model.layers.1.mlp.codebook.codes"]
    assert all(torch.equal(p, now[name]) for name, p in start.model.state_dict().items()), "names and values of the old weights stay"
    pairs = [(r["train"][0].ids[:3].tolist(), r["train"][0].ids[3:].tolist()) for r in rows()]
    assert sum(float(p.sum()) for p in logps_of(later, pairs)) > sum(float(p.sum()) for p in logps_of(first, pairs))


def test_a_model_is_saved_with_its_codebook(tmp_path: Path) -> None:
    made = policy()
    of(made.model, 1).take_out([4])
    models.save(made, tmp_path / "m")
    found = models.load(str(tmp_path / "m"), say=lambda _: None)
    assert torch.equal(logits(found), logits(made)) and of(found.model, 1).alive_K.tolist() == [True] * 4 + [False, True]
    (tmp_path / "m" / FILE).write_bytes(b"nothing")
    with pytest.raises(UserError, match="the codebook cannot be read"):
        models.load(str(tmp_path / "m"), say=lambda _: None)


def test_a_block_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"layer 7: the model has no module …layers\.7\.mlp"):
        mlp_of(make_llama(), 7)
