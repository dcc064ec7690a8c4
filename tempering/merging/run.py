"""A merge from beginning to end: a plan, tensor by tensor through the method, and a folder that transformers opens."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tempering.errors import UserError
from tempering.home import kept_folder, write_atomic
from tempering.merges import Draw
from tempering.merging.config import Config
from tempering.merging.known import known_of
from tempering.merging.plan import Piece, Plan, make_plan
from tempering.merging.read import Weights, forget, open_weights, stamps
from tempering.merging.vocab import Vocabulary, vocabulary
from tempering.merging.write import Slot, write
from tempering.models.places import read_json

FORMAT = 2
"""Raised whenever the same configuration gives other bytes."""
SHARD_BYTES = 5_000_000_000
GENERATION = "generation_config.json"
_BESIDE = (GENERATION, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")
_BESIDE += ("merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json")
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers")


def merge(config: Config, out: str | Path, *, seed: int = 0, shard_bytes: int = SHARD_BYTES, say: Callable[[str], None] = print) -> Path:
    """Merge models into a new folder.

    Args:
        config: which models, by what method, with which settings.
        out: a folder that does not exist yet; where a merge into it was broken off, it goes on if inputs and settings are the same.
        seed: of the methods that draw random numbers; they depend on it and on the tensor's name alone.
        shard_bytes: most bytes of a file.
    Raises:
        UserError: what the plan, the readers and `known_of` raise, or the folder cannot be written.
    """
    models = {name: open_weights(name, say) for name in config.named()}
    plan = make_plan(config, models, say)
    tokens = vocabulary(config, plan, models)
    if tokens is not None:
        plan = replace(plan, pieces=tuple(with_rows(piece, tokens.size) for piece in plan.pieces))
    known = known_of(config, models, say)
    if known and tokens is not None:
        raise UserError(f"{config.merge_method} looks at data, which is done for models of one vocabulary; leave --tokenizer out")
    pieces = {piece.name: piece for piece in plan.pieces}
    slots = [Slot(piece.name, piece.meta) for piece in plan.pieces]
    key = _key(config, plan, [*models.values(), *known.values()], seed, shard_bytes)
    with kept_folder(out) as folder:
        write(folder, slots, lambda name: made(pieces[name], models, seed, tokens, known), key, shard_bytes, say)
        # What measures the result needs the memory.
        forget()
        lead = models[plan.lead]
        settings = {"config.json": _config(lead, plan, models)}
        for name in _BESIDE:
            if (lead.tokenizer / name).is_file():
                shutil.copyfile(lead.tokenizer / name, folder / name)
        if tokens is not None:
            if (folder / GENERATION).is_file():
                settings[GENERATION] = read_json(folder / GENERATION)
            for values in settings.values():
                _renumber(values, tokens, plan.lead)
            tokens.tokenizer.save_pretrained(folder)
        for name, values in settings.items():
            write_atomic(folder / name, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
        about = {"format": 1, "kind": "full", "merge": config.model_dump(mode="json", exclude_none=True), "seed": seed}
        write_atomic(folder / "policy.json", json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    return Path(out).expanduser().absolute()


def with_rows(piece: Piece, rows: int) -> Piece:
    """The piece with so many rows, where it has one for every token."""
    return replace(piece, meta=replace(piece.meta, shape=(rows, *piece.meta.shape[1:]))) if piece.by_token else piece


@torch.no_grad()
def made(
    piece: Piece, models: Mapping[str, Weights], seed: int = 0, tokens: Vocabulary | None = None, known: Mapping[str, Weights] | None = None
) -> Tensor:
    """One tensor of the result; `known` is what the data say of each model's, for a method that wants to know."""
    places = [*([piece.base] if piece.base else []), *piece.others]
    tensors = [models[model].read(name).to(piece.dtype) for model, name in places]
    if tokens is not None and piece.by_token:
        spread = tokens.spread({model: tensor for (model, _), tensor in zip(places, tensors, strict=True)})
        tensors = [spread[model] for model, _ in places]
    if piece.method is None:
        return tensors[0].to(piece.meta.dtype)
    base = tensors.pop(0) if piece.base else None
    method: Any = piece.method
    more = [[known[model].read(name) if name in known[model].metas else None for model, name in piece.others]] if known else []
    return method(base, tensors, draws(seed, piece.name), *more).to(piece.meta.dtype)


def draws(seed: int, name: str) -> Draw:
    """The random numbers of a tensor, by the seed and its name."""
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little") >> 1)
    return lambda shape: torch.rand(tuple(shape), generator=generator)


def _key(config: Config, plan: Plan, inputs: Sequence[Weights], seed: int, shard_bytes: int) -> str:
    files = [stamp for weights in inputs for stamp in stamps(weights)]
    return hashlib.sha256(repr((FORMAT, config, plan, files, seed, shard_bytes)).encode()).hexdigest()


def _renumber(settings: dict[str, Any], tokens: Vocabulary, lead: str) -> None:
    """Ids of tokens in a model's settings, by the result's tokenizer."""
    rows = {int(old): new for new, old in enumerate(tokens.ids[lead].tolist()) if old >= 0}
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = settings.get(key)
        if isinstance(value, int):
            settings[key] = rows.get(value)
        elif isinstance(value, list):
            settings[key] = [rows[one] for one in value if one in rows]


def _config(lead: Weights, plan: Plan, models: Mapping[str, Weights]) -> dict[str, Any]:
    """The lead's config.json with what the plan changed: layers, vocabulary, a head of its own, the type."""
    settings = read_json(lead.folder / "config.json")
    count = next((key for key in _LAYER_COUNTS if key in settings), None)
    before = settings.get(count) if count else None
    if count and before != len(plan.layers):
        settings[count] = len(plan.layers)
    for key, value in list(settings.items()):
        # What a config says of every layer in turn goes with the layers.
        if isinstance(value, list) and before and len(value) == before and key.startswith("layer"):
            own: dict[str, Any] = {model: read_json(models[model].folder / "config.json") for model, _ in plan.layers}
            settings[key] = [own[model][key][layer] for model, layer in plan.layers]
    for piece in plan.pieces:
        if piece.by_token:
            settings["vocab_size"] = piece.meta.shape[0]
            if "head" in piece.name or "embed_out" in piece.name:
                settings["tie_word_embeddings"] = False
    types = {piece.meta.dtype for piece in plan.pieces if piece.by_token} or {plan.pieces[0].meta.dtype}
    settings["torch_dtype" if "torch_dtype" in settings else "dtype"] = str(types.pop()).removeprefix("torch.")
    return settings
