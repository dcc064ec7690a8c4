"""Losses that need the whole step: gathered stats and state between steps change nothing when a step is cut, laid out otherwise, or resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tempering import layout
from tempering.config import Optimizer, Training
from tempering.coupling import Memory, apart, couple
from tempering.data.streams import Shuffled, passes
from tempering.errors import Interrupted, UserError
from tempering.fit import Evaluation, Fitted, Stopper, fit
from tempering.layout import LayoutKind
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.lora import LoRA
from tempering.reduce import segment_mean, segment_sum
from tempering.signals import Engine
from tempering.types import Context, Objective, Parts, Role, Signals
from tests.contract.test_engine import assert_same, loss_and_grads
from tests.toy import toy_llama, toy_rows


@dataclass(frozen=True)
class Sorted(Objective):
    """Pairs the step's k-th largest chosen log-prob with its k-th largest rejected one: each own entry with gradient, the others without."""

    norm = "segments"
    part = "chosen"
    per = "segment"
    couples = "gather"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {part: frozenset({"logp"}) for part in ("chosen", "rejected")}

    def stats(self, parts: Parts, signals: Signals) -> Mapping[str, Tensor]:
        return {part: segment_sum(signals[part]["logp"], parts[part]) for part in self.needs}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        own = {part: segment_sum(signals[part]["logp"], parts[part]) for part in self.needs}
        order = ctx.stats["chosen"].argsort(stable=True).argsort()[ctx.mine]
        partner = ctx.joined("rejected", own["rejected"]).sort(stable=True).values[order]
        return -torch.nn.functional.logsigmoid(own["chosen"] - partner.detach()) + 0.1 * own["rejected"]


