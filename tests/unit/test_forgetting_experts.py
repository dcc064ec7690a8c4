"""SEUF: where rows are routed, that one expert and its router alone move, and what the anchor asks of the router."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from tempering.config import Optimizer, Training
from tempering.data.streams import Shuffled
from tempering.errors import UserError
from tempering.fit import fit
from tempering.forgetting.experts import OneExpert, layers, scores
from tempering.layout import collate
from tempering.methods.objectives.gradient_ascent import GradientAscent
from tempering.methods.objectives.seuf import SEUF
from tempering.signals import Engine, Live, compute
from tempering.types import Role, Row, Segment
from tests.conftest import make_llama


def mixture() -> Any:
    """Two layers of four experts, of which a token goes to two."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=61, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    return MixtralForCausalLM(config).eval()


def rows(n: int = 6) -> list[Row]:
    draw = np.random.Generator(np.random.PCG64(0))
    weight = np.array([0.0] * 3 + [1.0] * 4, dtype=np.float32)
    return [{part: (Segment(draw.integers(3, 61, 7).astype(np.int32), weight),) for part in ("forget", "retain")} for _ in range(n)]


def test_scores_are_mean_routing_probabilities() -> None:
    model, of = mixture(), rows()
    found = scores(model, of, Engine())
    assert found.shape == (2, 4) and torch.allclose(found.sum(1), torch.ones(2, dtype=torch.float64))
    sums = torch.zeros(2, 4, dtype=torch.float64)
    for row in of:
        ids = torch.tensor(row["forget"][0].ids.tolist())[None]
        routed = model(ids, output_router_logits=True).router_logits
        sums += torch.stack([r.view(7, 4)[3:].double().softmax(-1).sum(0) for r in routed]).detach()
    assert torch.allclose(found, sums / 24, atol=1e-6)
    assert layers(model) == ["model.layers.0.mlp", "model.layers.1.mlp"]
    with pytest.raises(UserError, match="this model has none"):
        scores(make_llama(), of, Engine())


@pytest.mark.parametrize("layout", ["segments", "packed", "padded"])
def test_the_signal_is_the_same_in_every_layout(layout: Any) -> None:
    model, parts = mixture(), collate(rows(3))
    wanted = {"forget": frozenset({"router.0", "router.1"})}
    got, plain = (compute({"policy": Live(model)}, parts, wanted, Engine(kind))["forget"] for kind in (layout, "padded"))
    assert all(torch.allclose(got[name], plain[name], atol=1e-5) for name in wanted["forget"]) and got["router.1"].shape == (21, 4)
    with pytest.raises(UserError, match=r"signal 'router.2': the model has the routers 0 to 1"):
        compute({"policy": Live(model)}, parts, {"forget": frozenset({"router.2"})}, Engine(layout))


def trained(objective: Any, scope: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    model = mixture()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fit(
        {"policy": Role(model, scope)}, objective, Shuffled(rows(), 3), steps=3, optimizer=Optimizer(lr=1e-2),
        training=Training(precision="fp32", save_every=0), say=lambda _: None,
    )  # fmt: skip
    return before, {name: p.detach().clone() for name, p in model.named_parameters()}


def test_one_expert_and_its_router_move_and_nothing_else_to_the_bit() -> None:
    before, after = trained(SEUF(layer=1, expert=2), OneExpert(1, 2))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {f"model.layers.1.mlp.{name}" for name in ("experts.gate_up_proj", "experts.down_proj", "gate.weight")}
    for name in moved - {"model.layers.1.mlp.gate.weight"}:
        assert [i for i in range(4) if not torch.equal(before[name][i], after[name][i])] == [2]


def test_without_the_anchor_and_with_every_weight_it_is_its_host() -> None:
    from tempering.methods.scopes.full import Full

    _, host = trained(GradientAscent(retain_loss="nll"), Full())
    _, same = trained(SEUF(alpha=0.0), Full())
    assert all(torch.equal(p, same[name]) for name, p in host.items())


def test_what_is_not_there_is_refused() -> None:
    for layer, expert, sentence in ((2, 0, "layer 2: the model has 2 layers with experts"), (0, 4, "expert 4: layer 0 has 4 experts")):
        with pytest.raises(UserError, match=sentence):
            OneExpert(layer, expert).attach(mixture())
