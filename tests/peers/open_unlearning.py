"""Inputs on which losses of forgetting are compared with OpenUnlearning's trainers, and how its numbers in open_unlearning.json were made.

OpenUnlearning is no package, so its numbers are stored: github.com/locuslab/open-unlearning at d3d7cf9e6b3c125d16687d4232680d8d83548f1a, MIT license,

    git clone https://github.com/locuslab/open-unlearning && git -C open-unlearning checkout d3d7cf9e
    python -m tests.peers.open_unlearning open-unlearning

runs the very `compute_loss` of each trainer (src/trainer/unlearn/*.py, src/trainer/utils.py) in float64 on a model that is a table of logits by the
last token, so that a gradient is 49 numbers. Of their base class, transformers' Trainer, nothing runs in a loss: an empty class stands for it.
"""

from __future__ import annotations

import copy
import importlib
import json
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUMBERS = Path(__file__).with_suffix(".json")
VOCABULARY = 7
# By part: tokens of the prompt and of the answer of three rows; a shorter row is padded at its end.
LENGTHS = {"forget": [(2, 3), (1, 4), (3, 1)], "instead": [(2, 2), (1, 1), (3, 4)], "retain": [(1, 2), (2, 4), (3, 3)], "whole": [(1, 4)] * 3}


def table(kind: str) -> Tensor:
    """The policy's or the reference's logits [V, V]: next token given the last."""
    index = torch.arange(VOCABULARY**2, dtype=torch.float64)
    return ({"policy": 2.0, "reference": 1.7}[kind] * torch.sin((1.3 if kind == "policy" else 1.25) * index + 0.2)).reshape(VOCABULARY, VOCABULARY)


def rows(part: str) -> list[tuple[list[int], list[int]]]:
    """(tokens, 1 where a token is scored) of each row."""
    found = []
    for i, (prompt, answer) in enumerate(LENGTHS[part]):
        ids = [(3 * i + 2 * j * j + 5 * len(part) + j) % VOCABULARY for j in range(prompt + answer)]
        found.append((ids, [0] * prompt + [1] * answer))
    return found


def padded(part: str) -> dict[str, Tensor]:
    """The rows as a batch of theirs."""
    size = max(len(ids) for ids, _ in rows(part))
    ids = torch.tensor([ids + [0] * (size - len(ids)) for ids, _ in rows(part)])
    labels = torch.tensor([[t if w else -100 for t, w in zip(ids, scored, strict=True)] + [-100] * (size - len(ids)) for ids, scored in rows(part)])
    attention = torch.tensor([[1] * len(ids) + [0] * (size - len(ids)) for ids, _ in rows(part)])
    return {"input_ids": ids, "attention_mask": attention, "labels": labels}


@dataclass(frozen=True)
class Theirs:
    """A trainer of theirs, its settings, and the rows it gets."""

    module: str
    name: str
    settings: Mapping[str, Any]
    forget: str = "forget"
    instead: bool = False


MIXED = {"gamma": 0.5, "alpha": 2.0, "retain_loss_type": "NLL"}
THEIRS = {
    "gradient_ascent": Theirs("grad_ascent", "GradAscent", {}),
    "graddiff": Theirs("grad_diff", "GradDiff", MIXED),
    "npo": Theirs("npo", "NPO", {**MIXED, "beta": 0.3}),
    "simnpo": Theirs("simnpo", "SimNPO", {**MIXED, "beta": 2.5, "delta": 0.4}),
    "dpo": Theirs("dpo", "DPO", {**MIXED, "beta": 0.3}, instead=True),
    "wga": Theirs("wga", "WGA", {**MIXED, "beta": 1.5}),
    "satimp": Theirs("satimp", "SatImp", {**MIXED, "beta1": 5.0, "beta2": 1.0}),
    "ce_u": Theirs("ceu", "CEU", {"ignore_first_n_answer_tokens": 1}),
    "ce_u_all": Theirs("ceu", "CEU", {"ignore_first_n_answer_tokens": 0}),
    # Theirs also runs over prompt and padding, whose label -100 it takes for a token: only rows that are answer throughout can be compared.
    "undial": Theirs("undial", "UNDIAL", {**MIXED, "beta": 3.0}, forget="whole"),
    "pdu": Theirs(
        "pdu",
        "PDU",
        {"preferences": [0.5, 2.0], "retain_loss_eps": 0.4, "dual_step_size": 0.3, "primal_dual": True, "can_update": True}
        | {"retain_loss_type": "NLL", "dual_update_upon": "step", "loss_names": ["forget", "retain"], "log": print},
    ),
}


class Bigram(nn.Module):
    """A causal language model as theirs are called: logits and the mean cross-entropy of the labels."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.table = nn.Parameter(table(kind))

    def forward(self, input_ids: Tensor, labels: Tensor, attention_mask: Tensor) -> Any:
        logits = self.table[input_ids]
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return types.SimpleNamespace(logits=logits, loss=loss)


def run(peer: Theirs) -> dict[str, Any]:
    """Their loss and its gradient."""
    trainer = object.__new__(getattr(importlib.import_module(f"trainer.unlearn.{peer.module}"), peer.name))
    model = trainer.model = Bigram("policy")
    vars(trainer).update(copy.deepcopy(dict(peer.settings)), ref_model=Bigram("reference"))
    forget: Any = padded(peer.forget)
    if peer.instead:
        forget = {"original": forget, "alternate": padded("instead")}
    loss = trainer.compute_loss(model, {"forget": forget, "retain": padded("retain")})
    loss.backward()
    dual = {"next_retain_weight": trainer.preferences[1]} if peer.name == "PDU" else {}
    return {"loss": loss.item(), "gradient": model.table.grad.flatten().tolist(), **dual}  # type: ignore[union-attr]


def main(repository: str) -> None:
    """Write open_unlearning.json."""
    folder = Path(repository) / "src" / "trainer"
    for name, path in (("trainer", folder), ("trainer.unlearn", folder / "unlearn"), ("trainer.unlearn.base", None)):
        module = sys.modules[name] = types.ModuleType(name)
        module.__path__ = [str(path)] if path else []
    sys.modules["trainer.unlearn.base"].UnlearnTrainer = type("UnlearnTrainer", (), {})  # type: ignore[attr-defined]
    NUMBERS.write_text(json.dumps({name: run(peer) for name, peer in THEIRS.items()}, indent=None).replace('}, "', '},\n"') + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
