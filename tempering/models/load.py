"""Loading a model by what a user types: hub id, folder, PEFT adapter, GGUF file or built-in.

Everything becomes a `Policy` with a checked tokenizer, in evaluation mode. Where it came from and what was decided on the way is kept on the model
(`provenance(model)`), so that saving can write it beside the weights.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.errors import UserError
from tempering.home import sha256_file
from tempering.models.chains import restore
from tempering.models.places import Place, find, read_json
from tempering.models.quantise import Quantise, let_go, settings, settle_layers
from tempering.models.tokens import first_line, read_tokenizer, settle
from tempering.types import Policy

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16", "auto")
_ATTRIBUTE = "tempering_provenance"
_DEPTH = 4


@dataclass(frozen=True)
class Provenance:
    """Where a model's weights came from."""

    source: str
    """What loads the model again."""
    base: str
    """What loads the plain weights under an adapter; equal to `source` for a plain model."""
    base_folder: str
    """The folder that the plain weights were read from."""
    decisions: tuple[str, ...] = ()
    """What the checkpoint left open and how it was settled, a sentence each."""
    new_tokens: tuple[str, ...] = ()
    """Tokens added since the base was loaded (`resize_tokens`)."""

    def base_sha256(self) -> str:
        """The hash of the plain weights; of the files' names and contents."""
        return weights_sha256(Path(self.base_folder))


