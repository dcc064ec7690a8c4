"""The reference as a column: the numbers of a plain forward pass, made once, and made again when anything they depend on changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tempering import reference
from tempering.reference import COLUMN, cached
from tempering.signals import Engine
from tempering.types import Policy, Row
from tests.toy import toy_llama, toy_rows


@pytest.fixture
def pairs() -> Sequence[Row]:
    return toy_rows(5, ("chosen", "rejected"))


def test_it_holds_what_a_plain_forward_pass_gives(pairs: Sequence[Row], tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_llama()
    seen: list[tuple[int, int]] = []
    table = cached(Policy(model, None), pairs, Engine(), {"case": "plain"}, micro_tokens=40, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5) and len(seen) >= 3
    for row, given in zip(table, pairs, strict=True):
        for part, (segment,) in row.items():
            assert (segment.ids == given[part][0].ids).all() and (segment.weight == given[part][0].weight).all()
            ids = torch.as_tensor(segment.ids.copy(), dtype=torch.long)
            with torch.no_grad():
                logp_TV = F.log_softmax(model(ids[None]).logits[0], -1)
            plain = np.concatenate([[0.0], logp_TV[:-1].gather(1, ids[1:, None])[:, 0].numpy()])
            assert np.abs(segment.extras[COLUMN] - np.where(segment.weight != 0, plain, 0.0)).max() < 1e-5


def test_it_is_made_once_for_the_same_inputs_and_again_for_others(pairs: Sequence[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    compute = reference.compute
    monkeypatch.setattr(reference, "compute", lambda *a: passes.append(1) or compute(*a))
    policy = Policy(toy_llama(), None)
    first = cached(policy, pairs, Engine(), {"case": "once", "weights": "a"})
    count = len(passes)
    assert cached(policy, pairs, Engine(), {"case": "once", "weights": "a"}).fingerprint == first.fingerprint and len(passes) == count > 0
    cached(policy, pairs, Engine(), {"case": "once", "weights": "b"})
    assert len(passes) == 2 * count
    cached(policy, pairs, Engine(dtype=torch.bfloat16), {"case": "once", "weights": "a"})
    assert len(passes) == 3 * count
