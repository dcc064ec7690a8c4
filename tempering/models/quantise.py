"""Base weights in 16, 8 or 4 bits, for adapters to be trained on (QLoRA, Dettmers et al. 2023, arXiv 2305.14314).

`bf16` keeps the weights of the linear layers in bfloat16, which is what most models are published in: then it is exact, and where matrices are
multiplied in bfloat16 nothing changes in any case, because there they are rounded at every use. bitsandbytes keeps them in fewer bits: `nf4` (16
levels at the quantiles of a normal distribution, one scale per 64 weights, the scales in 8 bits themselves) or `int8` (a scale per row; columns with
outliers stay exact, LLM.int8, arXiv 2208.07339). Embeddings, norms and the output layer stay as they are. Each layer's weights are expanded for the
moment they are used. What is quantised cannot be trained, nor can an adapter be folded into it without rounding the sum again: an adapter is saved as
one, and belongs to the unquantised base.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any, Literal

from tempering.errors import UserError

Quantise = Literal["none", "bf16", "nf4", "int8"]
BLOCK = 64
"""Weights that share a scale in nf4."""


def settings(kind: Quantise) -> dict[str, Any]:
    """Keywords for transformers' `from_pretrained`; {} for those that it does not do.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if kind in ("none", "bf16"):
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"quantise {kind!r} needs the package bitsandbytes: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    # It reports kernels that other machines would use, and every cast.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if kind == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    return {"quantization_config": config, "device_map": {"": "cpu"}}


def settle_layers(model: Any) -> None:
    """Let quantised layers compute the same in training and evaluation mode, where bitsandbytes (0.50) has them take other ways on a CPU.

    A 4-bit layer would turn to a form for inference alone in its first pass in evaluation mode, on some processors, and from then on no gradient
    goes through it, without a word. An 8-bit layer would round its inputs to 8 bits too in evaluation mode: a reference would differ from the policy
    that it is.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False
            # Multiply in whatever type the input has, so that autocast reaches these layers too.
            module.compute_dtype, module.compute_type_is_set = None, True
        elif type(module).__name__ == "Linear8bitLt":
            module.training = True
            module.train = lambda mode=True, module=module: module


def let_go(model: Any) -> None:
    """Copy the weights that were not quantised, so that the file they were read from need not stay mapped as a whole."""
    for p in model.parameters():
        if p.is_floating_point():
            p.data = p.data.clone()


def is_quantised(model: Any) -> bool:
    """Whether some weights of a model are whole numbers with scales."""
    return any(not p.is_floating_point() for p in model.parameters())