def load(spec: str | Path, *, dtype: str = "float32", quantise: Quantise = "none", later: bool = False, say: Callable[[str], None] = print) -> Policy:
    """Load a model with its tokenizer.

    Args:
        spec: `builtin:tiny`, `builtin:smollm2-135m`, a folder (Hugging Face model, PEFT adapter, or a run folder), a `.gguf` file, or a hub id with
            an optional `@revision`.
        dtype: float32, bfloat16, float16, or "auto" for the one it was saved in.
        quantise: "bf16", "int8" or "nf4" keeps the weights of linear layers in 16, 8 or 4 bits, for adapters to be trained on.
        later: leave the weights of a plain model in its files, where that can be done: nothing can be computed with it until `fit` on several
            processes has cut it, of which each reads its own pieces.
        say: where notes go: what was converted, chosen or decided.

    Raises:
        UserError: nothing of that name, not a causal language model, pickled or incomplete weights, an adapter of another model, a tokenizer that
            does not belong to the model.
    """
    if dtype not in DTYPES:
        near = difflib.get_close_matches(str(dtype), DTYPES, n=1)
        raise UserError(f"dtype {dtype!r} is not known; " + (f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(DTYPES)}."))
    place = find(spec, say)
    later = later and place.kind == "model" and quantise == "none" and dtype != "auto"
    policy = _load(place, dtype, quantise, say, depth=0, later=later)
    if (place.folder / "codebook.safetensors").is_file():
        from tempering.models.codebook import FILE, restored

        restored(policy.model, place.folder / FILE)
    about = place.folder / "policy.json"
    if not about.is_file():
        return policy
    return restore(policy, place.folder, read_json(about), lambda folder: load(folder, dtype=dtype, quantise=quantise, say=say), say)


def load_tokenizer(spec: str | Path, *, say: Callable[[str], None] = print) -> Any:
    """The tokenizer that `load(spec)` would give, but for the padding token, which depends on the model's settings too.

    Raises UserError as `load` does.
    """
    place = find(spec, say)
    for _ in range(_DEPTH):
        if place.kind == "model" or _has_tokenizer(place.folder):
            return read_tokenizer(place.folder)
        place = find(spec_of_base(place), say)
    raise UserError(f"{spec}: adapters on adapters more than {_DEPTH} deep; merge them first.")


def provenance(model: torch.nn.Module) -> Provenance | None:
    """Where a model that `load` made came from; seen through PEFT and other wrappers, None for a model made elsewhere."""
    return getattr(model, _ATTRIBUTE, None)


def record(model: torch.nn.Module, value: Provenance) -> None:
    """Keep `value` with the model."""
    setattr(model, _ATTRIBUTE, value)


def weights_sha256(folder: Path) -> str:
    """The hash of a folder's safetensors files: their names and contents."""
    lines = [f"{file.name} {sha256_file(file)}" for file in sorted(folder.glob("*.safetensors"))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _load(place: Place, dtype: str, quantise: Quantise, say: Callable[[str], None], depth: int, later: bool = False) -> Policy:
    if depth > _DEPTH:
        raise UserError(f"{place.spec}: adapters on adapters more than {_DEPTH} deep; merge them first.")
    if place.kind == "adapter":
        return _load_adapter(place, dtype, quantise, say, depth)
    model = (_later(place.folder, dtype) if later else None) or _weights(place.folder, dtype, quantise)
    tokenizer = read_tokenizer(place.folder)
    decisions = (*_earlier_decisions(place.folder), *settle(model, tokenizer, place.spec, say))
    record(model, Provenance(place.spec, place.spec, str(place.folder), decisions))
    return Policy(model, tokenizer, name=Path(place.spec).name, source=place.spec)


def _earlier_decisions(folder: Path) -> tuple[str, ...]:
    file = folder / "policy.json"
    found = read_json(file).get("decisions") if file.is_file() else None
    return tuple(str(line) for line in found) if isinstance(found, list) else ()


def _later(folder: Path, dtype: str) -> Any | None:
    import torch

    from tempering.models.later import build

    return build(folder, getattr(torch, dtype))


def _weights(folder: Path, dtype: str, quantise: Quantise) -> Any:
    import torch
    from safetensors import SafetensorError
    from torch import nn
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig

    from tempering.models.gguf import quiet
    from tempering.models.half import halve
    from tempering.models.value import ValueModel

    how = settings(quantise)
    names = read_json(folder / "config.json").get("architectures") or [""]
    # A reward model: what `save` writes of a ValueModel.
    scores = str(names[0]).endswith("ForSequenceClassification")
    kind: Any = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    try:
        with quiet():
            loaded: Any = kind.from_pretrained(
                folder,
                # In the type of the file, for weights of 16 bits not to stand here in 32 first.
                dtype="auto" if quantise == "bf16" or dtype == "auto" else getattr(torch, dtype),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **how,
            )
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, OSError, ImportError, SafetensorError) as error:
        raise UserError(f"the model in {folder} does not load: {first_line(error)}; fetch or save the model again.") from error
    model, found = loaded
    missing = sorted(found["missing_keys"])
    if missing:
        raise UserError(f"{len(missing)} weights are missing from the model in {folder} (the first is {missing[0]}); fetch or save the model again.")
    if quantise == "bf16":
        halve(model, model.dtype if dtype == "auto" else getattr(torch, dtype))
        model.config.dtype = model.dtype
    if quantise != "none":
        settle_layers(model)
        let_go(model)
    if scores:
        if type(getattr(model, "score", None)) is not nn.Linear:
            raise UserError(f"the model in {folder} is a classifier with another head than one linear layer named score; it cannot be loaded")
        model = ValueModel.of(model)
        model.generation_config = GenerationConfig()  # type: ignore[assignment] # A module takes plain attributes too.
    return model.eval()


def _load_adapter(place: Place, dtype: str, quantise: Quantise, say: Callable[[str], None], depth: int) -> Policy:
    from tempering.models.resize import add_tokens

    base_spec = spec_of_base(place)
    base_place = find(base_spec, say)
    policy_file = place.folder / "policy.json"
    notes = read_json(policy_file) if policy_file.is_file() else {}
    if base_place.kind == "model":
        _same_base(place, base_place, notes)
    policy = _load(base_place, dtype, quantise, say, depth + 1)
    source = provenance(policy.model)
    assert source is not None
    new_tokens = [str(token) for token in notes.get("new_tokens", ())]
    if new_tokens:
        add_tokens(policy.model, policy.tokenizer, new_tokens, init=str(notes.get("init", "mean")))
    tokenizer = read_tokenizer(place.folder) if _has_tokenizer(place.folder) else policy.tokenizer
    model = _wrap(policy.model, place, base_spec)
    decisions = source.decisions
    if tokenizer is not policy.tokenizer:
        decisions = (*_earlier_decisions(place.folder), *settle(policy.model, tokenizer, place.spec, say))
    record(policy.model, Provenance(place.spec, source.base, source.base_folder, decisions, tuple(new_tokens)))
    return Policy(model, tokenizer, name=place.folder.name, source=place.spec)


def spec_of_base(place: Place) -> str:
    """What loads the model that an adapter belongs to. Raises UserError where the adapter does not say."""
    base = read_json(place.folder / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(f"{place.folder / 'adapter_config.json'} names no base_model_name_or_path; write there which model the adapter belongs to.")
    # An adapter may lie beside its base and name it relative to itself.
    beside = place.folder / base
    return str(beside) if base.startswith(".") and beside.is_dir() else base


def _has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file() or (folder / "tokenizer_config.json").is_file()


def _same_base(place: Place, base: Place, notes: dict[str, Any]) -> None:
    wanted = notes.get("base_sha256")
    if wanted and weights_sha256(base.folder) != wanted:
        raise UserError(
            f"the adapter in {place.folder} was trained on other weights than {base.spec} holds now; put the right base_model_name_or_path into its "
            "adapter_config.json, or take base_sha256 out of its policy.json if the change is meant."
        )


def _wrap(model: Any, place: Place, base_spec: str) -> Any:
    import warnings

    import peft
    from safetensors import SafetensorError, safe_open

    other = f"the adapter in {place.folder} does not fit {base_spec}; it belongs to another model, put the right base_model_name_or_path into its "
    other += "adapter_config.json"
    weights = place.folder / "adapter_model.safetensors"
    try:
        with warnings.catch_warnings():
            # Missing adapter keys are checked below, exactly.
            warnings.simplefilter("ignore")
            config = peft.PeftConfig.from_pretrained(str(place.folder))
            wrapped = peft.PeftModel.from_pretrained(model, str(place.folder), config=config)
        with safe_open(weights, framework="pt") as file:
            stored = set(file.keys())
    except (RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{other} ({first_line(error)}).") from error
    except (TypeError, OSError, SafetensorError) as error:
        raise UserError(f"the adapter in {place.folder} does not load: {first_line(error)}; fetch or save it again.") from error
    expected = set(peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    names = set(wrapped.state_dict())
    # Whole embeddings may be stored beside the adapter's own weights, under the model's names.
    odd = sorted(expected - stored) + sorted(key for key in stored - expected if key not in names and not _names_base_layer(key, names))
    if odd:
        raise UserError(f"{other} (the first weight that does not match is {odd[0]}).")
    return wrapped.eval()


def _names_base_layer(key: str, names: set[str]) -> bool:
    stem, _, leaf = key.rpartition(".")
    return f"{stem}.base_layer.{leaf}" in names
