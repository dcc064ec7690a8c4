"""The index: found by walking, read without importing, cached by file, with the closest right name for a wrong one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tempering import docstrings, index
from tempering.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

OBJECTIVE = '''"""My loss: what it is. More about it.

Someone et al. 2020, arXiv 2001.00001, and arXiv:2002.00002.
"""
raise RuntimeError("never imported")

class MyLoss:
    """Detail of the class."""
'''
RECIPE = '''"""A recipe that uses it."""
def use():
    """Do it.

    Args:
        a: first.
    """
    from tempering.methods.objectives.my_loss import MyLoss
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    root = tmp_path / "package"
    (root / "methods/objectives").mkdir(parents=True)
    (root / "recipes/family").mkdir(parents=True)
    (root / "methods/objectives/__init__.py").write_text("")
    (root / "methods/objectives/my_loss.py").write_text(OBJECTIVE)
    (root / "recipes/family/use.py").write_text(RECIPE)
    return root


def test_entries_are_found_by_walking_and_nothing_is_imported(package: Path, tmp_path: Path) -> None:
    found = index.scan(package, tmp_path / "cache.json")
    assert [(e.kind, e.name, e.public, e.module) for e in found] == [
        ("objective", "my_loss", "MyLoss", "tempering.methods.objectives.my_loss"),
        ("recipe", "use", "use", "tempering.recipes.family.use"),
    ]
    loss, use = found
    assert (loss.summary, loss.arxiv, loss.detail, loss.line) == ("My loss: what it is.", ("2001.00001", "2002.00002"), "Detail of the class.", 7)
    assert loss.module in use.uses


def test_the_cache_is_used_until_a_file_changes(package: Path, tmp_path: Path) -> None:
    cache, file = tmp_path / "cache.json", package / "methods/objectives/my_loss.py"
    index.scan(package, cache)
    stored = json.loads(cache.read_text())
    stored["files"][str(file)]["entry"]["summary"] = "from the cache"
    cache.write_text(json.dumps(stored))
    assert index.scan(package, cache)[0].summary == "from the cache"
    file.write_text(OBJECTIVE.replace("what it is", "changed now"))
    assert index.scan(package, cache)[0].summary == "My loss: changed now."


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 999, "files": {}}', "nested"])
def test_a_broken_cache_is_made_anew(package: Path, tmp_path: Path, content: str) -> None:
    cache = tmp_path / "cache.json"
    index.scan(package, cache)
    if content == "nested":
        stored = json.loads(cache.read_text())
        content = json.dumps({**stored, "files": {key: {**value, "entry": {"kind": 3}} for key, value in stored["files"].items()}})
    cache.write_text(content)
    assert [e.name for e in index.scan(package, cache)] == ["my_loss", "use"]


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(package: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert len(index.scan(package, tmp_path / "file" / "cache.json")) == 2


def test_a_file_that_does_not_parse_is_left_out(package: Path, tmp_path: Path) -> None:
    (package / "methods/objectives/broken.py").write_text("def (")
    assert [e.name for e in index.scan(package, tmp_path / "c.json")] == ["my_loss", "use"]


def test_every_entry_of_the_package_has_its_public_name_and_a_summary() -> None:
    lacking = [f"{e.kind}/{e.name}" for e in index.entries() if not e.public or not e.summary]
    assert lacking == []


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("dpo", None, ("objective", "dpo")),
        ("DPO", None, ("objective", "dpo")),
        ("recipe/dpo", None, ("recipe", "dpo")),
        ("dpo", "recipe", ("recipe", "dpo")),
        ("exact-answer", None, ("probe", "exact_answer")),
        ("LoRA", None, ("scope", "lora")),
    ],
)
def test_find(name: str, kind: str | None, found: tuple[str, str]) -> None:
    entry = index.find(name, kind)
    assert (entry.kind, entry.name) == found


def test_an_unknown_name_gets_the_closest_one() -> None:
    with pytest.raises(UserError, match="did you mean 'perplexity'"):
        index.find("perplexty")


def test_recipes_of_a_method_and_of_a_union() -> None:
    assert index.recipes_of(index.find("nll")) != ()
    assert {"dpo", "sft"} <= set(index.recipes_of(index.find("full", "scope")))
    assert index.recipes_of(index.find("objective/dpo")) == ("dpo", "roads", "prefer")


def test_search_wants_every_word() -> None:
    assert {row.entry.name for row in index.search("2305.18290")} >= {"dpo"}
    assert index.search("dpo nothinglikethis") == ()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("stf", "there is no recipe 'stf'; did you mean 'sft'?"),
        ("nope.py:f", "there is no file nope.py"),
        ("bad.py:f", "line 1"),
        ("good.py:missing_one", "has no function 'missing_one'; did you mean 'missing_on'"),
        ("imports.py:f", "No module named 'surely_not_there'"),
    ],
)
def test_recipes_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text("def f(:")
    (tmp_path / "good.py").write_text("def missing_on() -> None: ...")
    (tmp_path / "imports.py").write_text("import surely_not_there")
    with pytest.raises(UserError) as error:
        index.load_recipe(spec)
    assert message in str(error.value)


def test_a_recipe_file_hides_no_module_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("def json() -> int:\n    return 7")
    assert index.load_recipe(str(tmp_path / "json.py"))() == 7
    assert sys.modules["json"] is json


def test_argument_docs_keep_continuation_lines() -> None:
    doc = """Do it.

    Args:
        a: first, and
            more of it.
        b_c (int): second.

    Returns:
        d: not an argument.
    """
    assert docstrings.argument_docs(doc) == {"a": "first, and more of it.", "b_c": "second."}


def test_field_docs_are_the_text_under_the_field() -> None:
    from tempering.config import Training

    assert docstrings.field_docs(Training)["steps"] == "Optimizer steps."


@pytest.mark.parametrize(
    ("doc", "sentence"),
    [("One. Two.", "One."), ("Uses e.g. this (a.b) and ends. Next", "Uses e.g. this (a.b) and ends."), ("No stop", "No stop"), ("", "")],
)
def test_first_sentence(doc: str, sentence: str) -> None:
    assert index.first_sentence(doc) == sentence


LIGHT = ("torch", "transformers", "peft", "datasets", "scipy")


@pytest.mark.parametrize(
    "code",
    [
        "import tempering as tp; tp.UserError, tp.run, tp.Optimizer",
        "from tempering.cli import main; main(['--help'])",
        "from tempering.cli import main; main(['run', 'sft', '--help'])",
        "from tempering.cli import main; main(['run', 'sft', '--lr', '1', '--dry-run'])",
        "from tempering.cli import main; main(['methods'])",
        "from tempering.cli import main; main(['runs'])",
        "from tempering.cli import main; main(['schema', 'dpo'])",
    ],
)
def test_light_commands_import_nothing_heavy(code: str, tmp_path: Path) -> None:
    check = f"import sys; {code}; print('HEAVY', [m for m in {LIGHT!r} if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_the_public_names_are_all_there() -> None:
    import tempering as tp

    assert [name for name in tp.__all__ if not callable(getattr(tp, name)) and name not in ("Row",)] == []
    with pytest.raises(AttributeError, match="nonsense"):
        tp.nonsense  # noqa: B018


@pytest.mark.parametrize("name", ["fit", "measure", "sample"])
def test_modules_named_like_their_function_can_be_called(name: str) -> None:
    import importlib

    import tempering as tp

    module = importlib.import_module(f"tempering.{name}")
    assert getattr(tp, name) is module
    with pytest.raises(TypeError, match=f"{name}\\(\\)"):
        module()  # the function's own complaint about missing arguments
