"""`temper plan`: parameters, memory by term in closed form, depth left out exactly, what is said, and that nothing is loaded or left behind."""

from __future__ import annotations

import copy
import functools
import importlib.util
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig

import tempering as tp
from tempering import fused
from tempering.cli import main
from tempering.config import Optimizer, Training
from tempering.errors import UserError
from tempering.experiment import Experiment
from tempering.fit import fit
from tempering.layout import arrange, collate
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.forward_kl import ForwardKL
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.ppo import PPO
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.models import lighter
from tempering.models.value import ValueModel
from tempering.planning import experts, terms, trace
from tempering.planning.meter import Meter
from tempering.planning.rehearse import Rehearsed, rehearse
from tempering.planning.terms import Plan, Switch, add_up
from tempering.planning.trace import Counts, Work
from tempering.types import Role, Segment
from tests.toy import toy_llama, toy_rows

GIB = 2**30
FP32 = Training(precision="fp32")
PAIRS = ("chosen", "rejected")


def work(
    scope: Any, objective: Any = None, *, layers: int = 2, optimizer: str = "adamw", parts: tuple[str, ...] = ("train",), **changes: Any
) -> Work:
    training = FP32.model_copy(update={name: changes.pop(name, 0) for name in ("checkpointing", "recompute_over")})
    config = toy_llama(layers=layers).config
    return Work(config, scope, objective or NLL(), Optimizer(name=optimizer), training, collate(toy_rows(4, parts)), **changes)


def mixture() -> Work:
    """A mixture of experts."""
    config = MixtralConfig(
        vocab_size=61, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, num_local_experts=4
    )
    return replace(work(Full()), config=config)


