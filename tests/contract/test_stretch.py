"""Six small methods that stretch other axes of the types than SFT and DPO do; each lives here, in the test, on a toy model.

NPO (adapter-off reference, replay), a clipped policy gradient with a trained critic (two trainable roles, a stream that samples from the live
policy), KTO (a sum over the whole step), sampling from a mixture of two models (shipped: `methods/decodes/mixture.py`, tested in `test_sample.py`),
K learned merge coefficients (a scope), and an iterative recipe of two stages that resumes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tempering import layout
from tempering.config import Optimizer, Schedule, Training
from tempering.data.streams import Join, Shuffled, passes
from tempering.fit import Means, count_terms, fit, total
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.models.value import ValueModel
from tempering.reduce import segment_sum
from tempering.signals import Engine, Live, compute
from tempering.stages import stage
from tempering.types import Context, Objective, Parts, Role, Run, Segment, Signals
from tests.toy import toy_llama, toy_rows

QUICK: Mapping[str, Any] = {
    "schedule": Schedule(name="constant", warmup=0),
    "training": Training(micro_tokens=64, precision="fp32"),
    "say": lambda _: None,
}


def mean_nll(model: nn.Module, rows: list[Any]) -> float:
    """Mean NLL per trained token."""
    with torch.no_grad():
        (parts,) = passes(rows, len(rows))
        logp = compute({"policy": Live(model)}, parts, {"train": frozenset({"logp"})}, Engine())["train"]["logp"]
    return float(-logp.sum() / parts["train"].weight_T.sum())


# ----------------------------------------------------------------------------------------------- 1. NPO with the adapter-off reference and replay


@dataclass(frozen=True)
class NPO(Objective):
    """Negative preference optimisation (Zhang et al. 2024, eq. 3): -2/beta log sigmoid(-beta (logp - ref))."""

    beta: float = 0.1
    part = "forget"
    norm = "segments"
    per = "segment"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"forget": frozenset({"logp", "reference.logp"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        s = signals["forget"]
        return -2 / self.beta * F.logsigmoid(-self.beta * segment_sum(s["logp"] - s["reference.logp"], parts["forget"]))


def test_npo_forgets_and_replay_keeps() -> None:
    # Rows of one length, so that NLLs compare; first learn both, then forget the first with and without replay of the second.
    forget, retain = toy_rows(4, seed=1), toy_rows(4, seed=2)
    model = toy_llama()
    fit({"policy": Role(model, Full())}, NLL(), Shuffled(forget + retain, 8), steps=60, optimizer=Optimizer(lr=5e-3), **QUICK)
    known = mean_nll(model, forget), mean_nll(model, retain)
    assert max(known) < 0.3

    def unlearn(objective: Objective, stream: Any) -> tuple[float, float]:
        import copy

        done = fit({"policy": Role(copy.deepcopy(model), LoRA(r=4))}, objective, stream, steps=40, optimizer=Optimizer(lr=1e-2), **QUICK)
        return mean_nll(done.roles["policy"].model, forget), mean_nll(done.roles["policy"].model, retain)

    alone = unlearn(NPO(), Join(forget=(Shuffled(forget, 4), "train")))
    replayed = unlearn(NPO() + NLL("retain"), Join(forget=(Shuffled(forget, 4), "train"), retain=(Shuffled(retain, 4), "train")))
    assert alone[0] > known[0] + 1 and replayed[0] > known[0] + 1
    assert replayed[1] < alone[1] - 0.3


def test_npo_at_the_reference_is_two_over_beta_log_two() -> None:
    (parts,) = passes([{"forget": row["train"]} for row in toy_rows(3)], 3)
    live = Live.attach(Role(toy_llama(), LoRA(r=2)))
    with torch.no_grad():
        loss = total({"policy": live}, NPO(beta=0.2), [lambda: parts], count_terms(NPO(), [parts]), 0, Engine(), Means())
    assert loss == pytest.approx(2 / 0.2 * math.log(2), abs=1e-5)


# --------------------------------------------------------------------------------------------- 2. a clipped policy gradient with a trained critic


@dataclass(frozen=True)
class ClippedGradient(Objective):
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7) on advantages that stand in the batch."""

    clip: float = 0.2
    part = "rollout"
    norm = "tokens"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"rollout": frozenset({"logp", "old_logp", "advantage"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        s = signals["rollout"]
        ratio_T = (s["logp"] - s["old_logp"]).exp()
        return -torch.minimum(ratio_T * s["advantage"], ratio_T.clamp(1 - self.clip, 1 + self.clip) * s["advantage"])


@dataclass(frozen=True)
class ValueLoss(Objective):
    """Half the squared error of the critic against the return."""

    part = "rollout"
    norm = "tokens"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"rollout": frozenset({"critic.value", "return"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        s = signals["rollout"]
        return 0.5 * (s["critic.value"] - s["return"]) ** 2


class ToyRollouts:
    """Samples three tokens after a fixed prompt from the live policy; the reward is the share of tokens equal to 7."""

    def __init__(self, num: int) -> None:
        self.num, self.rewards = num, []

    def next(self, run: Run) -> Parts:
        generator = torch.Generator().manual_seed(run.seed * 1000 + run.step)
        ids = torch.full((self.num, 1), 5)
        with torch.no_grad():
            for _ in range(3):
                logits = run.roles["policy"].model(ids).logits[:, -1]
                ids = torch.cat([ids, torch.multinomial(logits.softmax(-1), 1, generator=generator)], 1)
        reward_N = (ids[:, 1:] == 7).float().mean(1)
        self.rewards.append(float(reward_N.mean()))
        weight = np.array([0, 1, 1, 1], dtype=np.float32)
        returns = [np.array([0, r, r, r], dtype=np.float32) for r in reward_N.tolist()]
        rows = [{"rollout": (Segment(row.numpy(), weight, {"return": r}),)} for row, r in zip(ids, returns, strict=True)]
        parts = layout.collate(rows)
        with torch.no_grad():
            s = compute(run.roles, parts, {"rollout": frozenset({"logp", "critic.value"})}, Engine())["rollout"]
        batch = parts["rollout"]
        batch.extras.update({"old_logp": s["logp"], "advantage": batch.extras["return"] - s["critic.value"]})  # type: ignore[attr-defined]
        return parts

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        pass


def test_clipped_policy_gradient_with_a_critic_raises_the_reward_and_the_critic_learns_it() -> None:
    torch.manual_seed(0)
    policy, critic = toy_llama(), ValueModel(toy_llama(seed=1))
    rollouts = ToyRollouts(32)
    roles = {"policy": Role(policy, Full()), "critic": Role(critic, Full(), Optimizer(lr=1e-2))}
    done = fit(roles, ClippedGradient() + 0.5 * ValueLoss(), rollouts, steps=60, optimizer=Optimizer(lr=3e-3), **QUICK)
    assert np.mean(rollouts.rewards[:5]) < 0.2 and np.mean(rollouts.rewards[-5:]) > 0.9
    assert "critic.grad_norm" in done.metrics
    with torch.no_grad():
        parts = rollouts.next(Run(done.roles, 0, 0))
    values = parts["rollout"].extras["return"] - parts["rollout"].extras["advantage"]
    assert abs(float(values[parts["rollout"].weight_T > 0].mean()) - rollouts.rewards[-1]) < 0.2


# ----------------------------------------------------------------------------------------------------------------------- 3. KTO: coupled by a sum


@dataclass(frozen=True)
class KTO(Objective):
    """Ethayarajh et al. 2024, eq. 8, with the KL point estimated over the whole step from mismatched pairs (part "kl"), detached."""

    beta: float = 0.1
    norm = "segments"
    per = "segment"
    couples = "sums"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {part: frozenset({"logp", "reference.logp"}) for part in ("train", "kl")} | {"train": frozenset({"logp", "reference.logp", "label"})}

    def stats(self, parts: Parts, signals: Signals) -> Mapping[str, Tensor]:
        ratio_S = segment_sum(signals["kl"]["logp"] - signals["kl"]["reference.logp"], parts["kl"])
        return {"sum": ratio_S.sum(), "num": torch.tensor(float(ratio_S.numel()))}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        s = signals["train"]
        kl = (ctx.stats["sum"] / ctx.stats["num"]).clamp(min=0)
        ratio_S = segment_sum(s["logp"] - s["reference.logp"], parts["train"])
        return 1 - torch.sigmoid(self.beta * torch.where(s["label"] > 0, ratio_S - kl, kl - ratio_S))


def test_kto_couples_the_step_and_micro_batches_stay_exact() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for row in toy_rows(8, ("train", "kl")):
        (segment,) = row["train"]
        rows.append({**row, "train": (Segment(segment.ids, segment.weight, {"label": float(rng.integers(2))}),)})
    (parts,) = passes(rows, 8)

    def run(micro_tokens: int | None) -> tuple[float, list[Tensor]]:
        torch.manual_seed(0)
        live = Live.attach(Role(toy_llama(), LoRA(r=4)))
        for name, p in live.handle.params.items():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.2)
        micros = [(lambda m=m: m) for m in layout.split(parts, micro_tokens)]
        loss = total({"policy": live}, KTO(), micros, count_terms(KTO(), [parts]), 0, Engine(), Means())
        return loss, [p.grad.clone() for p in live.handle.params.values()]

    whole, small = run(None), run(30)
    assert whole[0] == pytest.approx(small[0], abs=1e-6) and abs(whole[0] - 0.5) > 1e-3
    scale = max(float(g.abs().max()) for g in whole[1])
    assert all(float((a - b).abs().max()) < 1e-6 * max(scale, 1) for a, b in zip(whole[1], small[1], strict=True))


# ------------------------------------------------------------------------------------------------------------- 5. K learned merge coefficients


class _Mix(nn.Module):
    """W = (1 - c) * tuned + c * base, with c shared by a block of layers."""

    def __init__(self, base: Tensor, c: nn.Parameter) -> None:
        super().__init__()
        self.register_buffer("base", base.detach().clone())
        self.c = [c]  # In a list, so that the coefficient is not registered once for every weight.

    def forward(self, weight: Tensor) -> Tensor:
        return (1 - self.c[0]) * weight + self.c[0] * self.base


@dataclass(frozen=True)
class Blend:
    """A scope with K trainable numbers: how far each block of layers goes back to `base` (after HMA, Lin et al. 2023, arXiv 2309.06256)."""

    base: nn.Module
    blocks: int = 2
    start: float = 0.5

    def attach(self, model: nn.Module) -> BlendHandle:
        return BlendHandle(model, self)


class BlendHandle:
    def __init__(self, model: nn.Module, scope: Blend) -> None:
        self.model = model.requires_grad_(False)
        self.coefficients = nn.ParameterList([nn.Parameter(torch.tensor(scope.start)) for _ in range(scope.blocks)])
        self.params = {f"c.{i}": c for i, c in enumerate(self.coefficients)}
        base, layers = dict(scope.base.named_parameters()), model.config.num_hidden_layers  # type: ignore[union-attr]
        self.places = []
        for name, _ in list(model.named_parameters()):
            if "layers." in name:
                module = model.get_submodule(name.rpartition(".")[0])
                block = int(name.split("layers.")[1].split(".")[0]) * scope.blocks // layers  # type: ignore[operator]
                parametrize.register_parametrization(module, "weight", _Mix(base[name], self.params[f"c.{block}"]))
                self.places.append(module)

    def keep_reference(self) -> None:
        pass

    @contextmanager
    def off(self) -> Iterator[nn.Module]:
        held = [c.detach().clone() for c in self.coefficients]
        for c in self.coefficients:
            c.data.zero_()
        yield self.model
        for c, value in zip(self.coefficients, held, strict=True):
            c.data.copy_(value)

    def bake(self) -> nn.Module:
        for module in self.places:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        return self.model


def test_a_scope_of_merge_coefficients_finds_the_better_parent_and_bakes() -> None:
    import copy

    rows = toy_rows(6, seed=4)
    base = toy_llama()
    fit({"policy": Role(base, Full())}, NLL(), Shuffled(rows, 6), steps=40, optimizer=Optimizer(lr=5e-3), **QUICK)
    broken = copy.deepcopy(base)
    with torch.no_grad():
        for name, p in broken.named_parameters():
            if "layers." in name and p.ndim == 2:
                p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    worse = mean_nll(broken, rows)
    done = fit({"policy": Role(broken, Blend(base))}, NLL(), Shuffled(rows, 6), steps=60, optimizer=Optimizer(lr=5e-2), **QUICK)
    handle: Any = done.roles["policy"].handle
    assert list(handle.params) == ["c.0", "c.1"]
    assert all(c.ndim == 0 and c.item() > 0.75 for c in handle.params.values())
    with handle.off() as off:
        assert mean_nll(off, rows) == pytest.approx(worse, abs=1e-5)
    attached = mean_nll(handle.model, rows)
    assert attached < worse / 2
    baked = handle.bake()
    assert mean_nll(baked, rows) == pytest.approx(attached, abs=1e-6)
    assert not any("parametrizations" in name for name, _ in baked.named_parameters())


# ------------------------------------------------------------------------------------------------------ 6. two stages that resume where they died


def test_an_iterative_recipe_of_two_stages_resumes(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    ran: list[str] = []

    def recipe(folder: Path, die_in: str | None = None) -> dict[str, Tensor]:
        """Round 1 trains; round 2 starts from its weights with other data: rounds are plain Python over stages."""
        weights: Path | None = None
        for name, seed in (("round-1", 1), ("round-2", 2)):

            def work(path: Path, name: str = name, seed: int = seed, start: Path | None = weights) -> None:
                ran.append(name)
                model = toy_llama()
                if start is not None:
                    model.load_state_dict(load_file(start / "model.safetensors"))

                def die(metrics: Mapping[str, Any]) -> None:
                    if name == die_in and metrics["step"] == 5:
                        raise KeyboardInterrupt

                fit({"policy": Role(model, Full())}, NLL(), Shuffled(toy_rows(8, seed=seed), 3, seed), steps=8, optimizer=Optimizer(lr=1e-2),
                    schedule=QUICK["schedule"], training=Training(save_every=2, precision="fp32"), folder=path, resume=True, say=ran.append,
                    on_metrics=die)  # fmt: skip
                save_file(model.state_dict(), path / "model.safetensors")

            weights = stage(folder, name, {"seed": seed, "start": str(weights and weights.name)}, work, ran.append)
        assert weights is not None
        return load_file(weights / "model.safetensors")

    expected = recipe(tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        recipe(tmp_path / "killed", die_in="round-2")
    ran.clear()
    resumed = recipe(tmp_path / "killed")
    assert ran == ["stage round-1: already done, not run again", "round-2", "resumed at step 4"]
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    ran.clear()
    recipe(tmp_path / "killed")
    assert ran == ["stage round-1: already done, not run again", "stage round-2: already done, not run again"]
