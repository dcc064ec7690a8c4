"""The table of commands: every line of it is a command, and a list of them imports none."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module

import pytest

from tempering.cli import main
from tempering.cli.app import COMMANDS, _summary


@pytest.mark.parametrize("name", COMMANDS)
def test_a_line_of_the_list_is_what_the_command_says_of_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, _, function = COMMANDS[name].partition(":")
    made = getattr(import_module(module), function)
    assert function.removesuffix("_command") == name
    about = _summary(COMMANDS[name])
    assert about and about == (inspect.getdoc(made) or "").split("\n\n")[0]
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: temper {name}")
    assert " ".join(about.split()) in " ".join(shown.split())


def test_the_list_imports_no_command_and_no_heavy_library() -> None:
    modules = {place.partition(":")[0] for place in COMMANDS.values()} | {"tempering.cli.run", "tempering.cli.reward"}
    code = (
        f"import sys; from tempering.cli import main; main(['--help']); print(sorted({modules | {'torch', 'pydantic', 'numpy'}} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "audit" in out and out.rstrip().endswith("[]")
