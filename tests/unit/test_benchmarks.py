"""The benchmarks' own logic: turns, ratios, checks and targets with contenders that are functions; operations against torch's counter; the page."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import children, flops, harness, machine, page, precision
from benchmarks.flops import Flops, Shape, Work
from benchmarks.harness import Benchmark, Contender, Target
from benchmarks.profile_step import group_of, seconds_by_group
from benchmarks.roofline import Roofline
from tests.conftest import ROOT
from tests.toy import toy_llama

SCHEMA = {"benchmark", "metric", "ours", "peer", "peer_name", "unit", "ratio", "runs", "command", "commit", "machine"}
BEST = {"bfloat16": {"dtype": "bfloat16", "linear": 100.0, "head": 50.0, "decode": 10.0}}


@pytest.fixture(autouse=True)
def in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever processor the tests run on."""
    monkeypatch.setenv(precision.VARIABLE, "bf16")


def report(speed: float, **more: Any) -> dict[str, Any]:
    """A contender that makes `speed` tokens a second after a slow first step."""
    return {
        "steps_s": [10.0, 1.0, 1.0], "tokens": [5, int(speed), int(speed)], "wall_s": 20.0, "judging_s": 2.0, "peak_bytes": 3 * 2**30,
        "imports_bytes": 2**30, "threads": 1, "rows": 6, "scored": 40, "loss": 1.0,
    } | more  # fmt: skip


def benchmark(**more: Any) -> Benchmark:
    ours, peer = Contender("ours", "m:ours"), Contender("peer", "m:peer", ({"batch": 1}, {"batch": 2}, {"batch": 3}))
    values: dict[str, Any] = {"ours": ours, "peers": (peer,), "prepare": "m:prepare", "inputs": {"rows": 6}, "quick_inputs": {}} | more
    return Benchmark("work", **values)


