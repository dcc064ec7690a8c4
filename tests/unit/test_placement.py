"""Placement of an iteration's calls: the chain against all plans, bounds of a schedule, seconds and bytes by hand, weights there and back."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tempering.cli.app import run_command
from tempering.distributed.arithmetic import Shape
from tempering.errors import UserError
from tempering.placement.calls import SIZES, Call, Cluster, Iteration, grpo, ppo
from tempering.placement.cost import Layout, estimate, homes, moving, passing, staying, working
from tempering.placement.reshard import Weight, cut, exchange, held, reallocate, sends
from tempering.placement.search import chain, count, exhaustive, layouts, meshes, symmetric

SMALL = Shape(layers=4, width=64, inner=128, key_width=16, vocabulary=100, tied=True)
SIZE = {"batch": 64, "prompt": 16, "new": 16, "updates": 2}


def three() -> Iteration:
    """Generation, a reward, training."""
    calls = (Call("generate", "actor", "generate"), Call("reward", "reward", "infer", ("generate",)), Call("train", "actor", "train", ("reward",)))
    return Iteration(calls, {"actor": SIZES["8b"], "reward": SIZES["1b"]}, 64, 128, 128, 2)


@pytest.mark.parametrize("memory", [1000e9, 42e9])
def test_the_chain_finds_the_best_of_all_plans_and_it_fits(memory: float) -> None:
    iteration, cluster = three(), Cluster(1, 4, memory=memory)
    every = exhaustive(iteration, cluster, micro=(4,))
    found = chain(iteration, cluster, steps=4000, seed=1, micro=(4,))
    assert found.estimate.seconds == pytest.approx(every.estimate.seconds, rel=1e-12)
    assert max(found.estimate.peak) <= memory and count(iteration, cluster, (4,)) == 16**3
    assert found == chain(iteration, cluster, steps=4000, seed=1, micro=(4,)), "a seed is a plan"


def test_where_memory_binds_the_best_plan_is_slower() -> None:
    iteration = three()
    free, tight = (exhaustive(iteration, Cluster(1, 4, memory=memory), micro=(4,)) for memory in (1000e9, 42e9))
    assert max(free.estimate.peak) > 42e9 and tight.estimate.seconds > free.estimate.seconds


def test_one_way_for_all_calls_is_no_better_than_the_best() -> None:
    iteration, cluster = three(), Cluster(1, 4, memory=1000e9)
    same = symmetric(iteration, cluster, micro=(4,))
    assert same is not None and same.estimate.seconds >= exhaustive(iteration, cluster, micro=(4,)).estimate.seconds
    assert len({layout.weights for layout in same.plan.values()}) == 1 and all(event.moving == 0 for event in same.estimate.events)
    assert symmetric(iteration, replace(cluster, memory=1e9)) is None


def test_a_schedule_lies_between_its_longest_chain_and_one_after_another() -> None:
    iteration, cluster, source = ppo(SIZES["8b"], SIZES["1b"]), Cluster(2, 4), random.Random(0)
    choices = {call.name: layouts(call, iteration, cluster) for call in iteration.calls}
    for _ in range(300):
        plan = {name: source.choice(of) for name, of in choices.items()}
        found = estimate(iteration, plan, cluster)
        assert found.critical <= found.seconds * (1 + 1e-12) and found.seconds <= found.serial * (1 + 1e-12)
        by_name = {event.call: event for event in found.events}
        for call in iteration.calls:
            assert all(by_name[name].end <= by_name[call.name].begin for name in call.after)
        for one in found.events:
            for other in found.events:
                apart = one.end <= other.begin or other.end <= one.begin
                assert one is other or apart or set(plan[one.call].devices).isdisjoint(plan[other.call].devices)


def test_apart_calls_run_at_once_and_calls_on_the_same_gpus_take_turns() -> None:
    iteration, cluster = ppo(SMALL, SMALL, **SIZE), Cluster(1, 4)
    whole, plan = Layout(0, 4), {call.name: Layout(0, 4) for call in ppo(SMALL, SMALL).calls}
    turns = estimate(iteration, plan, cluster)
    assert turns.seconds == pytest.approx(turns.serial)
    halves = {**plan, "train actor": Layout(0, 2), "train critic": Layout(2, 2), "generate": Layout(0, 2), "value": Layout(2, 2)}
    at_once = {event.call: event for event in estimate(iteration, halves, cluster).events}
    assert at_once["train actor"].begin == at_once["train critic"].begin
    assert homes(iteration, halves) == {"actor": Layout(0, 2), "critic": Layout(2, 2), "reference": whole, "reward": whole}


def test_seconds_by_hand() -> None:
    one = Cluster(1, 8, busy=0.5, flops=1e12, read=1e9, latency=1e-9)
    iteration = Iteration((Call("reward", "a", "infer"), Call("train", "a", "train"), Call("generate", "a", "generate")), {"a": SMALL}, 8, 4, 4, 2)
    tokens, p = 8 * 8, SMALL.parameters
    assert working(iteration.calls[0], Layout(0), iteration, one) == pytest.approx(2 * p * tokens / 0.5e12)
    assert working(iteration.calls[1], Layout(0), iteration, one) == pytest.approx(8 * p * tokens / 0.5e12)
    # Twice as many GPUs by groups: half of the work, and two updates' ring of gradients and weights over NVLink.
    ring = 2 * (2 * 0.5 * 2 * p / one.beside)
    assert working(iteration.calls[1], Layout(0, 2), iteration, one) == pytest.approx(4 * p * tokens / 0.5e12 + ring)
    # Two stages and four pieces: five times a piece of an eighth.
    assert working(iteration.calls[0], Layout(0, 1, 1, 2, 4), iteration, one) == pytest.approx(5 * 2 * p * tokens / 8 / 0.5e12)
    # Sharing matrices: two sums of [tokens, width] in each of four layers.
    sums = 2 * 4 * (2 * 0.5 * tokens * SMALL.width * 2 / one.beside + 1e-9)
    assert working(iteration.calls[0], Layout(0, 1, 2), iteration, one) == pytest.approx(p * tokens / 0.5e12 + sums)
    # Generation: prompts, then four tokens that read all weights and a cache of four to eight tokens.
    cache = 8 * 6 * 2 * SMALL.layers * SMALL.key_width * 2
    expected = 2 * p * 8 * 4 / 0.5e12 + 4 * (2 * p + cache) / 1e9
    assert working(iteration.calls[2], Layout(0), iteration, one) == pytest.approx(expected)


def test_bytes_by_hand() -> None:
    iteration = Iteration(
        (Call("train", "a", "train"), Call("generate", "a", "generate"), Call("reward", "b", "infer")), {"a": SMALL, "b": SMALL}, 8, 4, 4
    )
    p, home = SMALL.parameters, Layout(0, 2, 2)
    iteration = replace(iteration, updates=1)
    assert staying("a", home, iteration) == pytest.approx(p / 2 * (4 + 6)) and staying("b", home, iteration) == p / 2 * 2
    cache = 4 * 8 * 2 * 4 * 16 / 2 * 2
    assert passing(iteration.calls[1], home, home, iteration) == pytest.approx(cache)
    assert passing(iteration.calls[1], Layout(0, 2, 1, 2), home, iteration) == pytest.approx(2 * p / 2 + cache)


def test_weights_travel_only_where_they_are_not() -> None:
    cluster = Cluster(2, 4, latency=1e-12)
    here = Layout(0, 2, 2)
    assert moving(SMALL, here, here, cluster) == 0 == moving(SMALL, here, replace(here, micro=4), cluster)
    # From halves of all matrices to whole ones: half is missing; a GPU of the other machine misses all.
    assert moving(SMALL, here, Layout(0, 4), cluster) == pytest.approx(SMALL.parameters / cluster.beside)
    assert moving(SMALL, here, Layout(4, 4), cluster) == pytest.approx(2 * SMALL.parameters / cluster.link)


def test_meshes_are_neighbours() -> None:
    assert meshes(Cluster(2, 2)) == [range(i, i + 1) for i in range(4)] + [range(0, 2), range(2, 4), range(0, 4)]
    assert [len(mesh) for mesh in meshes(Cluster(1, 6))] == [1] * 6 + [2] * 3 + [4, 6]


def test_graphs() -> None:
    with_critic, without = ppo(SMALL, SMALL), grpo(SMALL, SMALL)
    assert [call.name for call in without.calls] == ["generate", "reference", "reward", "train actor"] and len(with_critic.calls) == 6
    assert without.calls[-1].after == ("reference", "reward")


@pytest.mark.parametrize(
    ("calls", "sentence"),
    [
        ((Call("a", "nobody", "infer"),), "there is no model 'nobody'"),
        ((Call("a", "actor", "infer", ("b",)),), "it waits for 'b', which is no call"),
        ((Call("a", "actor", "infer", ("a",)),), "a waits for itself"),
        ((Call("a", "actor", "infer"), Call("a", "actor", "train")), "two calls have one name"),
    ],
)
def test_a_graph_that_cannot_run_is_refused(calls: tuple[Call, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Iteration(calls, {"actor": SMALL})


# ----------------------------------------------------------------------------------------------------------------------------------------- resharding

LAYERS = 4
WEIGHTS = {
    **{f"{i}.up": Weight(i, (8, 6), 0) for i in range(LAYERS)},
    **{f"{i}.down": Weight(i, (6, 8), 1) for i in range(LAYERS)},
    **{f"{i}.norm": Weight(i, (5,)) for i in range(LAYERS)},
}
WAYS = [Layout(0), Layout(0, 4), Layout(0, 1, 4), Layout(0, 1, 1, 4), Layout(0, 2, 2), Layout(0, 1, 2, 2), Layout(2, 1, 2), Layout(1, 3)]


def model() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(weight.shape) for name, weight in WEIGHTS.items()}


def same(one: dict[int, dict[str, torch.Tensor]], other: dict[int, dict[str, torch.Tensor]]) -> bool:
    return one.keys() == other.keys() and all(
        one[d].keys() == other[d].keys() and all(torch.equal(x, other[d][name]) for name, x in one[d].items()) for d in one
    )


@pytest.mark.parametrize("here", WAYS, ids=str)
@pytest.mark.parametrize("there", WAYS, ids=str)
def test_there_and_back_is_the_same_to_the_bit(here: Layout, there: Layout) -> None:
    pieces = cut(model(), WEIGHTS, LAYERS, here)
    moved = reallocate(pieces, WEIGHTS, LAYERS, here, there, node=2)
    assert same(moved, cut(model(), WEIGHTS, LAYERS, there))
    assert same(reallocate(moved, WEIGHTS, LAYERS, there, here, node=2), pieces)


def test_what_is_at_hand_does_not_travel_and_holders_take_turns() -> None:
    assert all(send.source == send.target for send in sends(WEIGHTS, LAYERS, Layout(0, 4), Layout(0, 1, 2, 2), node=4))
    away = sends(WEIGHTS, LAYERS, Layout(0, 2), Layout(2, 2), node=4)
    assert sorted({send.source for send in away}) == [0, 1] and sum(send.source == 0 for send in away) == len(away) // 2
    near = sends(WEIGHTS, LAYERS, Layout(0, 4), Layout(2, 3), node=2)
    assert {send.source for send in near if send.target == 2} == {2} and {send.source for send in near if send.target == 4} == {0, 1, 2, 3}


def test_what_cannot_be_cut_evenly_is_refused() -> None:
    with pytest.raises(UserError, match="4 layers cannot be cut into 3 stages"):
        held(WEIGHTS["0.up"], LAYERS, Layout(0, 1, 1, 3), 0)
    with pytest.raises(UserError, match=r"a weight of \(8, 6\) cannot be cut into 3 along axis 0"):
        held(WEIGHTS["0.up"], LAYERS, Layout(0, 1, 3), 0)


def _among(rank: int, folder: str) -> None:
    """One of four processes: pieces from one layout to another and back, over gloo."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=4)
    here, there = Layout(0, 2, 2), Layout(0, 1, 2, 2)
    mine = cut(model(), WEIGHTS, LAYERS, here)[rank]
    moved = exchange(mine, rank, WEIGHTS, LAYERS, here, there)
    back = exchange(moved, rank, WEIGHTS, LAYERS, there, here)
    right = same({rank: moved}, {rank: cut(model(), WEIGHTS, LAYERS, there)[rank]}) and same({rank: back}, {rank: mine})
    Path(folder, f"{rank}.json").write_text(json.dumps(right))
    dist.destroy_process_group()


def test_processes_exchange_what_one_process_reallocates(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_among, (str(tmp_path),), nprocs=4)
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(4)] == [True] * 4


# --------------------------------------------------------------------------------------------------------------------------------------- command line


def test_the_command_prints_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["place", "--actor", "1b", "--critic", "1b", "--gpus", "2", "--tries", "300"]) == 0
    out = capsys.readouterr().out
    assert "train critic" in out and "one after another" in out and "no promise of seconds" in out
    assert run_command(["place", "--actor", "1b", "--critic", "1b", "--gpus", "2", "--tries", "300", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["critical"] <= told["seconds"] <= told["serial"] and max(told["peak"]) <= 80e9 and len(told["calls"]) == 6


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--gpus", "0"], "gpus is 0; it must be above 0"),
        (["--batch", "100"], "a batch of 100 cannot be divided among 8 updates"),
        (["--actor", "70b", "--gpus", "2", "--tries", "50"], "fits into 75 GiB on each of 2 GPUs"),
        (["--search", "exhaustive"], "plans, and at most 2,000,000 are looked at"),
        (["--tries", "0"], "must look at one plan at least"),
    ],
)
def test_wrong_input_is_one_sentence(flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["place", *flags]) == 2
    assert sentence in capsys.readouterr().err
