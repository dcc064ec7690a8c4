"""What the checks run on: small random models and rows, and every setting of the engine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, get_args

VOCAB = 61


class NotHere(Exception):
    """This machine, or this version, lacks what the check needs; the message says what."""


@dataclass(frozen=True)
class Bench:
    """What the checks run on: a torch device, and whether everything is tiny."""

    device: Any
    small: bool

    def model(self, *, layers: int = 2, seed: int = 0) -> Any:
        """A random Llama in float32 on the processor, small enough for any machine."""
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        width = 32 if self.small else 256
        config = LlamaConfig(
            vocab_size=VOCAB, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=512, initializer_range=0.1, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return LlamaForCausalLM(config).eval()

    def big(self) -> Any:
        """A random Llama of 1.2 billion weights, made on the device; a tiny one where everything is small."""
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        if self.small:
            return self.model()
        config = LlamaConfig(
            vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
            max_position_embeddings=4096, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        torch.manual_seed(0)
        with torch.device(self.device):
            return LlamaForCausalLM(config)

    def rows(self, number: int, parts: tuple[str, ...] = ("train",), *, longest: int = 40, vocabulary: int = VOCAB) -> list[Any]:
        """Random rows; the parts of a row share a prompt."""
        import numpy as np

        from tempering.types import Segment

        rng = np.random.default_rng(0)
        rows = []
        for _ in range(number):
            prompt, row = rng.integers(3, vocabulary, int(rng.integers(1, longest // 2))), {}
            for part in parts:
                answer = rng.integers(3, vocabulary, int(rng.integers(1, longest // 2 + 1)))
                weight = np.repeat([0.0, 1.0], [len(prompt), len(answer)]).astype(np.float32)
                row[part] = (Segment(np.concatenate([prompt, answer]).astype(np.int32), weight),)
            rows.append(row)
        return rows


def engines(device: Any, dtype: Any) -> Iterator[tuple[str, Any]]:
    """(name, engine) for every layout and every setting of the engine's switches."""
    from tempering.layout import LayoutKind
    from tempering.signals import Engine

    switches = [field.name for field in fields(Engine) if field.type in (bool, "bool")]
    for kind in get_args(LayoutKind):
        for on in itertools.product((True, False), repeat=len(switches)):
            chosen: dict[str, Any] = dict(zip(switches, on, strict=True))
            yield ",".join([kind, *(f"{name}={value}".lower() for name, value in chosen.items())]), Engine(kind, dtype, device, **chosen)
