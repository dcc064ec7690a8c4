"""Models of transformers taken apart into blocks and put together again. What an architecture calls its layers stands here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from tempering.errors import UserError
from tempering.reshapes import Axis, Body

Axes = tuple[Axis | None, ...]
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class _Names:
    """Where things are in an architecture's tree of modules."""

    blocks: str
    linear: Mapping[str, Axes]
    """A block's linear layers and what their rows and columns count."""
    norms: tuple[str, ...]
    """A block's norms over the stream."""
    embedding: str
    last: str
    kept: tuple[str, ...] = ()
    """A block's other modules, whose size is that of one head."""


_LINEAR: dict[str, Axes] = {f"self_attn.{name}_proj": ("group", "hidden") for name in "qkv"}
_LINEAR |= {"self_attn.o_proj": ("hidden", "group"), "mlp.gate_proj": ("neuron", "hidden"), "mlp.up_proj": ("neuron", "hidden")}
_LINEAR |= {"mlp.down_proj": ("hidden", "neuron")}
_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
_LLAMA = _Names("model.layers", _LINEAR, _NORMS, "model.embed_tokens", "model.norm", ("self_attn.q_norm", "self_attn.k_norm"))
_NEOX = _Names(
    "gpt_neox.layers",
    {
        # One matrix for queries, keys and values, head by head.
        "attention.query_key_value": ("group", "hidden"),
        "attention.dense": ("hidden", "group"),
        "mlp.dense_h_to_4h": ("neuron", "hidden"),
        "mlp.dense_4h_to_h": ("hidden", "neuron"),
    },
    ("input_layernorm", "post_attention_layernorm"),
    "gpt_neox.embed_in",
    "gpt_neox.final_layer_norm",
)
_GEMMA = ("gemma", "gemma2", "gemma3_text")
NAMES = dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3", *_GEMMA), _LLAMA) | {"gpt_neox": _NEOX}
"""Architectures by the `model_type` of their config."""


def names_of(model: Any) -> _Names:
    """An architecture's names.

    Raises:
        UserError: it is not known here.
    """
    kind = getattr(model.config, "model_type", type(model).__name__)
    if kind not in NAMES:
        raise UserError(f"models of type {kind!r} cannot be reshaped yet; it is known where things are in {', '.join(NAMES)}")
    return NAMES[kind]


def taken(model: Any) -> Body:
    """A model's weights by block. They are the model's own, not copies.

    Args:
        model: of transformers, plain weights.
    Raises:
        UserError: an architecture that is not known, or one with weights beside those that are.
    """
    names, config = names_of(model), model.config.to_dict()
    axes: dict[str, Axes] = {}
    for name, counts in names.linear.items():
        axes |= {f"{name}.weight": counts, f"{name}.bias": counts[:1]}
    axes |= {f"{name}.{part}": ("hidden",) for name in (*names.norms, names.last) for part in ("weight", "bias")}
    axes |= {f"{name}.weight": (None,) for name in names.kept}
    axes |= {f"{names.embedding}.weight": (None, "hidden"), HEAD: (None, "hidden")}
    outer: dict[str, Tensor] = {}
    blocks: list[dict[str, Tensor]] = [{} for _ in range(config["num_hidden_layers"])]
    for name, tensor in model.state_dict().items():
        if name == HEAD and config.get("tie_word_embeddings"):
            continue
        inside, short = outer, name
        if name.startswith(f"{names.blocks}."):
            number, _, short = name.removeprefix(f"{names.blocks}.").partition(".")
            inside = blocks[int(number)]
        if short not in axes:
            raise UserError(f"the model has a weight {name} that this {config['model_type']} is not known to have, so it cannot be reshaped")
        inside[short] = tensor
    sizes: dict[Axis, int] = {"hidden": config["hidden_size"], "neuron": config["intermediate_size"]}
    sizes["group"] = config.get("num_key_value_heads") or config["num_attention_heads"]
    gemma = config["model_type"] in _GEMMA
    return Body(config, outer, tuple(blocks), axes, sizes, 0.0 if gemma else 1.0, gemma)


def built(body: Body, like: Any) -> Any:
    """A new model with these weights, of the type and generation settings of another, and of its class unless the config names another kind of model.
    The other one is left as it is.

    Raises:
        UserError: the sizes that were asked for are none that the architecture has.
    """
    names = names_of(like)
    state = dict(body.outer)
    if body.config.get("tie_word_embeddings"):
        state[HEAD] = state[f"{names.embedding}.weight"]
    state |= {f"{names.blocks}.{i}.{name}": tensor for i, block in enumerate(body.blocks) for name, tensor in block.items()}
    try:
        # Of a plan's weights, which have shapes alone, comes such a model.
        with torch.random.fork_rng(devices=[]), next(iter(state.values())).device:
            made = _empty(dict(body.config), like).to(like.dtype)
        made.load_state_dict(state)
    except (RuntimeError, ValueError, StrictDataclassError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise UserError(f"there is no {body.config['model_type']} of this shape: {reason}") from error
    made.generation_config = like.generation_config
    return made.eval()


def _empty(config: dict[str, Any], like: Any) -> Any:
    if config["model_type"] == like.config.model_type:
        return type(like)(type(like.config).from_dict(config))
    from transformers import AutoConfig, AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
