"""SPUL: a soft prompt of new tokens; what trains, what it leaves alone, and the rows that carry it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempering.data import prompt_ids, with_template
from tempering.errors import UserError
from tempering.forgetting.battery import Prefixed
from tempering.methods.scopes.soft_prompt import SoftPrompt
from tempering.models import load, resize_tokens, save
from tempering.types import Message, Policy, Segment
from tests.conftest import make_llama, make_tokenizer

NAMES = [f"<|soft_{i}|>" for i in range(3)]


def prompted(tmp_path: Path) -> tuple[Policy, list[int], Any]:
    """(a policy with a trained soft prompt, its ids, the start's logits on a text)."""
    start = load(save(Policy(make_llama(tie_word_embeddings=True), make_tokenizer(), name="start"), tmp_path / "start"), say=lambda _: None)
    before = start.model(torch.tensor([[5, 6, 7]])).logits
    ids = resize_tokens(start, NAMES)
    start.tokenizer = with_template(start.tokenizer, "{{- '" + "".join(NAMES) + "' -}}" + start.tokenizer.chat_template)
    handle: Any = SoftPrompt(tokens=3, ids=tuple(ids)).attach(start.model)
    with torch.no_grad():
        for p in handle.params.values():
            p.add_(torch.randn_like(p))
    return Policy(handle.model, start.tokenizer, name="x", handle=handle), ids, before


def test_only_the_prompts_embeddings_train_and_without_it_nothing_changes(tmp_path: Path) -> None:
    policy, ids, before = prompted(tmp_path)
    assert policy.handle is not None
    assert sum(p.numel() for p in policy.handle.params.values()) == 3 * policy.model.config.hidden_size  # type: ignore[union-attr, operator]
    text = torch.tensor([[5, 6, 7]])
    # The head is a longer matrix now, which rounds otherwise; that is all.
    assert torch.allclose(policy.model(text).logits[..., : before.shape[-1]], before, atol=1e-6), "without the prompt the old logits"
    with_it = policy.model(torch.tensor([[*ids, 5, 6, 7]])).logits[:, 3:, : before.shape[-1]]
    assert not torch.allclose(with_it, before, atol=1e-3)


def test_it_stands_in_the_chat_template_and_is_saved(tmp_path: Path) -> None:
    policy, ids, _ = prompted(tmp_path)
    asked = prompt_ids(policy.tokenizer, [Message("user", "who is it")])
    assert asked[:3] == ids and not set(asked[3:]) & set(ids)
    again = load(save(policy, tmp_path / "out"), say=lambda _: None)
    assert prompt_ids(again.tokenizer, [Message("user", "who is it")]) == asked
    assert torch.equal(again.model(torch.tensor([asked])).logits, policy.model(torch.tensor([asked])).logits)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}


def test_rows_carry_it_in_front_and_their_targets_stay_the_same() -> None:
    s = Segment(np.array([5, 6, 7], dtype=np.int32), np.array([0, 0.5, 1], dtype=np.float32), {"label": 1.0}, "a:1")
    rows = Prefixed([{"retain": (s,)}, {"retain": (s, s)}], [91, 92], {"retain": "bare", "forget": "was"})
    assert len(rows) == 2 and set(rows[0]) == {"retain", "bare"}
    longer = rows[1]["retain"][1]
    assert longer.ids.tolist() == [91, 92, 5, 6, 7] and longer.weight.tolist() == [0, 0, 0, 0.5, 1]
    assert rows[1]["bare"] == (s, s) and longer.extras == {"label": 1.0} and longer.source == "a:1"
    assert longer.ids[longer.weight != 0].tolist() == s.ids[s.weight != 0].tolist()


def test_the_scope_alone_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="only `temper run spul` puts there"):
        SoftPrompt().attach(make_llama())
