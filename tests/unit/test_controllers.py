"""Controllers: no weight is the policy to the bit, one is its controller, logits are linear in weights, and sentences have weights of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tempering.errors import UserError
from tempering.methods.decodes.controllers import Controllers
from tempering.models import load, save
from tempering.sample import sample
from tempering.types import Policy
from tests.conftest import make_llama, make_tokenizer

TOKENS = torch.tensor([[-1, 5, 9, 7], [5, 9, 3, 9]])


def logits() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(2, 6) for name in ("policy", "brief", "kind")}


def test_no_weight_is_the_policy_to_the_bit_and_one_is_its_controller() -> None:
    given = logits()
    given["brief"][0, 2] = -torch.inf
    of = ("brief", "kind")
    assert torch.equal(Controllers(of, ((0, 0),))(TOKENS, given), given["policy"])
    assert torch.allclose(Controllers(of, ((0, 1),))(TOKENS, given), given["kind"], atol=1e-6)
    assert torch.allclose(Controllers(of, ((1, 0),))(TOKENS, given)[1], given["brief"][1], atol=1e-6)


def test_logits_are_linear_in_the_weights() -> None:
    given, of = logits(), ("brief", "kind")
    expected = given["policy"] + 0.5 * (given["brief"] - given["policy"]) - 2 * (given["kind"] - given["policy"])
    assert torch.allclose(Controllers(of, ((0.5, -2),))(TOKENS, given), expected, atol=1e-5)


def test_each_sentence_has_its_weights() -> None:
    by = Controllers(("brief",), ((1.0,), (0.5,), (0.0,)), ends=(9,))
    assert by.weigh(TOKENS)[:, 0].tolist() == [0.5, 0.0], "one end so far, and two"
    assert by.weigh(torch.tensor([[9, 9, 9, 9], [5, 5, 5, 5]]))[:, 0].tolist() == [0.0, 1.0]
    # Ends before the answer do not count: it begins behind 5, or behind 9 7.
    assert Controllers(("brief",), ((1.0,), (0.5,)), (9,), (9, 7)).weigh(TOKENS)[:, 0].tolist() == [1.0, 0.5]
    given = {name: x for name, x in logits().items() if name != "kind"}
    out = by(TOKENS, given)
    assert torch.allclose(out[0], (given["policy"] + given["brief"])[0] / 2, atol=1e-6) and torch.equal(out[1], given["policy"][1])


def test_a_controlled_policy_is_saved_and_writes_as_its_controller(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    start, controller = (make_llama(seed=seed) for seed in (0, 1))
    how = {"n": 1, "max_new_tokens": 8, "temperature": 1.0, "seed": 0}
    prompts = [[5, 9, 7]]

    def written(policy: Policy) -> list[int]:
        return list(sample(policy, prompts, **how)[0][0].ids)  # type: ignore[arg-type]

    for weight, same in ((0.0, start), (1.0, controller)):
        folder = tmp_path / str(weight)
        save(Policy(start, tokenizer, decode=(Controllers(weights=((weight,),)),), roles={"controller": controller}), folder)  # type: ignore[arg-type]
        assert written(load(str(folder), say=lambda _: None)) == written(Policy(same, tokenizer))
    assert written(Policy(start, tokenizer)) != written(Policy(controller, tokenizer))


@pytest.mark.parametrize(
    ("names", "weights", "sentence"),
    [
        (("a", "b"), ((1.0,),), "a row of weights has 1 numbers for 2 controllers"),
        (("a",), ((1.0,), (0.0,)), "ends names no token"),
        ((), ((),), "at least one controller"),
        (("a-b",), ((1.0,),), "'a-b' is no name for a folder"),
        (("a",), (("x",),), "weights are rows of numbers"),
    ],
)
def test_what_is_no_control_is_refused(names: tuple[str, ...], weights: tuple[tuple[float, ...], ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Controllers(names, weights)
