"""Losses on answers against peers: TRL's SFT loss types, transformers' label smoother through TRL, and torch's functions on plain logits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tempering.methods.objectives.dft import DFT
from tempering.methods.objectives.focal import Focal
from tempering.methods.objectives.label_smoothing import LabelSmoothing
from tempering.methods.objectives.nll import NLL
from tempering.types import Objective, Row
from tests.conftest import make_llama
from tests.peers.harness import Step, assert_same, check_trl, gradients, our_step, trl_step

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("layout", ["segments", "packed", "padded"])
def test_dft_equals_trl_s(tmp_path: Path, layout: str) -> None:
    check_trl("sft", DFT(), tmp_path, layout=layout, micro=60, loss_type="dft")


def test_cross_entropy_equals_trl_s_chunked_one(tmp_path: Path) -> None:
    check_trl("sft", NLL(), tmp_path, loss_type="chunked_nll")


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
@pytest.mark.parametrize("layout", ["segments", "padded"])
def test_label_smoothing_equals_transformers_s_in_trl(tmp_path: Path, epsilon: float, layout: str) -> None:
    check_trl("sft", LabelSmoothing(epsilon=epsilon), tmp_path, layout=layout, micro=60, label_smoothing_factor=epsilon)


def on_logits(loss: Callable[[Tensor, Tensor, Tensor], Tensor], rows: list[Row]) -> Step:
    """A plain function of logits [N, V], targets [N] and weights [N] of all scored tokens."""
    model = copy.deepcopy(make_llama(seed=1))
    logits, targets, weights = [], [], []
    for row in rows:
        for segment in row["train"]:
            ids, weight = torch.as_tensor(segment.ids, dtype=torch.long), torch.as_tensor(segment.weight)
            found = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
            logits.append(found[weight[1:] != 0])
            targets.append(ids[1:][weight[1:] != 0])
            weights.append(weight[1:][weight[1:] != 0])
    value = loss(torch.cat(logits), torch.cat(targets), torch.cat(weights))
    value.backward()
    return Step(value.item(), gradients(model), {}, tuple(rows))


def _focal(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """From probabilities, as in the paper's equation 4; torch has none."""
    p = logits.softmax(-1).gather(1, targets[:, None])[:, 0]
    return (F.nll_loss(logits.log_softmax(-1), targets, reduction="none") * (1 - p) ** 3).mean()


PEERS: dict[str, tuple[Objective, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "label_smoothing": (LabelSmoothing(epsilon=0.2), lambda z, y, w: F.cross_entropy(z, y, label_smoothing=0.2)),
    "focal": (Focal(gamma=3.0), _focal),
    "token weights": (NLL(), lambda z, y, w: (w * F.cross_entropy(z, y, reduction="none")).sum() / w.sum()),
}


@pytest.mark.parametrize("name", PEERS)
def test_losses_equal_torch_s_on_logits(tmp_path: Path, name: str) -> None:
    objective, loss = PEERS[name]
    rows = list(trl_step("sft", tmp_path, make_llama(seed=1)).rows)
    if name == "token weights":
        for i, row in enumerate(rows):
            row["train"][0].weight[:] *= 0.5 + i
    assert_same(our_step(objective, rows, make_llama(seed=1), micro=60), on_logits(loss, rows), tolerance=2e-5)
