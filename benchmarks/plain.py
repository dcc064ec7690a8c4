"""What a careful user writes without a training library: a plain PyTorch loop, and transformers' `generate`.

The loop does what costs nothing to do well: the rows of a step sorted by length and cut into micro-batches by their padded size, the output head on
scored tokens only, no attention mask (padding stands on the right, where causal attention never looks), autocast, fused AdamW.
"""

from __future__ import annotations

from typing import Any

from benchmarks import inputs, judge, precision
from benchmarks.child import Meter
from benchmarks.settings import CLIP, LR


def sft(path: str, rows: int, per_step: int, max_length: int, seed: int, micro_tokens: int = 2048) -> dict[str, Any]:
    """Full supervised fine-tuning."""
    meter = Meter()
    import torch
    import transformers
    from torch.nn.functional import cross_entropy

    meter.imported()
    data = inputs.read(path, seed)
    plan = inputs.by_step(data["rows"], per_step)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(data["model"], dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, fused=True)
    model.train()
    meter.start()
    for step in plan:
        scored = inputs.sft_scored(step)
        for batch in _micro_batches(step, micro_tokens):
            width = max(len(row["ids"]) for row in batch)
            ids = torch.tensor([row["ids"] + [0] * (width - len(row["ids"])) for row in batch])
            mask = torch.tensor([row["mask"] + [0] * (width - len(row["mask"])) for row in batch], dtype=torch.bool)
            with precision.autocast():
                hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][mask[:, 1:]]
                logits = model.lm_head(hidden)
            loss = cross_entropy(logits.float(), ids[:, 1:][mask[:, 1:]], reduction="sum") / scored
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        meter.step()
    loss, judging_s = judge.nll(model, data["held"])
    tokens = [inputs.sft_tokens(step) for step in plan]
    return meter.report(tokens=tokens, scored=inputs.sft_scored(data["rows"]), rows=len(data["rows"]), loss=loss, judging_s=judging_s)


def _micro_batches(rows: list[dict[str, Any]], micro_tokens: int) -> list[list[dict[str, Any]]]:
    """Rows by length, as many together as fit when padded to the longest."""
    found: list[list[dict[str, Any]]] = []
    for row in sorted(rows, key=lambda row: -len(row["ids"])):
        if found and (len(found[-1]) + 1) * len(found[-1][0]["ids"]) <= micro_tokens:
            found[-1].append(row)
        else:
            found.append([row])
    return found


def sampling(path: str, prompts: int, shortest: int, longest: int, seed: int, batch: int = 16) -> dict[str, Any]:
    """Greedy `generate`, requests sorted by how many tokens they want; only the tokens that were asked for count."""
    meter = Meter()
    import torch
    import transformers

    meter.imported()
    data = inputs.read(path, seed)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(data["model"], dtype=precision.torch_dtype()).eval()
    # No end token: every request makes exactly the tokens it asks for, whoever decodes.
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    requests = sorted(data["rows"], key=lambda row: -row["new"])

    def generate(group: list[dict[str, Any]], new: int) -> int:
        width = max(len(row["ids"]) for row in group)
        ids = torch.tensor([[0] * (width - len(row["ids"])) + row["ids"] for row in group])
        mask = torch.tensor([[0] * (width - len(row["ids"])) + [1] * len(row["ids"]) for row in group])
        return model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False).shape[1] - width

    generate(requests[:1], 4)
    meter.start()
    made = 0
    for start in range(0, len(requests), batch):
        group = requests[start : start + batch]
        made += min(generate(group, group[0]["new"]), group[0]["new"]) and sum(row["new"] for row in group)
    meter.step()
    return meter.report(tokens=[made], scored=made, rows=len(requests))
