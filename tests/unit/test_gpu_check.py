"""`make gpu-check` without a GPU: it says so and fails; with --device cpu --small the same code runs, and its JSON has the stated form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import ConfigDict, TypeAdapter
from typing_extensions import TypedDict

from tempering.gpu_check import __main__ as gpu_check
from tempering.gpu_check.bench import Bench
from tempering.gpu_check.exact import FP32
from tempering.gpu_check.several import apart


class Item(TypedDict):
    """One check as the file holds it."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]
    name: str
    passed: bool | None
    value: float | None
    bound: float | None
    seconds: float
    note: str


class Found(TypedDict):
    """The file."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]
    date: str
    versions: dict[str, str | None]
    gpu: str
    small: bool
    checks: list[Item]


def test_without_a_gpu_nothing_is_run_and_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "there is no GPU that PyTorch can use here, so nothing was run" in err


def test_the_same_checks_on_a_processor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results" / "gpu.json"
    assert gpu_check.main(["--device", "cpu", "--small", "--out", str(path)]) == 0
    found = TypeAdapter(Found).validate_json(path.read_bytes())
    assert (found["gpu"], found["small"]) == ("cpu", True) and found["versions"]["torch"]
    checks = {check["name"]: check for check in found["checks"]}
    assert len(checks) == len(found["checks"])
    for name, check in checks.items():
        assert check["passed"] is (None if check["note"].startswith("not here: ") else True), name
        assert check["passed"] is None or check["bound"] is None or check["value"] <= check["bound"], name
    assert {
        "resume.bits",
        "sampling.alone=together",
        "sft_full.tokens_per_s",
        "sft_lora.peak_gib",
        "dpo.tokens_per_s",
        "two_gpus.pieces",
        "two_gpus.tensor",
    } <= set(checks)
    assert sum(name.startswith("dpo.fp32[") and check["passed"] is True for name, check in checks.items()) >= 4
    assert all(check["value"] > 0 for name, check in checks.items() if ".bf16[" in name), "bfloat16 that changes nothing was not bfloat16"
    assert {name for name, check in checks.items() if check["passed"] is None} >= {"sft_full.peak_gib", "nll.attention[flash_attention_2]"}
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(checks) + 1 and lines[-1].endswith(f"{path}")


def test_a_check_that_is_off_or_raises_fails_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(bench: Bench) -> float:
        raise ArithmeticError("off by one")

    monkeypatch.setattr(gpu_check, "resume", broken)
    monkeypatch.setattr(
        gpu_check, "exact", lambda bench: iter([("off", 0.5, lambda: 0.6), ("on", 0.5, lambda: 0.4), ("nan", None, lambda: float("nan"))])
    )
    monkeypatch.setattr(gpu_check, "speed", lambda bench, work, peaks: 1.0)
    path = tmp_path / "gpu.json"
    assert gpu_check.main(["--device", "cpu", "--small", "--out", str(path)]) == 1
    checks = {check["name"]: check for check in json.loads(path.read_text())["checks"]}
    assert (checks["off"]["passed"], checks["on"]["passed"], checks["nan"]["passed"], checks["nan"]["value"]) == (False, True, False, None)
    assert checks["resume.bits"]["passed"] is False and checks["resume.bits"]["note"] == "ArithmeticError: off by one"


@pytest.mark.slow
@pytest.mark.parametrize("tensor", [1, 2])
def test_two_processes_without_gpus_pass_the_check_of_two_gpus(tensor: int) -> None:
    """gloo stands in for nccl."""
    assert 0 < apart(Bench(torch.device("cpu"), small=True), tensor) < FP32