def dense(config: Any) -> LlamaConfig:
    """Its like with one MLP of a single expert's size."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    return LlamaConfig(**{name: getattr(config, name) for name in names})


@functools.cache
def plain() -> Counts:
    """Adam on all weights of a toy model."""
    return trace.trace(work(Full()))


# ---------------------------------------------------------------------------------------------------------------------------------- closed forms


def test_a_meter_counts_what_is_alive() -> None:
    meter = Meter(vocabulary=7)
    with meter.fake:
        weight_VD = torch.nn.Parameter(torch.empty(7, 5))
        x_ND = torch.empty(3, 5)
    assert meter.add([weight_VD, x_ND]) == 4 * (7 * 5 + 3 * 5)
    with meter:
        logits_NV = x_ND @ weight_VD.T
        assert (meter.now, meter.logits) == (4 * (35 + 15 + 21), 4 * 21)
        loss = logits_NV.logsumexp(-1).sum()
        loss.backward()
        assert float(loss.detach()) == 1.0, "the contents that are asked for"
    del logits_NV, loss
    # What stays is the gradient, as large as the weight.
    assert (meter.now, meter.logits) == (4 * (35 + 15 + 35), 0)
    assert meter.peak.total > meter.now


def test_full_scope_in_closed_form() -> None:
    model = toy_llama()
    size, count = sum(p.numel() for p in model.parameters()), len(list(model.parameters()))
    found = plain()
    assert (found.parameters, found.trainable, found.reference) == (size, size, 0)
    assert found.weights == 4 * size + sum(b.nbytes for b in model.buffers())
    assert found.gradients == 4 * size
    # Two moments of float32 for each weight, and a step for each tensor; the loop still holds the few rows of its first step.
    assert 0 <= found.states - (2 * 4 * size + 4 * count) < 500


def test_lora_trains_what_peft_says() -> None:
    handle = LoRA(r=3).attach(toy_llama())
    trained, every = handle.model.get_nb_trainable_parameters()
    verdicts = dict(lighter._VERDICTS)
    found = trace.trace(work(LoRA(r=3)))
    assert verdicts == lighter._VERDICTS, "what is found on models without contents is forgotten"
    assert (found.trainable, found.parameters) == (trained, every)
    assert found.gradients == 4 * trained and 0 <= found.states - (2 * 4 * trained + 4 * len(handle.params)) < 500


def test_a_frozen_reference_is_a_second_model() -> None:
    full = trace.trace(work(Full(), DPO(), parts=PAIRS))
    assert full.reference == full.weights and plain().reference == 0


def test_a_reference_that_comes_as_a_column_is_no_second_model() -> None:
    plain_work = work(Full(), DPO(), parts=PAIRS)

    def reference(*parts: str) -> float:
        """Of a model kept beside, where the column stands in these parts."""
        extras = {part: {"reference.logp": torch.zeros(batch.num_tokens)} for part, batch in plain_work.micro.items() if part in parts}
        micro = {part: replace(batch, extras={**batch.extras, **extras.get(part, {})}) for part, batch in plain_work.micro.items()}
        return trace.trace(replace(plain_work, micro=micro)).reference

    assert reference(*PAIRS) == 0 < reference("chosen") == reference()


def test_a_teacher_is_a_second_model() -> None:
    teacher = toy_llama(layers=1)
    found = trace.trace(replace(work(Full(), ForwardKL()), beside={"teacher": Role(teacher)}))
    assert found.reference == sum(x.numel() * x.element_size() for x in (*teacher.parameters(), *teacher.buffers()))


@pytest.mark.parametrize("layers", [2, 6])
def test_a_critic_is_a_second_model_that_trains_in_full(layers: int) -> None:
    critic, whole = ValueModel(toy_llama(layers=layers)), cast("Any", Full())
    asked = work(LoRA(r=3), PPO(), layers=layers, parts=("rollout",))
    zeros = dict.fromkeys(("old_logp", "advantage", "return", "old_value"), torch.zeros(asked.micro["rollout"].num_tokens))
    asked = replace(asked, micro={"rollout": replace(asked.micro["rollout"], extras=zeros)})
    found = trace.trace(replace(asked, beside={"critic": Role(critic, whole, Optimizer(lr=1e-3))}))
    alone = trace.trace(work(LoRA(r=3), layers=layers))
    size, count = sum(p.numel() for p in critic.parameters()), len(list(critic.parameters()))
    assert (found.trainable, found.parameters) == (alone.trainable + size, alone.parameters + size)
    assert found.gradients == alone.gradients + 4 * size
    assert found.weights == alone.weights + 4 * size + sum(b.nbytes for b in critic.buffers()) and found.reference == 0
    assert 0 <= found.states - alone.states - (8 * size + 4 * count) < 500 and found.activations > 1.5 * alone.activations


def test_a_real_step_keeps_as_much_as_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same meter around two steps on a model with contents; what is asked for to log is then a few numbers of four bytes."""
    # A buffer that is used again is not asked for again, so the meter would not see it in the second step.
    monkeypatch.setattr(fused._POOL, "give", lambda use, tensor: None)
    asked = work(Full())
    model, meter = toy_llama(), Meter(61)
    meter.add([*model.parameters(), *model.buffers()])
    stream = trace._Twice(asked.micro, meter)
    with meter:
        fit(
            {"policy": Role(model, Full())},
            NLL(),
            stream,
            steps=2,
            optimizer=asked.optimizer,
            training=asked.training.model_copy(update={"save_every": 0}),
        )
    held = stream.marks[1] + 4 * sum(p.numel() for p in model.parameters())
    found = plain()
    assert meter.start.total - meter.start.logits - held == pytest.approx(found.activations, rel=0.01)
    assert meter.peak.total - held == pytest.approx(found.activations + found.logits + found.working, rel=0.01)


@pytest.mark.parametrize(("name", "less"), [("adafactor", 20), ("sgd", 400)])
def test_optimizers_with_less_state(name: str, less: int) -> None:
    assert trace.trace(work(Full(), optimizer=name)).states * less < plain().states


