"""The built wheel, installed into an empty environment, is the package: all its files are in it, and the program and the tiny model run from it.

The environment is made with venv and holds nothing but the wheel, installed with --no-deps. The libraries it depends on come from the environment
that runs the tests, through a .pth file that is read after the environment's own packages: downloading torch once more would test nothing of ours.
That the declared dependencies suffice is what `make demo` shows in a fresh clone. Nothing here needs the network.
"""

from __future__ import annotations

import email
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.wheel
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(*command: str | Path, cwd: Path) -> str:
    """Run to the end and give what was printed; a failure shows all of it. No variable of the tests' own environment points at the checkout."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=clean, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout without isolation (and so without the network)."""
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds the wheel and nothing else of ours."""
    folder = tmp_path_factory.mktemp("env") / "env"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-qq", "--no-deps", "--no-index", wheel, cwd=folder.parent)
    (site,) = folder.glob("lib/python*/site-packages")
    places = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    # Folders that a .pth file adds come after the environment's own, and their own .pth files (the checkout's editable install) are not read.
    (site / "zz_dependencies.pth").write_text("\n".join(places) + "\n", encoding="utf-8")
    return folder / "bin"


def test_everything_in_the_package_is_in_the_wheel(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    here = {str(path.relative_to(ROOT)) for path in (ROOT / "tempering").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    here |= {f"tempering/{path.relative_to(ROOT)}" for path in (ROOT / "replications").glob("*.json")}
    assert here - packed == set()
    assert {name for name in packed if not name.startswith("tempering/")} == {
        f"tempering-{PROJECT['version']}.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    }
    for kind in ("py.typed", ".safetensors", ".jsonl", ".css", ".js", ".tsv", "tokenizer.json"):
        assert any(name.endswith(kind) for name in packed), f"no {kind} in the wheel"
    assert wheel.stat().st_size < 15_000_000


def test_the_wheel_declares_what_the_project_does(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.message_from_bytes(archive.read(f"tempering-{PROJECT['version']}.dist-info/METADATA"))
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    declared = {re.sub(r"[-_.]+", "-", line) for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert declared == {re.sub(r"[-_.]+", "-", line) for line in PROJECT["dependencies"]}
    assert "torch>=2.11" in PROJECT["dependencies"]


def test_the_program_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    where = run(installed / "python", "-c", "import tempering; print(tempering.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent), "another copy of the package was imported"
    assert PROJECT["version"] in run(installed / "temper", "--version", cwd=tmp_path)
    listed = run(installed / "temper", "methods", cwd=tmp_path)
    for name in ("nll", "dpo", "full", "lora", "sft"):
        assert re.search(rf"\b{name}\b", listed), f"{name} is not listed:\n{listed}"
    assert re.search(r"\d+ replicated", run(installed / "temper", "board", cwd=tmp_path)), "the stored results do not travel with the package"


def test_the_tiny_model_loads_and_answers_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    program = (
        "import tempering as tp\n"
        "policy = tp.load('builtin:tiny')\n"
        "turn = {'role': 'user', 'content': 'What is 2 + 2?'}\n"
        "prompt = policy.tokenizer.apply_chat_template([turn], add_generation_prompt=True, return_dict=False)\n"
        "[[episode]] = tp.sample(policy, [prompt], max_new_tokens=8)\n"
        "print(sum(p.numel() for p in policy.model.parameters()), len(episode.ids), tp.__file__)\n"
    )
    size, sampled, where = run(installed / "python", "-c", program, cwd=tmp_path).split()[-3:]
    assert 1_000_000 <= int(size) <= 3_500_000
    assert 1 <= int(sampled) <= 8
    assert Path(where).is_relative_to(installed.parent)


def test_this_environment_has_the_pinned_versions() -> None:
    """Only where the Makefile made the environment: it installed with constraints.txt, so a difference means that the pins were not used."""
    if not (Path(sys.prefix) / ".package").exists():
        pytest.skip("this environment was not made by the Makefile")
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line)
    found = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    wrong = {}
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        # pip came with the environment; "+cpu" and the like are builds of one version.
        if name not in ("pip", "tempering") and distribution.version.split("+")[0] != found.get(name):
            wrong[name] = (distribution.version, found.get(name))
    assert not wrong, "installed, pinned"
