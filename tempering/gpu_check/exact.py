"""Is it right? The device against a plain computation on the processor, a stopped run against an undisturbed one, samples against a forward pass."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

from tempering.errors import Interrupted
from tempering.gpu_check.bench import Bench, NotHere, engines

FP32 = 1e-4
"""Largest difference to the processor, relative to the largest gradient, in float32: other kernels add in another order."""
BF16 = 0.15
"""The same in bfloat16, for the length of all gradients together; up to 0.1 was measured on these models on a processor."""
LOGP = 1e-3
"""Between a sampled token's log-prob and a forward pass, in float32, nats."""


def gradients(bench: Bench, engine: Any, objective: Any, parts: Any, micro_tokens: int | None, attention: str = "") -> tuple[float, Any]:
    """Loss and all gradients end to end [P], on the processor, of a LoRA policy away from its start."""
    import torch

    from tempering.fit import Means, count_terms, total
    from tempering.layout import split, to
    from tempering.methods.scopes.lora import LoRA
    from tempering.signals import Live
    from tempering.types import Role

    model = bench.model()
    if attention:
        model.set_attn_implementation(attention)
    torch.manual_seed(0)
    scope: Any = LoRA(r=4)
    live = Live.attach(Role(model, scope))
    assert live.handle is not None
    for name, p in live.handle.params.items():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    live.model.to(engine.device)
    # As in a run; blocks are computed again in training alone. Nothing here drops out.
    live.model.train()
    micros = [lambda m=m: to(m, engine.device) for m in split(parts, micro_tokens)]
    loss = total({"policy": live}, objective, micros, count_terms(objective, [parts]), 0, engine, Means())
    return loss, torch.cat([p.grad.detach().float().cpu().flatten() for p in live.handle.params.values() if p.grad is not None])


def objectives(bench: Bench) -> list[tuple[str, Any, Any]]:
    """(name, objective, the parts of one step)."""
    from tempering.layout import collate
    from tempering.methods.objectives.dpo import DPO
    from tempering.methods.objectives.nll import NLL

    number = 6 if bench.small else 24
    return [("nll", NLL(), collate(bench.rows(number))), ("dpo", DPO(beta=0.5), collate(bench.rows(number, ("chosen", "rejected"))))]


def exact(bench: Bench) -> Iterator[tuple[str, float | None, Callable[[], float]]]:
    """Loss and gradients of every engine, whole and in micro-batches, against padded rows on the processor in float32."""
    import torch

    from tempering.signals import Engine

    for name, objective, parts in objectives(bench):
        plain = gradients(bench, Engine("padded"), objective, parts, None)
        off = partial(distance, bench, objective, parts, plain)
        for setting, engine in engines(bench.device, torch.float32):
            yield f"{name}.fp32[{setting},whole]", FP32, partial(off, engine)
            yield f"{name}.fp32[{setting},micro=50]", FP32, partial(off, engine, micro_tokens=50)
        yield f"{name}.fp32[recompute_over=50]", FP32, partial(off, Engine(device=bench.device, recompute_over=50))
        for setting, engine in engines(bench.device, torch.bfloat16):
            yield f"{name}.bf16[{setting}]", BF16, partial(off, engine)
        for attention, dtype in (("eager", torch.float32), ("flex_attention", torch.float32), ("flash_attention_2", torch.bfloat16)):
            bound = FP32 if dtype == torch.float32 else BF16
            yield f"{name}.attention[{attention}]", bound, partial(off, Engine("packed", dtype, bench.device), attention=attention)


def distance(
    bench: Bench, objective: Any, parts: Any, plain: tuple[float, Any], engine: Any, *, micro_tokens: int | None = None, attention: str = ""
) -> float:
    """How far loss and gradients are from `plain`, relative: in float32 by the largest difference, in bfloat16 by the length of all together."""
    import torch

    if attention:
        _needs_attention(bench, attention)
    loss, grad_P = gradients(bench, engine, objective, parts, micro_tokens, attention)
    difference_P = grad_P - plain[1]
    fp32 = engine.dtype == torch.float32
    grad = difference_P.abs().max() / plain[1].abs().max() if fp32 else difference_P.norm() / plain[1].norm()
    return max(abs(loss - plain[0]) / abs(plain[0]), float(grad))


