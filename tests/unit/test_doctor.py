"""`temper doctor`: what is here, what is missing, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.cli_cases import temper

pytestmark = pytest.mark.usefixtures("empty_folder")


def test_doctor_names_what_is_missing_and_what_it_costs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from tempering import doctor

    assert temper(capsys, "doctor --fast")[0] == 0
    monkeypatch.setattr(doctor, "OPTIONAL", {"surely_not_there": ("pip install x", "y")})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    monkeypatch.setattr(doctor, "memory_bytes", lambda: (4 * 2**30, 2**30))
    monkeypatch.setattr(doctor, "NEEDED", ("torch", "surely-missing"))
    by_topic = {line.topic: line for line in doctor.examine(fast=True)}
    assert (by_topic["surely_not_there"].found, by_topic["surely_not_there"].mend) == ("not installed: no y", "pip install x")
    assert by_topic["disk here"].mark == "note"
    assert "1.0 GiB free" in by_topic["memory"].found
    assert by_topic["packages"].mark == "missing"
    assert temper(capsys, "doctor --fast")[0] == 2


def test_doctor_knows_the_allocator_and_how_to_have_a_better_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tempering import heap
    from tempering.doctor import _allocator

    maps = tmp_path / "maps"
    monkeypatch.delenv(heap.VARIABLE, raising=False)
    monkeypatch.setattr(heap, "_CARDS", ())
    assert _allocator(maps) == []
    maps.write_text("7f00-7f01 r-xp 0 fe:00 1 /usr/lib/x86_64-linux-gnu/libc.so.6\n")
    (line,) = _allocator(maps)
    assert line.mark == "note" and line.mend.startswith(f"{heap.VARIABLE}={heap.SETTING} ")
    monkeypatch.setattr(heap, "_CARDS", ("/dev/null",))
    assert _allocator(maps)[0].mark == "ok"
    monkeypatch.setenv(heap.VARIABLE, f"glibc.cpu.x=1:{heap.SETTING}")
    (line,) = _allocator(maps)
    assert line.mark == "ok" and "set to leave few holes" in line.found
    maps.write_text(maps.read_text() + "7f02-7f03 r-xp 0 fe:00 1 /usr/lib/libjemalloc.so.2\n")
    (line,) = _allocator(maps)
    assert (line.found, line.mark, line.mend) == ("jemalloc", "ok", "")
    maps.write_text("ld-musl\n")
    assert _allocator(maps) == []


def test_doctor_measures_bfloat16() -> None:
    import torch

    from tempering import doctor

    seconds = iter([2.0, 1.0])
    original = doctor._matmul_seconds
    try:
        doctor._matmul_seconds = lambda *_: next(seconds)  # type: ignore[assignment]
        line = doctor._bfloat16(torch)
    finally:
        doctor._matmul_seconds = original
    assert (line.found, line.mark) == ("matmuls 2.0x as fast as in float32", "ok")
    assert original(torch, "cpu", torch.float32, size=8, repeats=1) > 0
