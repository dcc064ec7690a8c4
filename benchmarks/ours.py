"""The contender: all that the benchmarks call of tempering, through what a recipe would use."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, cast

from benchmarks import inputs, judge, precision
from benchmarks.child import Meter
from benchmarks.settings import CLIP, LR, LR_DPO, LR_LORA, LR_POLICY, SAMPLES, reward
from tempering.types import Message, Parts, Policy, Record, Role, Row, Run, Segment

MODEL = "builtin:smollm2-135m"


def _quiet(_: str) -> None:
    pass


# --------------------------------------------------------------------------------------------------------------------------------------- inputs


def _records(names: Sequence[str], stand_in: str) -> list[list[Any]]:
    """Records of each file of the real data, or of a set made for the project where the real data is missing (results say which)."""
    from tempering.data import read
    from tempering.worlds.demo import demo_records

    if not all((inputs.SHARED / "data" / name).exists() for name in names):
        return [list(demo_records(stand_in))]
    return [list(islice(read(str(inputs.SHARED / "data" / name), say=_quiet), 1500)) for name in names]


def _alternate(groups: Sequence[Sequence[Any]], count: int) -> list[Any]:
    """`count` items, taken from the groups in turn."""
    found: list[Any] = []
    for turn in zip(*(group[: -(-count // len(groups))] for group in groups), strict=False):
        found += turn
    if len(found) < count:
        raise SystemExit(f"the data gives {len(found)} usable rows, the benchmark asks for {count}: lower --rows or put the real data in place")
    return found[:count]


def _folder() -> str:
    from tempering.models.places import find

    return str(find(MODEL, _quiet).folder)


def prepare_sft(path: str, rows: int, per_step: int, max_length: int, held: int = 8) -> dict[str, Any]:
    """Alpaca and GSM8K in turn, as conversations in the model's template, assistant tokens scored."""
    from tempering.data import sft_row
    from tempering.models.load import load_tokenizer

    tokenizer, names = load_tokenizer(MODEL, say=_quiet), ("alpaca/alpaca_slice.jsonl.gz", "gsm8k/train.jsonl.gz")
    groups = []
    for records in _records(names, "builtin:demo"):
        made = (sft_row(record, tokenizer, max_length=max_length) for record in records)
        segments = (row["train"][0] for row in made if row is not None)
        found = [{"ids": s.ids.tolist(), "mask": [int(w > 0) for w in s.weight]} for s in segments]
        groups.append(found[: (rows + held) // 2 + 1] if len(found) > rows else found)
    chosen = _alternate(groups, rows + held)
    inputs.write(path, rows=chosen[:rows], held=chosen[rows:], model=_folder())
    used = list(names) if len(groups) == 2 else ["builtin:demo"]
    return {"facts": {"data": used, "max_length": max_length, "rows_per_step": per_step, "work": inputs.sft_work(chosen[:rows])}}


def prepare_pairs(path: str, rows: int, per_step: int, max_length: int, min_prompt: int) -> dict[str, Any]:
    """Pairs of UltraFeedback and of the DPO demo set in turn whose prompt, which both answers share, has at least `min_prompt` tokens."""
    from tempering.data import pair_row
    from tempering.models.load import load_tokenizer

    tokenizer, names = load_tokenizer(MODEL, say=_quiet), ("ultrafeedback/train_clean.jsonl.gz", "dpo_demo/dpo_en_demo.jsonl.gz")
    groups = []
    for records in _records(names, "builtin:demo-pairs"):
        made = (pair_row(record, tokenizer, max_length=max_length) for record in records)
        found = [_pair(row) for row in made if row is not None]
        groups.append([pair for pair in found if len(pair["prompt"]) >= min_prompt] or found)
    chosen = _alternate(groups, rows)
    inputs.write(path, rows=chosen, model=_folder())
    tokens = inputs.pair_tokens(chosen)
    facts = {"data": list(names) if len(groups) == 2 else ["builtin:demo-pairs"], "max_length": max_length, "rows_per_step": per_step}
    facts |= {"work": inputs.pair_work(chosen), "tokens": tokens, "prompt_share": round(2 * sum(len(r["prompt"]) for r in chosen) / tokens, 3)}
    return {"facts": facts}


def _pair(row: Any) -> dict[str, Any]:
    """Prompt and answers of a pair; what follows the last scored token is left out, since TRL scores all that follows the prompt."""
    sides = {}
    for part in ("chosen", "rejected"):
        (segment,) = row[part]
        scored = segment.weight.nonzero()[0]
        first, last = int(scored[0]), int(scored[-1])
        sides |= {"prompt": segment.ids[:first].tolist(), part: segment.ids[first : last + 1].tolist()}
    return sides


def prepare_prompts(path: str, prompts: int, shortest: int, longest: int, max_length: int = 256) -> dict[str, Any]:
    """Prompts of Alpaca and GSM8K with the number of new tokens to make for each: evenly from `shortest` to `longest`, shuffled."""
    import random

    from tempering.data import prompt_ids
    from tempering.models.load import load_tokenizer

    tokenizer, names = load_tokenizer(MODEL, say=_quiet), ("alpaca/alpaca_slice.jsonl.gz", "gsm8k/train.jsonl.gz")
    groups = []
    for records in _records(names, "builtin:demo"):
        found = (([int(t) for t in prompt_ids(tokenizer, record.prompt)], record.prompt) for record in records)
        groups.append(
            [
                {"ids": ids, "text": tokenizer.decode(ids), "messages": [(message.role, message.content) for message in prompt]}
                for ids, prompt in found
                if len(ids) <= max_length
            ]
        )
    rows = _alternate(groups, prompts)
    lengths = [round(shortest + (longest - shortest) * i / max(1, prompts - 1)) for i in range(prompts)]
    random.Random(0).shuffle(lengths)
    for row, new in zip(rows, lengths, strict=True):
        row["new"] = new
    inputs.write(path, rows=rows, model=_folder())
    facts = {"data": list(names) if len(groups) == 2 else ["builtin:demo"], "prompts": [len(row["ids"]) for row in rows], "new": lengths}
    return {"facts": facts}


# ------------------------------------------------------------------------------------------------------------------------------------- training


class InOrder:
    """A stream that gives the steps it was made with, so that every contender sees the same rows in the same step."""

    def __init__(self, steps: Sequence[Sequence[Row]]) -> None:
        self.steps = steps

    def next(self, run: Run) -> Parts:
        """The parts of the run's step."""
        from tempering.layout import collate

        return collate(self.steps[run.step % len(self.steps)])

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        pass


def _train(
    model: Any,
    objective: Any,
    stream: Any,
    steps: int,
    *,
    lr: float,
    micro_tokens: int,
    rank: int,
    meter: Meter,
    seed: int,
    on_step: Callable[[int], None] = lambda step: None,
    columns: Sequence[str] = (),
    recompute_over: int = 0,
) -> Any:
    """(live policy, loss of the last step) after `steps` steps of AdamW at a constant rate, float32 weights."""
    from tempering.config import Optimizer, Schedule, Training
    from tempering.fit import fit
    from tempering.methods.scopes.full import Full
    from tempering.methods.scopes.lora import LoRA

    training = Training(micro_tokens=micro_tokens, precision=cast("Any", precision.name()), clip=CLIP, recompute_over=recompute_over)
    losses: list[float] = []

    def on_metrics(metrics: Mapping[str, Any]) -> None:
        meter.step()
        losses.append(float(metrics["loss"]))
        on_step(int(metrics["step"]))

    meter.start()
    done = fit(
        {"policy": Role(model, LoRA(r=rank, alpha=2 * rank) if rank else Full())}, objective, stream, steps=steps,
        optimizer=Optimizer(lr=lr), schedule=Schedule(name="constant", warmup=0), training=training,
        seed=seed, say=_quiet, on_metrics=on_metrics, columns=columns,
    )  # fmt: skip
    return done.roles["policy"], losses[-1]


def train_on(
    model: Any, rows: Sequence[tuple[Any, Any]], steps: int, *, micro_tokens: int, meter: Meter, seed: int, on_step: Callable[[int], None]
) -> None:
    """All weights of any model on the same (ids, mask) rows in every step; `on_step` gets the number of each finished step, from 1."""
    from tempering.methods.objectives.nll import NLL

    made = [{"train": (Segment(ids, mask),)} for ids, mask in rows]
    _train(model, NLL(), InOrder([made]), steps, lr=LR, micro_tokens=micro_tokens, rank=0, meter=meter, seed=seed, on_step=on_step)


def sft(
    path: str, rows: int, per_step: int, max_length: int, seed: int, micro_tokens: int = 2048, rank: int = 0, recompute_over: int = 0
) -> dict[str, Any]:
    """Supervised fine-tuning: of all weights, or of adapters of a rank."""
    meter = Meter()
    import numpy as np
    import torch  # noqa: F401
    import transformers.modeling_utils  # noqa: F401

    if rank:
        import peft  # noqa: F401

    from tempering import models
    from tempering.methods.objectives.nll import NLL

    meter.imported()
    data = inputs.read(path, seed)
    plan = inputs.by_step(data["rows"], per_step)
    made = [[{"train": (Segment(np.array(r["ids"], np.int32), np.array(r["mask"], np.float32)),)} for r in step] for step in plan]
    policy = models.load(MODEL, say=_quiet)
    how: dict[str, Any] = {"lr": LR_LORA if rank else LR, "rank": rank, "meter": meter, "seed": seed}
    live, _ = _train(policy.model, NLL(), InOrder(made), len(plan), micro_tokens=micro_tokens, recompute_over=recompute_over, **how)
    loss, judging_s = judge.nll(live.model, data["held"])
    tokens = [inputs.sft_tokens(step) for step in plan]
    return meter.report(tokens=tokens, scored=inputs.sft_scored(data["rows"]), rows=len(data["rows"]), loss=loss, judging_s=judging_s)


def dpo(
    path: str,
    rows: int,
    per_step: int,
    max_length: int,
    min_prompt: int,
    seed: int,
    micro_tokens: int = 4096,
    cached: bool = False,
    recompute_over: int = 0,
) -> dict[str, Any]:
    """DPO of all weights, the reference run beside the policy or its log-probs computed before the first step (and charged to all steps)."""
    meter = Meter()
    import numpy as np

    from tempering import models
    from tempering.methods.objectives.dpo import DPO
    from tempering.reference import columns
    from tempering.signals import Engine

    meter.imported()
    data = inputs.read(path, seed)
    plan = inputs.by_step(data["rows"], per_step)
    policy = models.load(MODEL, say=_quiet)
    began = time.perf_counter()

    def segment(row: Mapping[str, list[int]], part: str) -> Segment:
        ids, start = row["prompt"] + row[part], len(row["prompt"])
        weight = np.array([0.0] * start + [1.0] * (len(ids) - start), np.float32)
        return Segment(np.array(ids, np.int32), weight)

    made: list[list[Row]] = [[{part: (segment(row, part),) for part in ("chosen", "rejected")} for row in step] for step in plan]
    if cached:
        # What a recipe keeps in the store, made anew each time.
        extended = iter(columns(policy, [row for step in made for row in step], Engine(dtype=precision.torch_dtype()), micro_tokens))
        made = [[next(extended) for _ in step] for step in made]
    ahead_s = time.perf_counter() - began
    how: dict[str, Any] = {"lr": LR_DPO, "micro_tokens": micro_tokens, "rank": 0, "meter": meter, "seed": seed, "recompute_over": recompute_over}
    _, loss = _train(policy.model, DPO(beta=0.1), InOrder(made), len(plan), columns=("reference.logp",) if cached else (), **how)
    tokens = [inputs.pair_tokens(step) for step in plan]
    return meter.report(tokens=tokens, scored=inputs.pair_scored(data["rows"]), rows=len(data["rows"]), loss=loss, ahead_s=ahead_s)


# ------------------------------------------------------------------------------------------------------------------------------------- sampling


def sampling(path: str, prompts: int, shortest: int, longest: int, seed: int, max_rows: int = 64) -> dict[str, Any]:
    """Greedy decoding of requests of mixed lengths, admitted as others end."""
    meter = Meter()
    from tempering import models
    from tempering.heap import give_back
    from tempering.sampling.decoder import Decoder
    from tempering.sampling.types import Request
    from tempering.sampling.weights import for_decoding

    meter.imported()
    data = inputs.read(path, seed)
    loaded = models.load(MODEL, dtype=precision.dtype(), say=_quiet)
    # No end token: every request makes exactly the tokens it asks for, whoever decodes.
    loaded.model.generation_config.eos_token_id = None  # type: ignore[union-attr]
    # As `temper serve` does it: who only samples keeps the copy that decodes and nothing else.
    policy = for_decoding(Policy(loaded.model, None), precision.torch_dtype())
    del loaded
    give_back()

    def decode(requests: Sequence[Request]) -> int:
        decoder, made = Decoder(policy, max_rows=max_rows), 0
        for request in requests:
            decoder.submit(request)
        while not decoder.idle:
            made += len(decoder.step())
        return made

    # The longest first: the last rows to end are then few.
    requests = [Request(tuple(row["ids"]), max_new_tokens=row["new"], key=i) for i, row in enumerate(data["rows"])]
    requests.sort(key=lambda request: -request.max_new_tokens)
    decode([Request(requests[0].prompt_ids, max_new_tokens=4)])
    meter.start()
    made = decode(requests)
    meter.step()
    return meter.report(tokens=[made], scored=made, rows=len(requests))


def _vowels(rows: Sequence[Mapping[str, Any]], sampled: list[int]) -> Any:
    """An environment about the rows' prompts that earns the benchmark's reward; it notes how many tokens were sampled."""
    import numpy as np

    from tempering.rollouts.types import Environment, Trajectory

    class Vowels(Environment):
        def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
            sampled.append(sum(trajectory.tokens for trajectory in played))
            return np.array([reward(trajectory.answer) for trajectory in played])

    return Vowels(), [Record(tuple(Message(*message) for message in row["messages"]), ()) for row in rows]


def on_policy(path: str, prompts: int, shortest: int, longest: int, seed: int, micro_tokens: int = 4096) -> dict[str, Any]:
    """One step of the recipe's own stream and objective: sample, reward, and one update, all weights trained; TRL's loss_type "dapo"."""
    meter = Meter()
    import torch  # noqa: F401

    import tempering.fit
    import tempering.sample  # noqa: F401
    from tempering import models
    from tempering.config import Training
    from tempering.methods.credits.group_relative import GroupRelative
    from tempering.methods.objectives.dapo import DAPO
    from tempering.rollouts.settings import Rollouts
    from tempering.rollouts.stream import Conversations

    meter.imported()
    data, sampled = inputs.read(path, seed), list[int]()
    policy = models.load(MODEL, say=_quiet)
    environment, tasks = _vowels(data["rows"], sampled)
    training = Training(batch_size=prompts, micro_tokens=micro_tokens, precision=cast("Any", precision.name()))
    settings, budget = Rollouts(samples=SAMPLES, concurrent=SAMPLES * prompts), longest
    stream = Conversations(policy.tokenizer, environment, tasks, GroupRelative(), settings, training=training, max_new_tokens=budget, seed=seed)
    _train(policy.model, DAPO(clip_high=0.2), stream, 1, lr=LR_POLICY, micro_tokens=micro_tokens, rank=0, meter=meter, seed=seed)
    return meter.report(tokens=sampled, scored=sampled[0], rows=len(tasks) * SAMPLES)