@pytest.mark.parametrize(
    ("scope", "how"),
    [
        (Full(), {}),
        pytest.param(LoRA(), {}, marks=pytest.mark.slow),
        pytest.param(LoRA(), {"quantise": "nf4"}, marks=pytest.mark.slow),
        pytest.param(Full(), {"checkpointing": True}, marks=pytest.mark.slow),
        pytest.param(LoRA(), {"checkpointing": True}, marks=pytest.mark.slow),
    ],
)
def test_depth_is_left_out_exactly(scope: Any, how: dict[str, Any]) -> None:
    """Two shallow models say what the whole one does, to the byte."""
    deep = work(scope, layers=3, **how)
    assert vars(trace.trace(deep)) == vars(trace._at(deep, deep.config))


def test_recomputed_activations_are_fewer() -> None:
    assert trace.trace(work(Full(), checkpointing=True)).activations < 0.6 * plain().activations


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_blocks_that_a_long_pass_recomputes_are_counted_as_such(share: float) -> None:
    """Of four blocks one, two, three are: what is kept is what the whole model keeps."""
    plain = work(Full(), layers=4)
    tokens = arrange(plain.micro["train"], "segments").ids_RL.numel()
    some = work(Full(), layers=4, recompute_over=math.ceil(tokens * (1 - share)))
    assert trace.trace(some).activations == pytest.approx(trace._at(some, some.config).activations, rel=2e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_a_step_takes_hardly_grows_with_the_vocabulary(precision: Any) -> None:
    """SmolLM2's widths, 2,048 scored tokens: beyond weights, gradients and states a vocabulary sixteen times as large takes a full chunk of logits
    where the smaller one had none, and in bfloat16 the output layer's copy."""
    rng, scored = np.random.default_rng(0), (np.arange(512) >= 256).astype(np.float32)
    segments = [Segment(rng.integers(0, 8192, 512).astype(np.int32), scored) for _ in range(8)]
    taken = []
    for vocabulary in (8192, 131072):
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=576, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=9, num_key_value_heads=3,
            tie_word_embeddings=True,
        )  # fmt: skip
        parts = collate([{"train": (segment,)} for segment in segments])
        counts = trace.trace(Work(config, Full(), NLL(), Optimizer(), Training(precision=precision), parts))
        taken.append(counts.activations + counts.logits + counts.working)
    size = 4 if precision == "fp32" else 2
    chunk, copy = size * (fused.CHUNK_ELEMENTS - 2048 * 8192), size * 576 * (131072 - 8192) * (precision == "bf16")
    assert taken[1] - taken[0] == pytest.approx(chunk + copy, rel=0.02)
    assert precision == "bf16" or taken[1] <= 1.11 * taken[0]


def test_a_pass_that_is_no_longer_than_that_is_the_plain_one() -> None:
    assert trace.trace(work(Full(), recompute_over=10_000)) == plain()


def test_blocks_that_differ_are_traced_in_full_depth() -> None:
    alike = LlamaConfig(vocab_size=61, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4)
    assert trace._alike(alike, 4)
    mixed = copy.deepcopy(alike)
    mixed.layer_types = ["full_attention", "sliding_attention"] * 2
    assert not trace._alike(mixed, 4)
    assert trace.shallow(mixed, 3).layer_types == ["full_attention", "sliding_attention", "full_attention"]


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_stand_ins_weigh_what_the_librarys_layers_do(kind: Any) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    from tempering.planning.quantised import Quantised

    layer: Any = next(
        m
        for m in tp.load("builtin:tiny", quantise=kind, say=lambda _: None).model.modules()
        if type(m).__name__.startswith("Linear") and "bit" in type(m).__name__
    )
    mine = Quantised(torch.nn.Linear(layer.in_features, layer.out_features, bias=False), kind)
    if kind == "int8":
        scales = layer.weight.SCB.nbytes
    else:
        state = layer.weight.quant_state
        scales = sum(x.nbytes for x in (state.absmax, state.code, state.state2.absmax, state.state2.code, state.offset))
    assert mine.weight.nbytes == layer.weight.nbytes
    assert sum(b.nbytes for b in mine.buffers()) == scales


