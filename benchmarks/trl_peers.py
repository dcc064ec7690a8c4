"""TRL 1.16.0 at its best on a CPU, as far as its own settings go.

What was chosen for it, and why:

- `use_cpu`, `bf16=True` where the processor has instructions for it: autocast over float32 weights, as ours.
- `optim="adamw_torch_fused"`, the fastest AdamW of torch on a CPU too.
- `gradient_checkpointing=False`: TRL's default recomputes activations, which costs a fifth to a third of the time.
- The data loader in the main process and without pinned memory: the rows are tokenised already, workers would take a core from the matrix products.
- `train_sampling_strategy="sequential"`: the rows arrive in the order of the round's seed, the same for every contender.
- Rows come as ids and labels, so that no time of TRL's goes into tokenising. DPOTrainer takes text only; its preparation is replaced by the ids.
- The loss: TRL 1.16 computes log-probs in chunks without the whole logits by itself; `loss_type="chunked_nll"` is an alias of the default.
- No Liger kernels: they are Triton, for GPUs, and TRL deprecates the switch. No FlashAttention on a CPU: packing runs on torch's SDPA.
- Nothing is logged, saved or evaluated but the loss of each step.

Several settings of the micro-batch, of packing and of sampling by length are tried in the first round; the fastest goes on.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

from benchmarks import inputs, judge, precision
from benchmarks.child import Meter
from benchmarks.settings import CLIP, LR, LR_DPO, LR_LORA, LR_POLICY, SAMPLES, reward


def _common(**more: Any) -> dict[str, Any]:
    """Settings of every trainer."""
    return {
        "output_dir": tempfile.gettempdir(),
        "use_cpu": True,
        "bf16": precision.name() == "bf16",
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "max_grad_norm": CLIP,
        "lr_scheduler_type": "constant",
        "gradient_checkpointing": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "num_train_epochs": 1,
    } | more


def _timer(meter: Meter) -> Any:
    """A callback that marks the start of training and the end of each optimizer step."""
    from transformers import TrainerCallback

    class Timer(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            meter.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            meter.step()

    return Timer()


def sft(
    path: str, rows: int, per_step: int, max_length: int, seed: int, batch: int = 4, pack: int = 0, order: str = "sequential", rank: int = 0
) -> dict[str, Any]:
    """SFTTrainer: `batch` rows (or packs) in a forward pass; `pack` is the length of packed sequences, 0 pads."""
    meter = Meter()
    import torch
    import transformers
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer, pack_dataset

    meter.imported()
    data = inputs.read(path, seed)
    plan = inputs.by_step(data["rows"], per_step)
    labels = [[i if m else -100 for i, m in zip(r["ids"], r["mask"], strict=True)] for r in data["rows"]]
    dataset = Dataset.from_dict({"input_ids": [r["ids"] for r in data["rows"]], "labels": labels})
    accumulate = max(1, per_step // batch)
    if pack:
        # As many optimizer steps as the others take, so that a step has as many rows on average.
        passes = -(-len(pack_dataset(dataset, pack, "bfd")) // batch)
        accumulate = -(-passes // len(plan))
        if -(-passes // accumulate) != len(plan):
            raise ValueError(f"{passes} forward passes of packs cannot be cut into {len(plan)} optimizer steps of equal size")
    args = SFTConfig(
        **_common(
            learning_rate=LR_LORA if rank else LR, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulate, seed=seed,
            max_length=pack or max_length, packing=bool(pack), packing_strategy="bfd", train_sampling_strategy=order,
        )
    )  # fmt: skip
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(data["model"], dtype=torch.float32)
    adapters = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM") if rank else None
    tokenizer = transformers.AutoTokenizer.from_pretrained(data["model"])
    trainer = SFTTrainer(model, args=args, train_dataset=dataset, processing_class=tokenizer, peft_config=adapters, callbacks=[_timer(meter)])
    collate, sizes = trainer.data_collator, []

    def counting(rows: list[dict[str, Any]]) -> Any:
        sizes.append(sum(len(row["input_ids"]) for row in rows))
        return collate(rows)

    trainer.data_collator = counting
    trainer.train()
    tokens = [sum(step) for step in inputs.by_step(sizes, accumulate)]
    loss, judging_s = judge.nll(trainer.model, data["held"])
    scored = sum(label != -100 for row in trainer.train_dataset["labels"] for label in row)
    return meter.report(tokens=tokens, scored=scored, rows=len(data["rows"]), loss=loss, judging_s=judging_s)


def dpo(path: str, rows: int, per_step: int, max_length: int, min_prompt: int, seed: int, batch: int = 2, precompute: bool = False) -> dict[str, Any]:
    """DPOTrainer on all weights: `batch` pairs in a forward pass; the reference beside the policy, or computed before training."""
    meter = Meter()
    import torch
    import transformers
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    ahead_s = [0.0]

    class OnIds(DPOTrainer):
        """Rows that are ids already stay as they are; the seconds of a reference that is computed ahead are noted."""

        def _prepare_dataset(self, dataset: Any, *others: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, *args: Any) -> Any:
            began = time.perf_counter()
            found = super()._precompute_ref_logps(*args)
            ahead_s[0] += time.perf_counter() - began
            return found

    meter.imported()
    data = inputs.read(path, seed)
    plan = inputs.by_step(data["rows"], per_step)
    columns = {f"{name}_ids": [row[name] for row in data["rows"]] for name in ("prompt", "chosen", "rejected")}
    args = DPOConfig(
        **_common(
            learning_rate=LR_DPO, per_device_train_batch_size=batch, gradient_accumulation_steps=per_step // batch, seed=seed, beta=0.1,
            max_length=max_length, train_sampling_strategy="sequential", precompute_ref_log_probs=precompute,
        )
    )  # fmt: skip
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(data["model"], dtype=torch.float32)
    reference: Any = None if precompute else transformers.AutoModelForCausalLM.from_pretrained(data["model"], dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(data["model"])
    trainer = OnIds(
        model, ref_model=reference, args=args, train_dataset=Dataset.from_dict(columns), processing_class=tokenizer, callbacks=[_timer(meter)]
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tokens = [inputs.pair_tokens(step) for step in plan]
    return meter.report(tokens=tokens, scored=inputs.pair_scored(data["rows"]), rows=len(data["rows"]), loss=losses[-1], ahead_s=ahead_s[0])


def grpo(path: str, prompts: int, shortest: int, longest: int, seed: int, batch: int = 16) -> dict[str, Any]:
    """One step of GRPOTrainer: every sample generated in one batch, then trained on `batch` at a time.

    No KL term (TRL's default), one update a batch of samples, so that the old log-probs are the step's own and need no pass of their own. Generation
    stays with `generate`: the continuous-batching switch turns the float32 weights themselves into bfloat16, and there is no vLLM on this machine.
    """
    meter = Meter()
    import torch
    import transformers
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    meter.imported()
    data, made = inputs.read(path, seed), [0]

    def vowels(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        made[0] += sum(len(ids) for ids in completion_ids)
        return [reward(text) for text in completions]

    args = GRPOConfig(
        **_common(
            learning_rate=LR_POLICY, per_device_train_batch_size=batch, gradient_accumulation_steps=prompts * SAMPLES // batch, seed=seed,
            max_steps=1, num_generations=SAMPLES, max_completion_length=longest, temperature=1.0, beta=0.0, epsilon=0.2, loss_type="dapo",
        )
    )  # fmt: skip
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(data["model"], dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(data["model"])
    trainer = GRPOTrainer(
        model, reward_funcs=vowels, args=args, train_dataset=Dataset.from_list([{"prompt": row["text"]} for row in data["rows"]]),
        processing_class=tokenizer, callbacks=[_timer(meter)],
    )  # fmt: skip
    trainer.train()
    return meter.report(tokens=[made[0]], scored=made[0], rows=len(data["rows"]) * SAMPLES)
