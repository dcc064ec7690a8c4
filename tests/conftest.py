"""What every test shares: one thread, fixed seeds, no network, a store of its own, and tiny models built in memory.

The environment is set when this module is imported, before any test imports torch or a hub library, so that child processes inherit it too.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("TEMPERING_SHARED", ROOT.parent / "shared"))
"""The folder with real data, read in place and never copied; tests that need it skip where it is missing."""

_HOME = Path(tempfile.mkdtemp(prefix="tempering-tests-"))
os.environ |= {
    "TEMPERING_HOME": str(_HOME / "store"),
    "HF_HOME": str(_HOME / "hf"),
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "COLUMNS": "120",
}
# Some machines set these for their own shells; they change what rich and cyclopts print.
for name in ("FORCE_COLOR", "NO_COLOR", "CLICOLOR_FORCE"):
    os.environ.pop(name, None)

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
# A few merges, so that tokens of several characters exist and boundaries inside words are possible; "Ġ" is the byte-level alphabet's space.
MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("e", "r"), ("Ġ", "a"), ("o", "n"), ("Ġ", "s"), ("r", "e"), ("a", "n")]
MERGES += [("Ġa", "n"), ("Ġan", "d"), ("i", "s"), ("Ġ", "is")]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the store of this session."""
    shutil.rmtree(_HOME, ignore_errors=True)


def shared(path: str) -> Path:
    """A file or folder of the real data, for example `shared("data/gsm8k/train.jsonl")`; skips the test where it is missing."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"real data is not here: {found} (set TEMPERING_SHARED)")
    return found


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    """The same random numbers for every test, in any order; one thread. Libraries that a test has not loaded stay unloaded."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        torch: Any = sys.modules["torch"]
        torch.set_num_threads(1)
        torch.manual_seed(0)


def make_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 274 tokens, built in memory: any text survives a round trip. `<|im_end|>` ends a turn, as in ChatML models."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]
    inner = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=MERGES))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(SPECIALS))
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|pad|>", clean_up_tokenization_spaces=False
    )
    made.chat_template = template
    return made


def make_llama(*, vocab: int = 274, hidden: int = 32, layers: int = 2, seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """A Llama of about 27 thousand random weights (float32, eval mode), the same for the same seed; `changes` go to its LlamaConfig."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 3,
        "tie_word_embeddings": True,
        # Larger than the default 0.02, so that the random model's next-token distributions are far from uniform and mistakes show.
        "initializer_range": 0.2,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**(settings | changes))).eval()


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder is an empty one, and faults are sentences, as users see them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TEMPERING_DEBUG", raising=False)


@pytest.fixture
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A new `make_tokenizer()`: byte-level, with a ChatML template."""
    return make_tokenizer()


@pytest.fixture
def tiny_llama() -> LlamaForCausalLM:
    """A new `make_llama()`, free to be trained: hidden 32, 2 layers, the vocabulary of `tiny_tokenizer`."""
    return make_llama()


@pytest.fixture(scope="session")
def _tiny_saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    make_llama().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_folder(_tiny_saved: Path, tmp_path: Path) -> Path:
    """A folder of its own with that model and tokenizer, as `from_pretrained` reads it."""
    folder = tmp_path / "tiny"
    shutil.copytree(_tiny_saved, folder)
    return folder