@dataclass(frozen=True)
class Running(Objective):
    """Token losses times the running mean of their segments' mean log-prob; counts its steps."""

    part: str = "train"
    couples = "sums"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {self.part: frozenset({"logp"})}

    def stats(self, parts: Parts, signals: Signals) -> Mapping[str, Tensor]:
        mean_S = segment_mean(signals[self.part]["logp"], parts[self.part])
        return {"sum": mean_S.sum(dtype=torch.float64), "num": torch.tensor(float(len(mean_S)))}

    def initial(self) -> Mapping[str, Tensor]:
        return {"mean": torch.zeros((), dtype=torch.float64), "steps": torch.zeros(2, dtype=torch.float64)}

    def advance(self, state: Mapping[str, Tensor], stats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {"mean": 0.9 * state["mean"] + 0.1 * stats["sum"] / stats["num"], "steps": state["steps"] + torch.tensor([1.0, 2.0])}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        ctx.log(mean=ctx.state["mean"], steps=ctx.state["steps"])
        return -signals[self.part]["logp"] * (1 - ctx.state["mean"])


PAIRS = toy_rows(9, ("chosen", "rejected"))


@pytest.mark.parametrize("kind", ["padded", "packed", "segments"])
@pytest.mark.parametrize("micro_tokens", [None, 40, 1])
def test_gathered_stats_are_exact_however_the_step_is_cut_and_laid_out(kind: LayoutKind, micro_tokens: int | None) -> None:
    parts = layout.collate(PAIRS)
    assert_same(loss_and_grads(Sorted(), parts, Engine("padded")), loss_and_grads(Sorted(), parts, Engine(kind), micro_tokens), 2e-6)


def test_gathered_entries_lie_as_the_stream_gave_them_and_know_their_places() -> None:
    rows = [*PAIRS, {"chosen": (*PAIRS[0]["chosen"], *PAIRS[1]["chosen"]), "rejected": (*PAIRS[0]["rejected"], *PAIRS[1]["rejected"])}]
    parts = layout.collate(rows)
    logp = {name: -torch.arange(batch.num_tokens).float().requires_grad_() for name, batch in parts.items()}
    expected = Sorted().stats(parts, {name: {"logp": value} for name, value in logp.items()})
    parts = {name: replace(batch, extras={"logp": logp[name]}) for name, batch in parts.items()}
    micros = layout.split(parts, 40)
    order = torch.cat([micro["chosen"].group_S for micro in micros])
    assert order.tolist() != sorted(order.tolist())
    signals = [{name: dict(batch.extras) for name, batch in micro.items()} for micro in micros]
    (coupled,) = couple(Sorted(), zip(micros, signals, strict=True))
    assert all(torch.equal(coupled.stats[name], expected[name]) and not coupled.stats[name].requires_grad for name in expected)
    for micro, found, mine in zip(micros, signals, coupled.mine, strict=True):
        assert torch.equal(coupled.stats["chosen"][mine], Sorted().stats(micro, found)["chosen"])
        own = Sorted().stats(micro, found)["chosen"] + 7.0
        joined = Context(0, coupled.stats, lambda **_: None, mine=mine).joined("chosen", own)
        assert torch.equal(joined[mine], own) and joined.requires_grad
        assert int((joined != coupled.stats["chosen"]).sum()) == len(own)


def test_a_gathered_stat_of_another_length_is_refused() -> None:
    class Whole(Sorted):
        def stats(self, parts: Parts, signals: Signals) -> Mapping[str, Tensor]:
            return {"logp": signals["chosen"]["logp"]}

    with pytest.raises(ValueError, match=r"Whole: gathered stats \['logp'\] are not one entry for each segment of part 'chosen'"):
        loss_and_grads(Whole(), layout.collate(PAIRS), Engine())


def test_groups_of_two_batches_are_told_apart() -> None:
    batches = apart([*passes(PAIRS, 4), {}])
    assert [b["rejected"].group_S.tolist() for b in batches[:-1]] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_evaluation_in_batches_is_one_step() -> None:
    """Ten held-out pairs in batches of three and of ten: the same gathered loss."""
    found = []
    for size in (3, 10):
        fit({"policy": Role(toy_llama(), LoRA(r=2))}, Sorted(), Shuffled(PAIRS, 3), steps=1, training=Training(precision="fp32", micro_tokens=60),
            evaluation=Evaluation(lambda size=size: passes(toy_rows(10, ("chosen", "rejected"), seed=4), size)), say=lambda _: None,
            on_metrics=lambda m: found.append(m["eval.loss"]))  # fmt: skip
    assert found[0] == pytest.approx(found[1], rel=1e-6)


# ---------------------------------------------------------------------------------------------------------------------------------------- state


def run(folder: Path | None, *, resume: bool = False, stop_at: int | None = None, micro: int | None = 30, objective: Objective | None = None,
        steps: int = 7) -> tuple[Fitted, list[dict[str, float]]]:  # fmt: skip
    stopper, seen = Stopper(), []

    def watch(metrics: Mapping[str, float]) -> None:
        seen.append({k: v for k, v in metrics.items() if k != "tokens_per_s"})
        if metrics["step"] == stop_at:
            stopper("a test")

    objective = objective or 0.5 * NLL() + Running()
    fitted = fit(
        {"policy": Role(toy_llama(), LoRA(r=4, dropout=0.2))}, objective, Shuffled(toy_rows(20), 4, seed=5), steps=steps,
        optimizer=Optimizer(lr=3e-3), training=Training(save_every=3, micro_tokens=micro, precision="fp32"), folder=folder, resume=resume,
        evaluation=Evaluation(lambda: passes(toy_rows(5, seed=8), 2), every=2, keep_best=False), say=lambda _: None, on_metrics=watch,
        stopper=stopper,
    )  # fmt: skip
    return fitted, seen


@pytest.mark.parametrize("stop_at", [1, 5])
def test_state_goes_on_to_the_same_bits(tmp_path: Path, stop_at: int) -> None:
    whole, expected = run(tmp_path / "a")
    with pytest.raises(Interrupted):
        run(tmp_path / "b", stop_at=stop_at)
    resumed, seen = run(tmp_path / "b", resume=True)
    assert seen == expected[stop_at:]
    params = [fitted.roles["policy"].handle.params for fitted in (whole, resumed)]
    assert all(torch.equal(p, params[1][name]) for name, p in params[0].items())


def test_state_advances_once_a_step_and_not_for_held_out_rows() -> None:
    _, seen = run(None)
    # The mean of (n, 2 n) after step n; the held-out rows of step n see step n's state.
    assert [m["steps"] for m in seen] == [1.5 * n for n in range(1, 8)]
    assert [(m["step"], m["eval.steps"]) for m in seen if "eval.steps" in m] == [(n, 1.5 * n) for n in (2, 4, 6, 7)]
    assert all(m["eval.mean"] == m["mean"] for m in seen if "eval.mean" in m)


def test_other_state_than_the_checkpoint_s_is_refused(tmp_path: Path) -> None:
    run(tmp_path, steps=4)
    with pytest.raises(UserError, match="belongs to other state of the objective"):
        run(tmp_path, resume=True, objective=NLL())


def test_a_rule_that_loses_part_of_the_state_is_refused() -> None:
    class Forgets(Running):
        def advance(self, state: Mapping[str, Tensor], stats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            return {"mean": state["mean"]}

    with pytest.raises(ValueError, match=r"Forgets\.advance must return the names and shapes of its initial state"):
        Memory(Forgets()).advance(Forgets(), couple(NLL(), []))
