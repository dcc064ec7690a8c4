"""Models made larger or smaller: what must stay the same does, on real architectures, and what is written opens in transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tempering import models
from tempering.cli.app import run_command
from tempering.cli.reshape import method_of
from tempering.errors import UserError
from tempering.methods.reshapes.block_expansion import BlockExpansion
from tempering.methods.reshapes.depth_pruning import DepthPruning
from tempering.methods.reshapes.masked_growth import MaskedGrowth
from tempering.methods.reshapes.stack import Stack
from tempering.methods.reshapes.wanda import Wanda
from tempering.methods.reshapes.width_pruning import WidthPruning
from tempering.reshapes import Body, Reshape, Seen
from tempering.reshaping.anatomy import built, taken
from tempering.reshaping.run import distance, reshape
from tempering.reshaping.seen import see
from tempering.types import Policy
from tests.conftest import make_tokenizer
from tests.toy_families import FAMILIES, family

ROWS = [[3, 5, 7, 11, 13, 17], [2, 4, 8, 16]]
RMS = [name for name in FAMILIES if name != "gpt-neox"]
every_family = pytest.mark.parametrize("name", FAMILIES)


def of(model: Any, method: Reshape) -> Any:
    return reshape(Policy(model, None, name="toy"), method, ROWS if method.looks else (), say=lambda _: None).model


def loud(name: str) -> Any:
    """A model of which no weight is what it begins with: biases and norms are drawn too."""
    model = family(name)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1:
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return model


def differences(a: Any, b: Any) -> list[str]:
    mine, theirs = a.state_dict(), b.state_dict()
    assert mine.keys() == theirs.keys()
    return [name for name in mine if not torch.equal(mine[name], theirs[name])]


def without(model: Any, blocks: list[int]) -> Any:
    body = taken(model)
    return built(body.arranged([i for i in range(len(body.blocks)) if i not in blocks]), model)


@every_family
def test_a_model_that_is_taken_apart_and_put_together_is_the_same(name: str) -> None:
    model = loud(name)
    assert differences(built(taken(model), model), model) == []


@every_family
def test_stacked_blocks_are_copies(name: str) -> None:
    model = loud(name)
    made = of(model, Stack(times=3))
    old, new = taken(model), taken(made)
    assert made.config.num_hidden_layers == 6 and differences(of(model, Stack(times=1)), model) == []
    for i, block in enumerate(new.blocks):
        assert all(torch.equal(tensor, old.blocks[i % 2][part]) for part, tensor in block.items())
    blocks = sum(t.numel() for block in old.blocks for t in block.values())
    assert made.num_parameters() == model.num_parameters() + 2 * blocks
    each = taken(of(model, Stack(order="each")))
    assert all(torch.equal(t, old.blocks[i // 2][part]) for i, block in enumerate(each.blocks) for part, t in block.items())
    if (kinds := getattr(model.config, "layer_types", None)) is not None:
        assert made.config.layer_types == kinds * 3


@every_family
def test_new_blocks_change_nothing_and_out_again_leave_the_old_model(name: str) -> None:
    model = loud(name)
    made = of(model, BlockExpansion(groups=2))
    assert made.config.num_hidden_layers == 4 and distance(model, made) == 0
    assert differences(without(made, BlockExpansion(groups=2).new(2)), model) == []
    assert BlockExpansion(groups=2).order(6) == [0, 1, 2, 2, 3, 4, 5, 5] and BlockExpansion(groups=2).new(6) == [3, 7]
    assert BlockExpansion(groups=3).order(4) == [0, 0, 1, 1, 2, 3, 3]


def test_a_new_block_is_a_copy_but_for_what_it_says() -> None:
    model = loud("gpt-neox")
    new = taken(of(model, BlockExpansion(groups=1))).blocks[2]
    old = taken(model).blocks[1]
    zero = [name for name, tensor in new.items() if not tensor.any()]
    assert sorted(zero) == [f"{module}.{part}" for module in ("attention.dense", "mlp.dense_4h_to_h") for part in ("bias", "weight")]
    assert all(torch.equal(tensor, old[name]) for name, tensor in new.items() if name not in zero)


@pytest.mark.parametrize("name", RMS)
@pytest.mark.parametrize(
    "grown", [{"layers": 5}, {"neurons": 31}, {"heads": 8}, {"width": 24}, {"layers": 3, "neurons": 40, "heads": 4, "width": 20}], ids=str
)
def test_growth_in_every_direction_keeps_the_function(name: str, grown: dict[str, int]) -> None:
    model = loud(name).double()
    made = of(model, MaskedGrowth(**grown))
    # Norms compute in float32; those of single heads share the epsilon that a wider stream changes.
    assert distance(model, made) < (1e-9 if "width" not in grown else 1e-4 if name in ("qwen3", "gemma3") else 1e-5)
    config = made.config
    found = {"layers": config.num_hidden_layers, "neurons": config.intermediate_size, "heads": config.num_attention_heads}
    assert {**found, "width": config.hidden_size}.items() >= grown.items()
    assert config.num_attention_heads == 2 * config.num_key_value_heads
    single = loud(name)
    assert distance(single, of(single, MaskedGrowth(**grown))) < 1e-4


def test_what_has_grown_learns_everywhere() -> None:
    """After two steps every new weight has moved: nothing that is 0 feeds only what is 0."""
    model = of(loud("llama"), MaskedGrowth(layers=3, neurons=31, heads=4, width=24))
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    ids = torch.randint(41, (4, 12), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    for name, p in model.named_parameters():
        still = (p == start[name]).float().mean()
        # Embeddings of words that did not occur stay.
        assert float(still) < (0.5 if "embed_tokens" in name else 0.02), name


def test_a_layer_norm_cannot_be_widened() -> None:
    model = loud("gpt-neox")
    assert distance(model, of(model, MaskedGrowth(layers=3, neurons=31))) < 1e-6
    for more in ({"width": 24}, {"heads": 4}):
        with pytest.raises(UserError, match="gpt_neox can grow in neurons and layers alone"):
            of(model, MaskedGrowth(**more))
    with pytest.raises(UserError, match="--neurons 3: the model has 24 already"):
        of(model, MaskedGrowth(neurons=3))


@every_family
def test_pruning_that_keeps_all_changes_no_bit(name: str) -> None:
    model = loud(name)
    for method in (WidthPruning(neurons=1.0), DepthPruning(drop=0), Wanda(sparsity=0.0), Wanda(pattern="4:4")):
        assert differences(of(model, method), model) == []


@pytest.mark.parametrize("name", RMS)
def test_what_says_nothing_is_what_is_pruned(name: str) -> None:
    """A model that has grown, and whose new neurons and heads have been given nothing to say, comes out as it was: same logits, same size."""
    model = loud(name)
    wider = of(model, MaskedGrowth(neurons=48, heads=4))
    with torch.no_grad():
        for part, tensor in wider.state_dict().items():
            if "up_proj" in part:
                tensor[24:] = 0
            elif "v_proj" in part:
                tensor[model.config.head_dim if hasattr(model.config, "head_dim") else 8 :] = 0
    made = of(wider, WidthPruning(neurons=0.5, heads=0.5))
    assert differences(made, model) == []


def test_width_pruning_keeps_what_is_loudest_in_its_order() -> None:
    body = taken(loud("llama"))
    sizes = [torch.arange(24.0), torch.arange(24.0).flip(0)]
    inputs = tuple({"self_attn.o_proj": torch.ones(16), "mlp.down_proj": size} for size in sizes)
    made = WidthPruning(neurons=0.25, width=0.5)(body, Seen(inputs, torch.tensor([1.0, 0.0] * 8), (0.0, 0.0)))
    for old, new, kept in zip(body.blocks, made.blocks, (list(range(18, 24)), list(range(6))), strict=True):
        assert torch.equal(new["mlp.up_proj.weight"], old["mlp.up_proj.weight"][kept][:, ::2])
        assert torch.equal(new["mlp.down_proj.weight"], old["mlp.down_proj.weight"][::2][:, kept])
        assert torch.equal(new["self_attn.o_proj.weight"], old["self_attn.o_proj.weight"][::2])
    assert made.config["hidden_size"] == 8 and made.config["head_dim"] == 8 and made.config["intermediate_size"] == 6


def test_what_is_seen() -> None:
    """By hand, with the model's own modules."""
    model = loud("llama")
    found, block = see(model, ROWS), model.model.layers[1]
    inputs, outputs = [], []
    for row in ROWS:
        out = model(input_ids=torch.tensor([row]), output_hidden_states=True)
        before = out.hidden_states[1][0]
        caught: list[torch.Tensor] = []
        hook = block.mlp.down_proj.register_forward_hook(lambda module, args, output: caught.append(args[0][0].detach()))  # noqa: B023
        last = model.model.norm.register_forward_pre_hook(lambda module, args: outputs.append((before.detach(), args[0][0].detach())))  # noqa: B023
        model(input_ids=torch.tensor([row]))
        hook.remove()
        last.remove()
        inputs += caught
    torch.testing.assert_close(found.inputs[1]["mlp.down_proj"].float(), torch.cat(inputs).norm(dim=0))
    cosine = torch.cat([torch.cosine_similarity(a, b, dim=-1) for a, b in outputs]).mean()
    assert found.turned[1] == pytest.approx(1 - float(cosine), abs=1e-6)
    again = see(model, ROWS[::-1])
    torch.testing.assert_close(again.stream, found.stream)
    assert found.stream.shape == (16,) and set(found.inputs[0]) == {n for n, _ in model.model.layers[0].named_modules() if n.endswith("_proj")}


