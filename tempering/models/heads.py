"""A causal language model as body and head: token ids -> hidden states, and hidden states -> logits.

With the two apart the engine scores only the positions that carry weight, a chunk at a time, and the [tokens, vocabulary] logits never exist as a
whole. What a family does after its output layer (Gemma's soft-capping, Cohere's and Granite's scales) belongs to the head. No list of architectures
is trusted: the split is compared with the model's own forward pass on a few tokens, once per model, and where they differ there is no split.

Likewise `packs(model)` finds out by trying whether several samples in one row stay apart when only position ids separate them: transformers builds
the block-diagonal mask from position ids that restart at 0, for the families whose attention goes through its mask functions, and for those only.

The checks run in evaluation mode, without autocast, and touch no random state. Their verdicts, not the split itself, are kept on the model, so that
a deep copy of a model never computes with the original's modules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_SPLITS = "_tempering_splits"
_PACKS = "_tempering_packs"
_SEGMENTS = "_tempering_segments"
VERDICTS = (_SPLITS, _PACKS, _SEGMENTS)
"""Under which names a model keeps what was found out about it."""


@dataclass(frozen=True)
class Split:
    """`head(body(ids, positions))` are the model's logits. Both run the model's own modules, so adapters, dropout and hooks inside them act."""

    body: Callable[..., Tensor]
    """(input_ids [R, L], position_ids [R, L], **keywords of the model) -> hidden states [R, L, D], after the last norm; inputs_embeds [R, L, D] may
    take the place of input_ids."""
    head: Callable[[Tensor], Tensor]
    """hidden [..., D] -> logits [..., V], with soft-capping and scales."""
    plain: nn.Linear | None = None
    """The output layer, where the head is its weight alone: no bias, adapter, soft-capping, scale or hook."""
    inner: Any = None
    """The module behind `body`: called with output_hidden_states=True it gives those of every layer."""


def body_and_head(model: nn.Module) -> Split | None:
    """The model in two parts, or None where they would not add up to its own forward pass.

    Args:
        model: a transformers causal language model, plain or wrapped by PEFT. Cheap after the first call for a model.
    """
    split = _assemble(model)
    if split is None:
        return None
    if _SPLITS not in model.__dict__:
        model.__dict__[_SPLITS] = _agrees(model, split)
    return split if model.__dict__[_SPLITS] else None


def packs(model: nn.Module) -> bool:
    """Whether samples packed into one row, told apart by position ids alone, give what each gives alone.

    Args:
        model: called as `model(input_ids=, position_ids=, use_cache=False)`; returns an object with `.logits` or a tensor [R, L, ...]. Cheap after
            the first call for a model.
    """
    if _PACKS not in model.__dict__:
        model.__dict__[_PACKS] = _stays_apart(model)
    return model.__dict__[_PACKS]


def attends_by_segments(model: nn.Module) -> bool:
    """Whether the model's attention can be computed segment by segment with shared prefixes (attention.py), to the same logits.

    Args:
        model: as for `packs`. Cheap after the first call for a model.
    """
    if _SEGMENTS not in model.__dict__:
        model.__dict__[_SEGMENTS] = _same_by_segments(model)
    return model.__dict__[_SEGMENTS]


def _assemble(model: nn.Module) -> Split | None:
    from transformers import PreTrainedModel

    wrapper: Any = model
    causal: Any = model
    adapters = getattr(model, "peft_config", None)
    if adapters and hasattr(model, "get_base_model"):
        # Prompt learning and activated LoRA act in the wrapper's own forward pass, which the body would go around.
        if any(c.is_prompt_learning or getattr(c, "alora_invocation_tokens", None) for c in adapters.values()):
            return None
        causal = wrapper.get_base_model()
    if not isinstance(causal, PreTrainedModel):
        return None
    prefix = causal.base_model_prefix
    inner = getattr(causal, prefix, None) if prefix else None
    output = causal.get_output_embeddings()
    if inner is None or inner is causal or output is None or _hooked(model) or (causal is not model and _hooked(causal)):
        return None
    finish = _after_output(causal)

    def body(input_ids: Tensor | None = None, position_ids: Tensor | None = None, **keywords: Any) -> Tensor:
        keywords.setdefault("use_cache", False)
        return inner(input_ids=input_ids, position_ids=position_ids, **keywords).last_hidden_state

    def head(hidden: Tensor) -> Tensor:
        # Looked up at each call: PEFT may have put a wrapper in the place of the output layer since.
        output_layer: Any = causal.get_output_embeddings()
        return finish(output_layer(hidden))

    output: Any = causal.get_output_embeddings()
    plain = type(output) is nn.Linear and output.bias is None and not _hooked(output) and not _caps(causal)
    return Split(body, head, output if plain else None, inner)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _caps(causal: Any) -> bool:
    config = causal.config.get_text_config()
    return any(getattr(config, name, None) is not None for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"))


def _after_output(causal: Any) -> Callable[[Tensor], Tensor]:
    config = causal.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)
    multiply = getattr(config, "logit_scale", None)
    divide = getattr(config, "logits_scaling", None)

    def finish(logits: Tensor) -> Tensor:
        if multiply is not None:
            logits = logits * multiply
        if divide is not None:
            logits = logits / divide
        return torch.tanh(logits / cap) * cap if cap is not None else logits

    return finish


def _agrees(model: nn.Module, split: Split) -> bool:
    with _probing(model) as (device, vocabulary):
        ids = _ids(4, 1, vocabulary, device)
        positions = torch.arange(4, device=device).unsqueeze(0)
        try:
            whole = _logits(model, ids, positions)
            parts = split.head(split.body(ids, positions))
        # A family whose body wants other arguments or gives another output has no split; nothing else hangs on it.
        except (TypeError, ValueError, AttributeError, RuntimeError, KeyError, IndexError):
            return False
        return whole.shape == parts.shape and _close(whole, parts)


def _stays_apart(model: nn.Module) -> bool:
    with _probing(model) as (device, vocabulary):
        first, other, second = (_ids(n, seed, vocabulary, device) for n, seed in ((5, 1), (5, 2), (4, 3)))
        alone = torch.arange(5, device=device).unsqueeze(0)
        row = torch.cat([alone, alone[:, :4]], 1)
        try:
            packed = _logits(model, torch.cat([first, second], 1), row)
            leaked = _logits(model, torch.cat([other, second], 1), row)
            apart_first = _logits(model, first, alone)
            apart_second = _logits(model, second, alone[:, :4])
        # A model that takes no position ids cannot be packed; the padded layout is always right.
        except (TypeError, ValueError, AttributeError, RuntimeError, KeyError, IndexError):
            return False
        # What another sample's tokens change is a leak, however small: masked weights are exactly zero in every precision.
        if not torch.allclose(packed[:, 5:], leaked[:, 5:], rtol=0.0, atol=1e-6):
            return False
        return _close(packed[:, :5], apart_first) and _close(packed[:, 5:], apart_second)


def _same_by_segments(model: nn.Module) -> bool:
    from tempering import attention
    from tempering.forest import Plan, plant

    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if config is not None else None
    if getattr(config, "_attn_implementation", None) not in ("sdpa", attention.NAME):
        return False
    kinds = set(getattr(text, "layer_types", None) or ())
    if kinds - {"full_attention", "sliding_attention"}:
        return False
    with _probing(model) as (device, vocabulary), attention.segmented(model):
        start = _ids(20, 3, vocabulary, device)[0]
        segments = [torch.cat([start, _ids(n, seed, vocabulary, device)[0]]) for n, seed in ((5, 1), (4, 2))] + [_ids(6, 5, vocabulary, device)[0]]
        forest = plant([s.cpu().numpy() for s in segments])
        ids, position = (torch.from_numpy(x).to(device)[None] for x in (forest.ids_N, forest.position_N))
        seen: list[int | None] = []
        token = attention.SEEN.set(seen)
        try:
            with attention.planned():
                together = _logits(model, ids, position, **{attention.KEYWORD: Plan(forest.nodes)})[0, torch.from_numpy(forest.slot_T)]
            alone = torch.cat([_logits(model, s[None], torch.arange(len(s), device=device)[None])[0] for s in segments])
        # Another architecture, or a layer whose attention is more than softmax(q k) v: the other layouts are always right.
        except (TypeError, ValueError, AttributeError, RuntimeError, KeyError, IndexError):
            return False
        finally:
            attention.SEEN.reset(token)
        # A window that a layer keeps to itself (in a mask alone) would not show on so few tokens.
        windowed = "sliding_attention" in kinds if kinds else getattr(text, "sliding_window", None) is not None
        return bool(seen) and (any(w is not None for w in seen) or not windowed) and _close(together, alone)


def _logits(model: nn.Module, ids: Tensor, positions: Tensor, **keywords: Any) -> Tensor:
    out = model(input_ids=ids, position_ids=positions, use_cache=False, **keywords)
    return out if isinstance(out, Tensor) else out.logits


def _close(a: Tensor, b: Tensor) -> bool:
    # In half precision the two may take different kernels; a wrong split or a leak is off by the logits' own size.
    tolerance = 1e-4 if a.dtype in (torch.float32, torch.float64) else 5e-2
    return bool(((a - b).abs().max() <= tolerance * a.abs().max().clamp(min=1.0)).item())


def _ids(count: int, seed: int, vocabulary: int, device: torch.device) -> Tensor:
    return torch.tensor([[(7 * seed + 13 * i * seed + i) % vocabulary for i in range(count)]], device=device)


@contextlib.contextmanager
def _probing(model: nn.Module) -> Iterator[tuple[torch.device, int]]:
    """Evaluation mode without gradient and autocast; every module's own mode is put back. Yields the device and the size of the vocabulary."""
    embedding = next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)
    parameter = next(model.parameters(), None)
    device = embedding.weight.device if embedding is not None else parameter.device if parameter is not None else torch.device("cpu")
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield device, embedding.num_embeddings if embedding is not None else 16
    finally:
        for module in training:
            module.training = True
