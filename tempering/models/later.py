"""A model whose weights are still in its files: each process of a run reads no more than the pieces that it will hold.

Built from its config, every weight is a zero that is spread over the weight's shape, in 4 bytes: adapters can be put on it, nothing can be computed
with it. Before it is cut (`release`), the spread zeros become tensors without storage; after it, `read` fills the pieces from the safetensors files,
through torch.distributed.checkpoint, which reads slices. What transformers does on loading beyond reading weights by their names (converting,
merging, dropping some) is not done here: where the names in the files are not the model's own, `build` gives None and the caller loads as always.
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tempering.errors import UserError

_KEY, _FOLDER, _NAMES = "tempering_key", "_tempering_later", "_tempering_later_names"


def build(folder: Path, dtype: torch.dtype) -> Any | None:
    """The causal language model of a folder without its weights; None where reading them is more than looking up their names.

    Raises:
        UserError: the folder's config is of no causal language model.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    try:
        stored = shapes(folder)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if getattr(config, "quantization_config", None) is not None:
            return None
        # Buffers (rotary frequencies) are computed as ever.
        with init_empty_weights(include_buffers=False):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
        model.tie_weights()
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"the model in {folder} does not load: {str(error).strip().splitlines()[0]}; fetch or save the model again.") from error
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters()}
    others = model.state_dict().keys() - wanted.keys()
    # A buffer or a second name of a tied weight among the stored: transformers decides what becomes of it.
    if any(stored.get(name) != shape for name, shape in wanted.items()) or others & stored.keys():
        return None
    if any(b.is_meta for b in model.buffers()) or {name for name, _ in model.named_buffers()} & model.state_dict().keys():
        return None
    zeros: dict[int, nn.Parameter] = {}
    for name, p in model.named_parameters():
        zeros[id(p)] = nn.Parameter(torch.zeros((), dtype=dtype).expand(p.shape), p.requires_grad)
        setattr(zeros[id(p)], _KEY, name)
    _replace(model, zeros)
    model.__dict__[_FOLDER] = str(folder)
    model.register_forward_pre_hook(_refuse)
    return model.eval()


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """name -> shape of every tensor in a folder's safetensors files, from their headers alone."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        found |= {name: tuple(about["shape"]) for name, about in header.items() if name != "__metadata__"}
    return found


def waits(model: nn.Module) -> bool:
    """Whether a model, perhaps under PEFT, still has its weights in files."""
    return any(_FOLDER in m.__dict__ for m in _wrapped(model))


def release(model: nn.Module, device: torch.device) -> None:
    """Before a model is copied and cut: its spread zeros become tensors without storage, everything else goes to the device."""
    for m in _wrapped(model):
        m._forward_pre_hooks.clear()
    names = {name: key for name, p in model.named_parameters() if (key := getattr(p, _KEY, None))}
    model.__dict__[_NAMES] = {**model.__dict__.get(_NAMES, {}), **names}
    _replace(model, {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters() if hasattr(p, _KEY)})
    model._apply(lambda t: t if t.is_meta else t.to(device))


def stand_in(model: nn.Module) -> nn.Module | None:
    """A small model of the same kind with weights: one layer of each sort and few tokens. What holds for it in how it computes holds for the other.

    None where the family cannot be made so small.
    """
    *_, inner = _wrapped(model)
    made: Any = type(inner)
    config: Any = copy.deepcopy(inner.config)
    text = config.get_text_config()
    kinds = list(getattr(text, "layer_types", None) or [])
    text.num_hidden_layers = next((n for n in range(1, len(kinds) + 1) if set(kinds[:n]) == set(kinds)), 1)
    if kinds:
        text.layer_types = kinds[: text.num_hidden_layers]
    text.vocab_size = min(text.vocab_size, 512)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, None)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return made(config).eval()
    except (ValueError, TypeError, AttributeError, RuntimeError, IndexError):
        return None


def read(model: nn.Module) -> None:
    """Fill the pieces that this process holds of a released and cut model, on their own device. Each process reads by itself."""
    from tempering import checkpoint

    names = model.__dict__.pop(_NAMES)
    folder = next(m.__dict__[_FOLDER] for m in _wrapped(model) if _FOLDER in m.__dict__)
    into: dict[str, Tensor] = {names[name]: p.detach() for name, p in model.named_parameters() if name in names}
    checkpoint.read(Path(folder), into)
    for m in _wrapped(model):
        m.__dict__.pop(_FOLDER, None)


def _wrapped(model: nn.Module) -> Iterator[nn.Module]:
    yield model
    if hasattr(model, "peft_config"):
        yield model.get_base_model()  # type: ignore[operator]


def _replace(model: nn.Module, new: dict[int, nn.Parameter]) -> None:
    for module in model.modules():
        for attribute, p in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(p) in new:
                setattr(module, attribute, new[id(p)])


def _refuse(module: nn.Module, arguments: Any) -> None:
    raise RuntimeError("this model's weights are still in its files; they are read when several processes train it")