# ------------------------------------------------------------------------------------------------------------------------------------ adding up

COUNTS = Counts(
    parameters=100, trainable=100, weights=400, reference=0, gradients=400, states=800, activations=600, logits=100, working=60, update=50
)


def found(**changes: Any) -> Rehearsed:
    facts: dict[str, Any] = {"work": work(Full()), "model": "m", "tokens": 9, "accumulates": True, "saves": False, "best": False}
    return Rehearsed(**facts | changes)


def test_terms_add_up_to_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "HEAP", {True: 0.5, False: 0.5})
    plan = add_up("sft", found(), COUNTS, "cpu", 1000, None)
    # Process, weights, states, gradients, what the passes keep; and half of the latter once more.
    assert plan.peak == 1000 + 400 + 800 + 400 + 760 * 1.5 and plan.moment == "forward and backward passes"
    assert sum(term.bytes for term in plan.terms if term.at_peak) == plan.peak
    # Alone in its step, a micro-batch's activations are going as the gradients come: half of them are left with two blocks.
    assert add_up("sft", found(accumulates=False), COUNTS, "cuda", 0, None).peak == max(400 + 800 + 760, 400 + 800 + 400 + 300 + 160)
    # A copy to write checkpoints from: weights and states; and the weights of the best evaluation.
    assert add_up("sft", found(saves=True), COUNTS, "cpu", 0, None).peak - add_up("sft", found(), COUNTS, "cpu", 0, None).peak == 400 + 800
    assert add_up("sft", found(best=True), COUNTS, "cuda", 0, None).peak - add_up("sft", found(), COUNTS, "cuda", 0, None).peak == 400


def test_a_large_update_is_the_peak() -> None:
    plan = add_up("sft", found(), replace(COUNTS, update=5000), "cuda", 0, 10_000)
    assert plan.moment == "optimizer step" and plan.peak == 400 + 800 + 400 + 5000 and plan.fits
    assert {term.name for term in plan.terms if not term.at_peak} == {"activations", "logits", "working memory"}


def test_the_last_sentence() -> None:
    def sentence(peak: float, free: float | None, *switches: Switch) -> str:
        size = None if free is None else int(free * GIB)
        return Plan("sft", "m", "cpu", 1, 1, 1, "optimizer step", (), int(peak * GIB), size, switches).sentence()

    lora, less = Switch("--scope lora", 2 * GIB), Switch("--checkpointing", 5 * GIB)
    assert sentence(3, 8) == "It fits: the run needs 3.0 GiB at its peak (optimizer step), and 8.0 GiB are free here."
    assert sentence(9, 6, lora, less).endswith("with --checkpointing it needs 5.0 GiB and fits."), "the least change that is enough"
    assert sentence(9, 1, lora, less).endswith("no switch alone is enough, the best is --scope lora with 2.0 GiB.")
    assert sentence(9, 1).endswith("so take a smaller model.")
    assert sentence(9, None).endswith("how much is free here is unknown.")


# -------------------------------------------------------------------------------------------------------------------------------- from the outside