def test_a_block_that_does_nothing_has_no_influence_and_goes_first() -> None:
    model = loud("qwen3")
    grown = of(model, BlockExpansion(groups=2))
    assert see(grown, ROWS).turned[1] == pytest.approx(0, abs=1e-6)
    assert differences(of(grown, DepthPruning(drop=2)), model) == []
    with pytest.raises(UserError, match="--drop 2: the model has 2 blocks"):
        of(model, DepthPruning(drop=2))


def seen_inputs(body: Body, inputs: Mapping[str, torch.Tensor]) -> Seen:
    return Seen(tuple(inputs for _ in body.blocks), torch.ones(16), (0.0, 0.0))


def test_wanda_by_hand() -> None:
    body = taken(loud("llama"))
    name = "mlp.up_proj.weight"
    weight = torch.tensor([[4.0, -3.0, 2.0, 1.0] * 4] * 24)
    body.blocks[0][name].copy_(weight)
    loudness = torch.tensor([1.0, 1.0, 10.0, 1.0] * 4, dtype=torch.float64)
    seen = seen_inputs(body, {"mlp.up_proj": loudness})
    half = Wanda(pattern="2:4")(body, seen).blocks[0]
    assert torch.equal(half[name], torch.tensor([[4.0, 0.0, 2.0, 0.0] * 4] * 24))
    plain = Wanda(pattern="2:4", activations=False)(body, seen).blocks[0]
    assert torch.equal(plain[name], torch.tensor([[4.0, -3.0, 0.0, 0.0] * 4] * 24))
    three = Wanda(sparsity=0.75)(body, seen).blocks[0][name]
    assert torch.equal(three, torch.tensor([[0.0, 0.0, 2.0, 0.0] * 4] * 24))
    assert half["mlp.gate_proj.weight"] is body.blocks[0]["mlp.gate_proj.weight"] and torch.equal(body.blocks[0][name], weight)
    with pytest.raises(UserError, match="has 16 inputs; N must be at most M"):
        Wanda(pattern="2:5")(body, seen)