def _needs_attention(bench: Bench, name: str) -> None:
    from transformers.utils import is_flash_attn_2_available

    if name != "eager" and bench.device.type != "cuda":
        raise NotHere(f"{name} needs a GPU")
    if name == "flash_attention_2" and not is_flash_attn_2_available():
        raise NotHere("the package flash-attn is not installed")


# ------------------------------------------------------------------------------------------------------------------------------ resume and sampling


def resume(bench: Bench) -> float:
    """How many of the trained numbers differ between an undisturbed run and one that stopped in the middle and resumed, with dropout."""
    import torch

    from tempering.config import Optimizer, Training
    from tempering.data.streams import Shuffled
    from tempering.fit import Stopper, fit
    from tempering.methods.objectives.nll import NLL
    from tempering.methods.scopes.lora import LoRA
    from tempering.signals import Engine
    from tempering.types import Role

    def run(folder: Path, *, stop: bool = False, again: bool = False) -> dict[str, Any]:
        stopper, scope = Stopper(), cast(Any, LoRA(r=4, dropout=0.3))
        fitted = fit(
            {"policy": Role(bench.model(), scope)}, NLL(), Shuffled(bench.rows(12), 4, seed=1), steps=6, seed=2, folder=folder,
            optimizer=Optimizer(lr=3e-3), training=Training(precision="fp32"), engine=Engine(device=bench.device), resume=again, stopper=stopper,
            say=lambda _: None, on_metrics=lambda m: stopper("a check") if stop and m["step"] == 3 else None,
        )  # fmt: skip
        handle = fitted.roles["policy"].handle
        assert handle is not None
        return {name: p.detach().cpu() for name, p in handle.params.items()}

    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with tempfile.TemporaryDirectory() as work:
            whole = run(Path(work) / "whole")
            try:
                run(Path(work) / "cut", stop=True)
            except Interrupted:
                resumed = run(Path(work) / "cut", again=True)
            else:
                raise RuntimeError("the run did not stop when it was asked to")
    finally:
        torch.use_deterministic_algorithms(False)
    return float(sum(int((whole[name] != resumed[name]).sum()) for name in whole))


def sampling(bench: Bench) -> Iterator[tuple[str, float | None, Callable[[], float]]]:
    """Sampled tokens do not depend on the batch around them, and their log-probs are those of a forward pass."""
    from tempering.sample import sample
    from tempering.types import Policy

    prompts = [tuple(row["train"][0].ids.tolist()) for row in bench.rows(8 if bench.small else 32)]
    policy = Policy(bench.model().to(bench.device), None)

    def episodes(size: int) -> Any:
        return sample(policy, prompts, max_new_tokens=8 if bench.small else 48, temperature=1.0, batch_size=size, seed=3)

    def alone() -> float:
        together, apart = episodes(len(prompts)), episodes(1)
        return float(sum(a[0].ids != b[0].ids for a, b in zip(together, apart, strict=True)))

    def logps() -> float:
        import torch

        worst = 0.0
        for (episode,) in episodes(len(prompts)):
            ids = torch.tensor([episode.prompt_ids + episode.ids], device=bench.device)
            with torch.no_grad():
                logp_LV = policy.model(ids).logits[0].float().log_softmax(-1)
            start = len(episode.prompt_ids)
            at = logp_LV[start - 1 : -1].gather(1, ids[0, start:, None])[:, 0].tolist()
            worst = max(worst, *(abs(a - b) for a, b in zip(at, episode.logps, strict=True)))
        return worst

    yield "sampling.alone=together", 0.0, alone
    yield "sampling.logp=forward", LOGP, logps