def test_the_command_prints_terms_and_loads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights are read")

    size = sum(p.numel() for p in tp.load("builtin:tiny", say=lambda _: None).model.parameters())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", refuse)
    assert main(["plan", "sft", "--model", "builtin:tiny", "--scope", "full", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    by_name = {term["name"]: term["bytes"] for term in plan["terms"]}
    assert plan["parameters"] == plan["trainable"] == size and by_name["gradients"] == 4 * size
    assert plan["peak"] == sum(term["bytes"] for term in plan["terms"] if term["at_peak"])
    assert list(tmp_path.iterdir()) == []
    assert main(["plan", "sft", "--model", "builtin:tiny", "--batch-size", "4"]) == 0
    out = capsys.readouterr().out
    assert "activations" in out and "weights" in out
    # What the libraries take counts too, and here that is whatever earlier tests loaded.
    assert re.match(r"It fits: the run needs \d", out.strip().splitlines()[-1])


@pytest.mark.slow
def test_where_it_does_not_fit_switches_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "free_bytes", lambda device: 1)
    monkeypatch.setattr(terms, "resident", lambda: 0)
    plan = tp.plan("sft", model="builtin:tiny", scope="full", limit=40, batch_size=4)
    assert plan.fits is False
    flags = [switch.flag for switch in plan.switches]
    assert {"--scope lora", "--optimizer adafactor", "--checkpointing"} <= set(flags)
    assert [s.peak for s in plan.switches] == sorted(s.peak for s in plan.switches) and plan.switches[-1].peak < plan.peak


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model", "no/such-model"], "there is no folder no/such-model here"),
        (["--model", "builtin:tiny", "--data", "nothing.jsonl"], "nothing.jsonl"),
        (["--model", "builtin:tiny", "--again"], "has no flag --again"),
        (["--optimizer", "bitsandbyte:AdamW8bit", "--model", "builtin:tiny"], "the package before the colon"),
    ],
)
def test_wrong_input_is_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "sft", *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err and "Traceback" not in err


def test_a_recipe_that_trains_nothing_has_no_plan(tmp_path: Path) -> None:
    path = tmp_path / "idle.py"
    path.write_text('"""Nothing."""\n\n\ndef idle(seed: int = 0) -> None:\n    """Nothing."""\n')
    with pytest.raises(UserError, match="ended without training anything"):
        tp.plan(f"{path}:idle")


def test_the_experts_of_a_plan_take_all_tokens_in_turn() -> None:
    """With weights that are the same for all experts it does not matter who is asked."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(mixture().config).eval()
    for name, p in model.named_parameters():
        if ".experts." in name:
            p.data[:] = p.data[:1].clone()
    ids = torch.tensor([[3, 5, 7, 11, 13]])
    with torch.no_grad():
        real = model(input_ids=ids, use_cache=False).logits
        experts.install(model.config)
        torch.testing.assert_close(model(input_ids=ids, use_cache=False).logits, real)


def test_a_mixture_is_planned() -> None:
    found = trace.trace(mixture())
    block = 4 * 3 * 32 * 64 + 4 * 32 + 2 * 32 * 32 + 2 * 32 * 16 + 2 * 32
    assert found.parameters == 2 * block + 2 * 61 * 32 + 32
    # Beyond a dense MLP's there is what each of a token's two experts is given, and says.
    assert found.activations > trace.trace(replace(mixture(), config=dense(mixture().config))).activations


def test_a_model_that_cannot_be_traced_is_refused_in_a_sentence(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    # Products with sorted tokens are something that torch cannot do in float32 without contents.
    monkeypatch.setattr(experts, "install", lambda config: setattr(config, "_experts_implementation", "grouped_mm"))
    with pytest.raises(UserError, match=r"MixtralForCausalLM with this optimizer cannot be planned.*--steps 1") as caught:
        trace.trace(mixture())
    assert "\n" not in str(caught.value) and not caplog.records


def test_a_recipe_may_write_into_its_folder_before_it_trains() -> None:
    def early(model: str = "builtin:tiny", seed: int = 0) -> Any:
        """Writes, and trains nothing."""
        run = Experiment.begin(early, locals())
        run.folder.write("told.json", {"seed": seed})
        assert run.folder.read("told.json") == {"seed": seed} and run.folder.path.name.startswith("tempering-plan-")

    with pytest.raises(UserError, match="early ended without training anything"):
        rehearse(early, {}, lambda text: None)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["sft_full_2048", "sft_full_512", "sft_lora_2048", "dpo_lora_512", "dpo_lora_2048", "dpo_full_1024_checkpointing"])
def test_within_15_percent_of_the_measured_peak(name: str) -> None:
    from benchmarks.plan import compare

    assert 0.85 <= compare(name, "builtin:smollm2-135m")["ratio"] <= 1.15