@every_family
def test_sparsity_is_what_was_asked_for_and_norms_stay(name: str) -> None:
    made = taken(of(loud(name), Wanda(sparsity=0.5)))
    for block in made.blocks:
        for part, tensor in block.items():
            assert float((tensor == 0).float().mean()) == (0.5 if tensor.dim() == 2 else 0.0), part


def test_what_cannot_be_meant_is_refused() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    with pytest.raises(UserError, match="models of type 'gpt2' cannot be reshaped yet"):
        of(GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9, n_positions=8)), Stack())
    with pytest.raises(UserError, match="--groups 3: the model has 2 blocks"):
        of(loud("llama"), BlockExpansion(groups=3))
    with pytest.raises(UserError, match="--heads 3: 2 heads share a key"):
        of(loud("llama"), MaskedGrowth(heads=3))
    with pytest.raises(UserError, match=r"there is no llama of this shape: .* not a multiple of the number of attention heads"):
        of(loud("llama"), MaskedGrowth(heads=6))
    with pytest.raises(UserError, match="prune neurons"):
        of(loud("gpt-neox"), WidthPruning(heads=0.5))
    for given, words in (({"tims": "2"}, "did you mean 'times'"), ({"times": "0"}, "--times 0: .*greater than or equal to 1")):
        with pytest.raises(UserError, match=words):
            method_of("stack", given)
    assert method_of("width-pruning", {"neurons": "0.25", "width": "1"}) == WidthPruning(neurons=0.25)
    assert method_of("wanda", {"activations": "false", "pattern": "2:4"}) == Wanda(pattern="2:4", activations=False)
    assert method_of("masked_growth", {"heads": "4"}) == MaskedGrowth(heads=4)


def test_a_function_that_does_not_stay_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stack, "preserves", True)
    with pytest.raises(UserError, match="its log-probs differ by up to"):
        of(loud("llama"), Stack())


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt-neox", "qwen2-window"])
def test_the_command_writes_what_transformers_opens(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM

    tokenizer, model = make_tokenizer(), loud(name)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    models.save(Policy(model, tokenizer), tmp_path / "old")
    arguments = ["reshape", "block-expansion", str(tmp_path / "old"), "--out", str(tmp_path / "new"), "--groups", "1", "--keep", "none"]
    assert run_command(arguments) == 0
    said = capsys.readouterr().out
    assert "the same function: log-probs differ by at most 0" in said and "--scope.only 'layers\\.(2)\\.'" in said
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    assert opened.config.num_hidden_layers == 3 and distance(model, opened) == 0
    assert "BlockExpansion(groups=1)" in json.loads((tmp_path / "new" / "policy.json").read_text())["decisions"][0]
    assert run_command(arguments) == 2 and "is there already" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]