def run_with(calls: list[Any], answer: Callable[[str, Mapping[str, Any]], dict[str, Any]]) -> harness.Run:
    def run(target: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        calls.append((target, arguments.get("batch"), arguments["seed"]))
        assert arguments["rows"] == 6
        return answer(target, arguments)

    return run


def turns_of(answer: Callable[[str, Mapping[str, Any]], dict[str, Any]], rounds: int, calls: list[Any] | None = None) -> Any:
    b = benchmark()
    return harness.alternate((b.ours, *b.peers), b.inputs, rounds, run_with([] if calls is None else calls, answer), say=lambda _: None)


def test_contenders_alternate_and_the_fastest_setting_goes_on() -> None:
    calls: list[Any] = []
    speeds = {None: 100, 1: 30, 2: 50, 3: 40}
    turns = turns_of(lambda target, a: report(speeds[a.get("batch")]), 3, calls)
    assert calls[:4] == [("m:ours", None, 0), ("m:peer", 1, 0), ("m:peer", 2, 0), ("m:peer", 3, 0)]
    assert calls[4:] == [("m:ours", None, 1), ("m:peer", 2, 1), ("m:ours", None, 2), ("m:peer", 2, 2)]
    assert turns["peer"].setting == {"batch": 2} and len(turns["peer"].reports) == 3
    assert [(t["setting"], t["steady"]) for t in turns["peer"].tried] == [({"batch": 1}, 30.0), ({"batch": 3}, 40.0)]


def test_a_setting_that_fails_is_noted_and_a_contender_that_never_runs_is_an_error() -> None:
    def answer(target: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if arguments.get("batch") in (2, broken):
            raise children.ChildFailed("boom\nOutOfMemory: no room")
        return report(50)

    broken = 0
    turns = turns_of(answer, 2)
    assert {"setting": {"batch": 2}, "failed": "OutOfMemory: no room"} in turns["peer"].tried
    with pytest.raises(children.ChildFailed, match="none of its settings"):
        turns_of(lambda target, a: answer(target, {"batch": 2}), 1)


def test_speeds_leave_out_the_first_step_and_the_judging_and_charge_what_was_done_ahead() -> None:
    assert harness.steady(report(100)) == 100
    assert harness.steady(report(100, ahead_s=2.05)) == pytest.approx(200 / (2 + 2.05 * 200 / 205))
    assert harness.steady(report(100) | {"steps_s": [4.0], "tokens": [20]}) == 5
    assert harness.whole(report(100)) == pytest.approx(205 / 18)
    assert harness.peak(report(1)) == 3 and harness.above_imports(report(1)) == 2


def test_rows_have_the_schema_the_median_ratio_and_the_verdict() -> None:
    b = benchmark(
        limit=lambda facts, best: facts["ideal"],
        targets={("speed", "peer"): Target(least=2.0), ("memory", "peer"): Target(most=0.5), ("share", ""): Target(least=0.6, of="share")},
    )
    speeds = iter([100, 40, 120, 50, 110, 60])
    turns = harness.alternate((b.ours, Contender("peer", "m:peer")), b.inputs, 3, lambda t, a: report(next(speeds)), say=lambda _: None)
    rows = harness.rows_of(b, turns, {"ideal": 200.0}, BEST, "make bench")
    assert all(row.keys() >= SCHEMA for row in rows)
    assert [(row["metric"], row["phase"]) for row in rows[:4]] == [(metric, phase) for metric, phase, _ in harness.PHASES]
    steady, _, memory, _, share = rows
    assert (steady["ours"], steady["peer"], steady["ratio"], steady["runs"]) == (110, 50, 2.2, 3)
    assert steady["ratio_range"] == [1.833, 2.5] and steady["ours_range"] == [100, 120] and steady["target_met"] is True
    assert (steady["ours_share"], steady["peer_share"]) == (0.55, 0.25)
    assert (memory["ratio"], memory["target_met"]) == (1.0, False)
    assert (share["peer_name"], share["ours_share"], share["target_met"]) == ("roofline", 0.55, False)
    assert steady["machine"]["matmul_gflops"]["bfloat16"] == {"linear": 100.0, "head": 50.0}
    json.dumps(rows)


def test_ours_for_less_memory_has_rows_of_its_own_and_the_same_targets(tmp_path: Path) -> None:
    targets = {("memory", "peer"): Target(most=0.5), ("share", ""): Target(least=0.6, of="share")}
    b = benchmark(lean=Contender("ours, lean", "m:lean"), targets=targets, limit=lambda facts, best: 200.0)

    def answer(target: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return report(80, peak_bytes=2**30) if target == "m:lean" else report(100)

    turns = harness.alternate((*b.mine, *b.peers), b.inputs, 2, answer, say=lambda _: None)
    harness.check(b, turns)
    rows = harness.rows_of(b, turns, {}, BEST, "c")
    memory = [row for row in rows if row.get("phase") == "peak"]
    assert [(row.get("lean", False), row["peer_name"], row["target_met"]) for row in memory] == [(False, "peer", False), (True, "peer", True)]
    assert [row.get("lean", False) for row in rows if row["peer_name"] == "roofline"] == [False], "the share of the roofline is asked of the fast one"
    harness.store("dpo", [row | {"benchmark": "dpo"} for row in rows], tmp_path)
    text = page.page(tmp_path)
    assert "| DPO with reference, less memory | memory, peak | 1 GiB | 3 (peer) | 0.33 [0.33, 0.33] | ≤ 0.5: met |" in text
    assert "| 1.00 ✗ | 0.33 ✓, 0.80 |" in text
    turns["ours, lean"].reports[0]["loss"] = turns["ours, lean"].reports[1]["loss"] = 2.0
    with pytest.raises(AssertionError, match="the final loss differs from ours, lean's"):
        harness.check(b, turns)


def test_unequal_work_and_another_loss_are_refused() -> None:
    def turns(**theirs: Any) -> Any:
        return {"ours": harness.Turns({}, [report(1), report(1, loss=1.02)], []), "peer": harness.Turns({}, [report(1, **theirs)] * 2, [])}

    b = benchmark(tolerance=0.01)
    harness.check(b, turns(loss=1.01))
    with pytest.raises(AssertionError, match=r"scored differs: ours \[40, 40\], peer \[41, 41\]"):
        harness.check(b, turns(scored=41))
    with pytest.raises(AssertionError, match=r"optimizer steps differ: ours \[3, 3\], peer \[2, 2\]"):
        harness.check(b, turns(steps_s=[1.0, 1.0]))
    with pytest.raises(AssertionError, match=r"differs from peer's by 0\.0600, allowed is 0\.0383"):
        harness.check(b, turns(loss=1.07))
    harness.check(benchmark(tolerance=None), turns(loss=9.0))


def test_a_target_of_our_own_value_needs_no_peer() -> None:
    row = harness.row(
        "startup", "startup", [0.3, 0.5, 0.45], [], peer_name="no peer", unit="s", command="c", machine={}, target=Target(most=0.4, of="ours")
    )
    assert (row["ours"], row["peer"], row["ratio"], row["ratio_range"], row["target_met"]) == (0.45, None, None, None, False)


def test_results_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = harness.store("work", [{"a": 1}], tmp_path)
    with pytest.raises(TypeError):
        harness.store("work", [{"a": object()}], tmp_path)
    assert json.loads(path.read_text()) == [{"a": 1}] and [p.name for p in tmp_path.iterdir()] == ["work.json"]


def test_the_better_of_two_rooflines_counts() -> None:
    other = {"bfloat16": {"dtype": "bfloat16", "linear": 90.0, "head": 60.0, "decode": 10.0}}
    assert harness.faster(BEST, other) == {"bfloat16": {"dtype": "bfloat16", "linear": 100.0, "head": 60.0, "decode": 10.0}}
    assert Roofline(**BEST["bfloat16"]).seconds(Flops(linear=3e11, attention=1e11, head=1e11)) == 6.0


# --------------------------------------------------------------------------------------------------------------------------------------- children


def test_a_child_reports_its_value_its_wall_time_and_its_last_words() -> None:
    found = children.call("json:loads", {"s": '{"a": 1}'})
    assert found["a"] == 1 and found["code"] == 0 and found["wall_s"] > 0
    with pytest.raises(children.ChildFailed, match="Expecting value"):
        children.call("json:loads", {"s": "nothing"})


def test_the_peak_is_the_child_s_own_and_the_harness_stays_small(tmp_path: Path) -> None:
    """In a fresh parent, as the harness is: Linux carries a parent's peak over into its children."""
    program = f"""
import importlib, sys
from pathlib import Path
from benchmarks import __main__
from benchmarks.children import measured

for name in (*__main__.NAMES, "ours", "plain", "trl_peers", "page", "profile_step"):
    importlib.import_module(f"benchmarks.{{name}}")
assert not {{"torch", "transformers", "trl", "peft", "numpy"}} & set(sys.modules), "the harness is heavy"
for work in ("0", "b'x' * (200 << 20)"):
    print(measured([sys.executable, "-c", work], log=Path({str(tmp_path / "log")!r}))["peak_bytes"])
"""
    child = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert child.returncode == 0, child.stderr
    bare, large = map(int, child.stdout.split())
    assert bare < 64 << 20 and 200 << 20 <= large < 264 << 20


# ----------------------------------------------------------------------------------------------------------------------------------------- flops


def test_smollm2_has_the_weights_that_it_has() -> None:
    assert flops.SMOLLM2.linear == 106_168_320 and flops.SMOLLM2.head == 28_311_552
    # The library's count: embedding (tied to the head), blocks, two norms a block and the last one.
    assert flops.SMOLLM2.linear + flops.SMOLLM2.head + 61 * 576 == 134_515_008


def test_operations_equal_torch_s_count() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, ids = toy_llama(), torch.arange(12).view(1, 12) % 16
    shape, work = Shape.of(model.config), flops.segments([12], 12)

    def matmuls(mode: Any) -> int:
        counts = mode.get_flop_counts()["Global"]
        return sum(n for op, n in counts.items() if str(op) in ("aten.mm", "aten.addmm"))

    with FlopCounterMode(display=False) as counter:
        loss = model(input_ids=ids, use_cache=False).logits.sum()
    forward = flops.forward(shape, work)
    assert matmuls(counter) == forward.linear + forward.head
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    whole = flops.full(shape, work)
    assert matmuls(counter) == whole.linear + whole.head - forward.linear - forward.head


def test_work_by_hand() -> None:
    assert flops.segments([3, 2], 4) == Work(tokens=5, pairs=6 + 3, scored=4)
    # A prompt of 3, answers of 2 and 1: 6 pairs in the prompt, 2 * 3 + 3 and 3 + 1 in the answers.
    assert flops.shared(3, [2, 1], 3) == Work(tokens=6, pairs=6 + 9 + 4, scored=3)
    tiny = Shape(layers=1, hidden=2, inner=3, heads=1, kv_heads=1, head_dim=2, vocabulary=5)
    assert (tiny.linear, tiny.head, tiny.adapter(1)) == (4 * 4 + 3 * 6, 10, 4 * 4 + 3 * 5)
    assert flops.forward(tiny, Work(2, 3, 1)) == Flops(linear=2 * 34 * 2, attention=4 * 2 * 3, head=2 * 10)
    assert flops.full(tiny, Work(2, 3, 1)).total == 3 * flops.forward(tiny, Work(2, 3, 1)).total
    assert flops.lora(tiny, Work(2, 3, 1), 1) == Flops(linear=2 * 136 + 6 * 31 * 2, attention=3 * 24, head=40)
    prefill, decode = flops.sample(tiny, [3], [2, 1], samples=2)
    assert prefill == flops.forward(tiny, Work(3, 6, 1)) and decode == flops.forward(tiny, Work(1, 4, 1))


# --------------------------------------------------------------------------------------------------------------------------------------- profile


class Event:
    """An event of the profiler."""

    def __init__(self, name: str, parent: Event | None = None, shapes: Any = (), own: float = 1e6) -> None:
        self.name, self.cpu_parent, self.input_shapes, self.self_cpu_time_total = name, parent, shapes, own


def test_time_belongs_to_the_outermost_caller_that_has_a_rule() -> None:
    node = Event("autograd::engine::evaluate_function: MmBackward0")
    block, head = Event("aten::mm", node, [[8, 16], [16, 4]]), Event("aten::mm", node, [[8, 16], [16, 99]])
    attention = Event("aten::mm", Event("SegmentAttentionBackward"), [[8, 16], [16, 4]])
    step = Event("aten::mul", Event("Optimizer.step#AdamW.step"))
    events = [node, block, head, attention, step, Event("aten::item", own=5e5)]
    assert [group_of(e, 99) for e in events] == ["linear", "linear", "head", "attention", "optimizer", "other"]
    assert seconds_by_group(events, 99) == {"linear": 2.0, "head": 1.0, "attention": 1.0, "optimizer": 1.0, "other": 0.5}


# ------------------------------------------------------------------------------------------------------------------------------------------ page


def test_the_page_says_what_the_results_say(tmp_path: Path) -> None:
    assert "No results are stored." in page.page(tmp_path)
    speed = {"speed": Target(least=2.5), "memory": Target(most=0.5)}
    b = benchmark(limit=lambda facts, best: 200.0, targets={(metric, "peer"): t for metric, t in speed.items()})
    turns = turns_of(lambda target, a: report(100 if target == "m:ours" else 50), 2)
    rows = [row | {"benchmark": "dpo"} for row in harness.rows_of(b, turns, {}, BEST, "c")]
    harness.store("dpo", rows, tmp_path)
    profile = {"benchmark": "dpo", "shares": {"linear": 0.5, "attention": 0.3, "head": 0.2}, "threads": 2, "commit": "abc"}
    (tmp_path / "profile-dpo.json").write_text(json.dumps(profile))
    text = page.page(tmp_path)
    assert "| DPO with reference | speed, steady | 100 tokens/s | 50 (peer) | 2.00 [2.00, 2.00] | ≥ 2.5: **missed** | 50%, 25% | 2 |" in text
    missed = "- dpo, speed, steady, beside peer: ratio 2.00; target ≥ 2.5 missed."
    limit = "The matrix products alone would allow 200 tokens/s; we reach 50% of that, the target takes 62%."
    assert f"{missed} {limit} Beside the linear layers a step spends its time on attention (30%), head (20%)." in text
    assert "- dpo, peer: batch 1; tried, tokens/s: batch 2: 50; batch 3: 50" in text
    # At most: 200 tokens a second of the matrix products beside the peer's 50.
    assert "| DPO with reference | peer | speed ≥ 2.5, memory ≤ 0.5 | 2.00 ✗ | 4.00 | 1.95 ✗ | 1.00 ✗ |  |" in text


def test_a_ratio_next_to_its_target_has_a_digit_more(tmp_path: Path) -> None:
    b = benchmark(targets={("memory", "peer"): Target(most=0.4)})
    turns = turns_of(lambda target, a: report(100, imports_bytes=0, peak_bytes=int(2**30 * (0.4008 if target == "m:ours" else 1))), 2)
    harness.store("dpo", [row | {"benchmark": "dpo"} for row in harness.rows_of(b, turns, {}, BEST, "c")], tmp_path)
    text = page.page(tmp_path)
    assert "| 0.401 [0.40, 0.40] | ≤ 0.4: **missed** |" in text and "beside peer: ratio 0.401; target ≤ 0.4 missed." in text


def test_the_page_shows_merges_beside_the_disk(tmp_path: Path) -> None:
    b = benchmark(limit=lambda facts, best: 200e6, targets={("speed", "peer"): Target(least=3.0)})
    turns = turns_of(lambda target, a: report(100e6 if target == "m:ours" else 50e6), 2)
    rows = [row | {"benchmark": "merge ties"} for row in harness.rows_of(b, turns, {"parameters": 97e7}, BEST, "c")]
    harness.store("merge", rows, tmp_path)
    text = page.page(tmp_path)
    assert "Two models of 0.97 billion bfloat16 parameters" in text
    assert "| ties | speed, steady | 100 million/s | 50 million/s | 2.00 [2.00, 2.00] | ≥ 3: **missed** | 50%, 25% | 2 |" in text
    assert "The disk alone would allow 200,000,000" in text


def test_the_page_shows_seconds_without_a_peer_and_what_is_flat(tmp_path: Path) -> None:
    about: dict[str, Any] = {"command": "c", "machine": {"cpu": "x", "flags": ["avx512_bf16"], "cores": 2, "memory_gib": 8.0}}
    seconds = harness.row("startup", "startup", [2.0], [], peer_name="no peer", unit="s", phase="first", target=Target(most=1, of="ours"), **about)
    flat = harness.row(
        "growth", "memory", [1.05], [1.0], peer_name="ours at 8", unit="GiB", phase="at 9", target=Target(least=0.9, most=1.1), **about
    )
    harness.store("startup", [seconds], tmp_path)
    harness.store("growth", [flat], tmp_path)
    text = page.page(tmp_path)
    assert "| growth | x (avx512_bf16) | 2 | 8 GiB |  |" in text
    assert "| first | 2 [2, 2] |  | ≤ 1: **missed** | 1 |" in text
    assert "| at 9 | 1.05 GiB | 1 (ours at 8) | 1.05 [1.05, 1.05] | 0.9 to 1.1: met |  |" in text
    assert "- startup, startup, first, beside no peer: 2 s; target ≤ 1 missed." in text and "beside ours at 8" not in text


def test_the_processor_chooses_the_precision_and_a_user_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(precision.VARIABLE)
    for flags, name, dtype in ((["avx2"], "fp32", torch.float32), (["avx2", "amx_bf16"], "bf16", torch.bfloat16)):
        monkeypatch.setattr(precision, "describe", lambda flags=flags: {**machine.describe(), "flags": flags})
        assert (precision.name(), precision.torch_dtype()) == (name, dtype)
        with precision.autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype
    monkeypatch.setenv(precision.VARIABLE, "fp32")
    assert precision.name() == "fp32" and precision.flag() == " --precision fp32"
    monkeypatch.setenv(precision.VARIABLE, "half")
    with pytest.raises(ValueError, match="expected bf16 or fp32, got 'half'"):
        precision.name()


def test_results_of_both_precisions_stand_side_by_side_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b = benchmark()
    for name in precision.CHOICES:
        monkeypatch.setenv(precision.VARIABLE, name)
        turns = turns_of(lambda target, a: report(100 if target == "m:ours" else 50), 2)
        harness.store(f"dpo-{name}", [row | {"benchmark": "dpo"} for row in harness.rows_of(b, turns, {}, BEST, "c")], tmp_path)
    text = page.page(tmp_path)
    assert text.count("| DPO with reference | speed, steady |") == text.count("| DPO with reference, float32 | speed, steady |") == 1
