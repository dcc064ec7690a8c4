"""builtin:tiny: the files are whole and small, plain transformers opens them, the tokenizer does what it says, and the scores leave headroom."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from tempering.models.places import TINY
from tempering.recipes import tiny as recipe
from tempering.types import Message, Policy, Role
from tempering.worlds.arithmetic import Arithmetic, WordProblems
from tempering.worlds.demo import KNOWN, NEW
from tempering.worlds.instructions import Instructions
from tempering.worlds.preferences import Preferences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(TINY)


@pytest.fixture(scope="module")
def policy(tokenizer: PreTrainedTokenizerFast) -> Policy:
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()
    return Policy(model, tokenizer, name="tiny")


def test_files_are_whole_and_small() -> None:
    assert sorted(f.name for f in TINY.iterdir()) == sorted(recipe.FILES)
    assert sum(f.stat().st_size for f in TINY.iterdir()) < 10_000_000
    making = json.loads((TINY / "MAKING.json").read_text())
    for name, digest in making["sha256"].items():
        assert hashlib.sha256((TINY / name).read_bytes()).hexdigest() == digest
    assert making["values"]["seed"] == 0
    assert making["threads"] == 1


def test_opens_in_plain_transformers_with_tied_float32_weights() -> None:
    model, found = AutoModelForCausalLM.from_pretrained(TINY, output_loading_info=True)
    assert type(model) is LlamaForCausalLM
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert 1_000_000 <= sum(p.numel() for p in model.parameters()) <= 3_000_000
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("text", ["Who employs Nell Melhurst?", "12 + 345 = 357", "ÄÖ ñ 漢字 🙂\n\tend ", "", "  two  spaces  ", "<not special>"])
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"], clean_up_tokenization_spaces=False) == text


def test_digits_are_tokens_of_their_own(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]
    assert all(sum(c.isdigit() for c in token) <= 1 for token in tokenizer.get_vocab())


def test_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [0, 1, 2]
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|im_end|>", "<|endoftext|>", None)
    assert 1000 <= len(tokenizer) <= 2000


CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Add 2 and 3."}, {"role": "assistant", "content": "5"}]


def test_template_round_trip(tokenizer: PreTrainedTokenizerFast) -> None:
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nAdd 2 and 3.<|im_end|>\n<|im_start|>assistant\n5<|im_end|>\n"
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == expected
    prompt = tokenizer.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    assert expected == prompt + "5<|im_end|>\n"
    ids = tokenizer.apply_chat_template(CHAT, return_dict=False)
    assert tokenizer.decode(ids) == expected
    prompt_ids = tokenizer.apply_chat_template(CHAT[:2], add_generation_prompt=True, return_dict=False)
    assert ids[: len(prompt_ids)] == prompt_ids


def test_mask_trains_the_answer_and_its_end(tokenizer: PreTrainedTokenizerFast) -> None:
    from tempering.data import render

    segment = render(tokenizer, [Message("user", "Add 2 and 3."), Message("assistant", "5")], trained=lambda i: i == 1)
    assert tokenizer.decode(segment.ids[segment.weight > 0]) == "5<|im_end|>"


def test_the_recipe_makes_the_shipped_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    making = json.loads((TINY / "MAKING.json").read_text())
    made = recipe.make_tokenizer(making["values"]["people"], making["values"]["vocabulary"])
    assert json.loads(made.backend_tokenizer.to_str()) == json.loads(tokenizer.backend_tokenizer.to_str())
    assert made.chat_template == tokenizer.chat_template


def test_the_start_and_three_steps_are_the_same_bits_every_time(tokenizer: PreTrainedTokenizerFast) -> None:
    from tempering.config import Optimizer, Training
    from tempering.data.streams import Shuffled
    from tempering.fit import fit
    from tempering.methods.objectives.nll import NLL
    from tempering.methods.scopes.full import Full

    def digest(model: Any) -> str:
        return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for _, p in sorted(model.named_parameters()))).hexdigest()

    made = []
    for seed in (0, 0, 1):
        model = recipe.make_model(tokenizer, seed)
        start = digest(model)
        rows = list(recipe.rows(tokenizer, 60))
        training = Training(steps=3, batch_size=16, precision="fp32", save_every=0)
        fit(
            {"policy": Role(model, Full())},
            NLL(norm="segment_mean"),
            Shuffled(rows, 16, seed),
            steps=3,
            optimizer=Optimizer(lr=1e-3),
            training=training,
        )
        made.append((start, digest(model)))
    assert made[0] == made[1]
    assert made[0][0] != made[2][0]
    assert made[0][0] != made[0][1]


def test_rows_keep_their_shares_and_hold_out_what_is_measured(tokenizer: PreTrainedTokenizerFast) -> None:
    assert sum(recipe.SHARES.values()) == pytest.approx(1.0)
    sources = [row["train"][0].source.partition(":")[0] for row in recipe.rows(tokenizer, 200)]
    assert {s: sources.count(s) for s in dict.fromkeys(sources)} == {
        "people-0-0-100": round(200 * recipe.SHARES["people"]) + round(200 * recipe.SHARES["biographies"]),
        "people-0-10000-40": round(200 * recipe.SHARES["wordings"]),
        "people-0-10000-1000": round(200 * recipe.SHARES["strangers"]),
        "arithmetic-add+subtract+multiply-1": round(200 * recipe.SHARES["one-digit sums"]),
        "arithmetic-add+subtract-2": round(200 * recipe.SHARES["two-digit sums"]),
        "word-problems-2-20": round(200 * recipe.SHARES["stories"]),
        "instructions-all-4": round(200 * recipe.SHARES["instructions"]),
        "preferences-0": round(200 * recipe.SHARES["replies"]),
    }
    asked = {i.prompt for probe in recipe.probes() for i in probe.items if hasattr(i, "prompt")}
    trained = {m.content for name in ("people", "one-digit sums", "two-digit sums") for r in recipe.records()[name] for m in r.prompt}
    assert len(asked) > 700
    assert not asked & trained


# Bands, not points: the shipped weights give the same answers on one machine, and a few items may differ on another.
BANDS = [
    (KNOWN.probe("test", 60, name="people"), 0.75, 0.99),
    (NEW.probe("test", 40, name="unknown people"), 0.0, 0.2),
    (Arithmetic(("add",), digits=2).probe("test", 60, name="sums"), 0.25, 0.95),
    (WordProblems().probe("test", 30, name="stories"), 0.05, 0.9),
    (Instructions().probe("test", 49, name="instructions"), 0.3, 0.97),
    (Preferences().probe("test", 60, name="preferences"), 0.1, 0.75),
]


@pytest.mark.parametrize(("probe", "low", "high"), BANDS, ids=[probe.name for probe, *_ in BANDS])
def test_scores_leave_room_to_gain_and_to_lose(policy: Policy, probe: Any, low: float, high: float) -> None:
    scores = probe(policy)
    assert low <= sum(item.score for item in scores.items) / len(scores.items) <= high
