"""GGUF files, converted once into a plain Hugging Face folder in the store.

Reading a GGUF takes many seconds and dequantises every weight; the folder it becomes takes two. The folder's name is the hash of the file's
content, it is written atomically, and its files' checksums stand beside them, so a damaged copy is noticed and made again.

transformers 5.23 does not know every pre-tokenizer a GGUF can name and then silently falls back to GPT-2's. For the family that splits digits first
("smollm" and others, as in llama.cpp's list) this puts that step back: without it a blank line before a number, as in every numbered list, becomes
two tokens the model never saw there.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from tempering.errors import UserError
from tempering.heap import give_back
from tempering.home import atomic_folder, sha256_file, store_dir
from tempering.models.tokens import first_line, settle

CONVERSION = 1
"""Part of the folder's name: raised whenever the conversion below changes what comes out."""

CHECKSUMS = "checksums.json"
_DIGITS_FIRST = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
_PLAIN_BYTE_LEVEL = frozenset({"gpt-2", "gpt2", "olmo", "mpt", "jais", "trillion", "granite-docling"})


def convert(file: Path, say: Callable[[str], None]) -> Path:
    """The store's folder for a GGUF file, made if it is not there.

    Raises:
        UserError: not a GGUF file, an architecture or tokenizer that transformers cannot convert, or no room for the result.
    """
    try:
        with file.open("rb") as opened:
            magic = opened.read(4)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); check the path and its permissions.") from error
    if magic != b"GGUF":
        raise UserError(f"{file} is not a GGUF file (it does not begin with the letters GGUF); it may be a broken download, fetch it again.")
    folder = store_dir("gguf") / f"{sha256_file(file)[:32]}-v{CONVERSION}"
    if folder.is_dir():
        if _whole(folder):
            return folder
        say(f"the converted copy of {file.name} in the store is damaged; converting again")
    with atomic_folder(folder, existing="replace" if folder.is_dir() else "keep") as temporary:
        _write(file, temporary, say)
        sums = {f.name: sha256_file(f, remember=False) for f in sorted(temporary.iterdir())}
        (temporary / CHECKSUMS).write_text(json.dumps(sums, indent=1), encoding="utf-8")
    # What it took would otherwise lie beside the run that begins now.
    give_back()
    return folder


def _whole(folder: Path) -> bool:
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        return bool(sums) and all(sha256_file(folder / name) == digest for name, digest in sums.items())
    except (OSError, ValueError, AttributeError):
        return False


def _write(file: Path, folder: Path, say: Callable[[str], None]) -> None:
    # Whatever is wrong inside a GGUF from elsewhere surfaces as some error of the readers underneath.
    try:
        import gguf

        header = gguf.GGUFReader(file)
        parameters = sum(int(tensor.n_elements) for tensor in header.tensors)
        # Only byte-level BPE vocabularies ("gpt2") are cut by the pre-tokenizer that `pre` names.
        pre = _value(header, "tokenizer.ggml.pre") if _value(header, "tokenizer.ggml.model") == "gpt2" else None
        architecture = _value(header, "general.architecture")
        context = _value(header, f"{architecture}.context_length")
    except Exception as error:
        raise UserError(f"{file} is not readable as GGUF ({first_line(error)}); it may be a broken download, fetch it again.") from error
    free = shutil.disk_usage(folder).free
    if free < 4 * parameters + (64 << 20):
        raise UserError(
            f"converting {file.name} needs {4 * parameters / 1e9:.1f} GB in {folder.parent}, where {free / 1e9:.1f} GB are free; free some space or "
            "set TEMPERING_HOME to a folder on another disk."
        )
    say(f"converting {file.name} once into the store ({parameters / 1e6:.0f} M parameters, {4 * parameters / 1e9:.2f} GB)")
    model, tokenizer = _read(file)
    _mend_pre_tokenizer(tokenizer, pre, file, say)
    if isinstance(context, int):
        tokenizer.model_max_length = context
    # The original path and name mean nothing in the converted folder.
    model.config._name_or_path = ""
    decisions = settle(model, tokenizer, file.name, say)
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    about = {"format": 1, "kind": "full", "file": file.name, "sha256": sha256_file(file), "decisions": list(decisions)}
    (folder / "policy.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _read(file: Path) -> tuple[Any, Any]:
    import torch
    from tqdm.auto import tqdm
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        # This loader shows its bar whatever the library's own switch says.
        with quiet(), mock.patch("transformers.modeling_gguf_pytorch_utils.tqdm", partial(tqdm, disable=True)):
            model = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:
        raise UserError(
            f"transformers cannot convert {file} ({first_line(error)}); use the model's original safetensors folder, or a newer transformers."
        ) from error
    # A model marked as quantised refuses to be saved, and this one no longer is.
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if name in model.__dict__:
            delattr(model, name)
    if getattr(model.config, "quantization_config", None) is not None:
        delattr(model.config, "quantization_config")
    return model, tokenizer


def _mend_pre_tokenizer(tokenizer: Any, pre: Any, file: Path, say: Callable[[str], None]) -> None:
    from tokenizers import pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    if not isinstance(pre, str) or pre in GGUF_PRE_TOKENIZER_SPLITS or pre in _PLAIN_BYTE_LEVEL:
        return
    if pre in _DIGITS_FIRST:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
        )
        return
    say(
        f"{file.name}: nobody here knows the pre-tokenizer {pre!r}; text may be cut differently than in training. Prefer the original model's folder."
    )


def _value(header: Any, key: str) -> Any:
    field = header.fields.get(key)
    return None if field is None else field.contents()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers without progress bars and without warnings below errors; both are put back."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
