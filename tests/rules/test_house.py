"""The house rules as tests: what a reviewer would have to look for in every change is looked for here.

The rules read syntax trees and files; the one about light imports runs a child process. A rule that has to bend is changed here, with the reason.
"""

from __future__ import annotations

import ast
import functools
import gzip
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, SHARED

PACKAGE = ROOT / "tempering"
SOURCES = sorted(PACKAGE.rglob("*.py"))
METHODS = sorted(path for path in (PACKAGE / "methods").glob("*/*.py") if not path.stem.startswith("_"))
MAX_LINES = 400

HEAVY = {"torch", "transformers", "peft", "datasets", "scipy", "tokenizers", "accelerate", "sklearn", "pandas", "lm_eval", "trl"}
HEAVY |= {"tensorboard", "trackio", "wandb", "mlflow"}
"""What takes a second or more to import, or comes with such a thing."""
LIGHT = ("", "__main__", "cli", "config", "display", "doctor", "errors", "home", "index", "ledger", "ledger_types", "recipes", "runs", "types")
LIGHT += ("board", "cases", "choices", "merges", "reshapes", "docstrings", "logs", "options", "profiling", "watch")
LIGHT += ("making", "methods.scopes", "methods.streams", "methods.credits", "methods.environments", "rollouts.types", "rollouts.settings")
"""Modules and packages (with all that is in them) that `temper --help` and a recipe's signature may load."""

ALLOWED = {
    "errors": set(),
    "types": set(),
    "config": {"errors"},
    "reduce": {"types", "errors"},
    "forest": set(),
    "layout": {"types", "errors", "forest"},
    "merges": set(),
    "reshapes": set(),
    "cases": {"types", "merges"},
    # A loss of what a decode chain says is of its formula.
    "methods.objectives": {"types", "reduce", "config", "errors", "cases", "methods.decodes"},
    "methods.decodes": {"types", "config", "errors"},
    "methods.merges": {"errors", "cases", "merges"},
    "methods.reshapes": {"errors", "reshapes"},
    # A scope may begin with another model.
    "methods.scopes": {"types", "config", "errors", "index", "models"},
    "making": {"types", "config", "errors", "data"},
    "methods.streams": {"types", "config", "errors", "index", "cases", "making"},
    "methods.credits": {"types", "config", "errors", "index", "rollouts"},
    "methods.environments": {"types", "config", "errors", "index", "rollouts", "worlds", "lessons", "feed", "methods.rewards"},
    "methods.rewards": {"types", "reduce", "config", "errors", "index", "items", "layout", "models", "sampling", "signals", "rollouts"}
    | {"sandbox", "methods.probes"},
    "sandbox": {"errors"},
    "methods.probes": {"types", "reduce", "config", "errors", "items", "measure", "sample", "scored", "best_of", "methods.rewards", "forgetting"}
    | {"rollouts", "models", "remembered"},
}
"""Importer -> what it may import of tempering. Kinds of method that are not listed here may use what objectives may."""
FORBIDDEN = {
    "fit": {"methods", "recipes", "cli", "report", "experiment"},
    "signals": {"methods", "recipes", "cli", "report", "experiment"},
    "sample": {"methods", "recipes", "cli", "report", "experiment"},
    "sampling": {"methods", "recipes", "cli", "report", "experiment", "fit", "serve"},
    "rollouts": {"methods", "recipes", "cli", "report", "experiment", "fit", "measure"},
    "serve": {"methods", "recipes", "cli", "report", "experiment", "fit", "measure"},
    "data": {"methods", "recipes", "cli", "report", "experiment", "fit", "measure"},
    "models": {"methods", "recipes", "cli", "report", "experiment", "fit", "measure"},
    "report": {"methods", "recipes", "cli", "experiment", "fit", "measure", "models", "sample"},
    "ledger": {"methods", "recipes", "cli", "report", "experiment", "fit", "measure", "models", "sample"},
    "board": {"methods", "recipes", "cli", "experiment", "fit", "measure", "models", "sample"},
    "proof": {"cli", "report", "experiment", "recipes"},
    "experiment": {"recipes", "cli"},
    "feed": {"recipes", "cli", "fit", "report"},
    "recipes": {"cli", "report", "signals", "checkpoint", "optim", "stages"},
}
"""Importer -> what it must not import: the loop knows no method, and nothing reaches up to the command line."""


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def tracked() -> list[Path]:
    """Files of the project as git sees them, with new ones that it does not ignore; everything but built files where git is not there."""
    listing = subprocess.run(["git", "ls-files", "-c", "-o", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode == 0:
        return [path for line in listing.stdout.splitlines() if (path := ROOT / line).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]


def text_of(path: Path) -> str | None:
    """The file's text; None for a binary file."""
    content = path.read_bytes()
    return None if b"\0" in content[:8192] else content.decode("utf-8", errors="replace")


# ------------------------------------------------------------------------------------------------------------------------------------------ sizes


def test_no_file_is_over_budget() -> None:
    over = {str(path.relative_to(ROOT)): n for path in SOURCES if (n := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES}
    assert not over, f"split these: more than {MAX_LINES} lines"


def test_an_objective_is_a_small_file() -> None:
    over = {path.name: n for path in METHODS if path.parent.name == "objectives" and (n := len(path.read_text(encoding="utf-8").splitlines())) > 120}
    assert not over, "an objective's file has at most 120 lines; share what is common in a file that begins with an underscore, or extend the core"


# ---------------------------------------------------------------------------------------------------------------------------------------- imports


def group(module: str) -> str:
    """tempering.methods.objectives.dpo -> methods.objectives; tempering.data.rows -> data; tempering -> ''."""
    parts = module.split(".")[1:]
    return ".".join(parts[: 2 if parts[:1] == ["methods"] else 1])


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """Every module that a file imports, at the top or inside a function; `from tempering import x` counts as tempering.x."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{where(path, node)}: relative import; write the module's full name"
            if node.module == "tempering":
                yield from ((node, f"tempering.{alias.name}") for alias in node.names)
            else:
                yield node, node.module or ""


def test_imports_point_one_way() -> None:
    wrong = []
    for path in SOURCES:
        mine = group(module_of(path))
        allowed = ALLOWED.get(mine, ALLOWED["methods.objectives"] if mine.startswith("methods.") else None)
        for node, name in imports(path):
            if name.split(".")[0] != "tempering" or group(name) == mine:
                continue
            theirs = group(name)
            if allowed is not None and theirs not in allowed:
                wrong.append(f"{where(path, node)}: {mine} may import {sorted(allowed)} of tempering, not {theirs}")
            if any(theirs == bad or theirs.startswith(bad + ".") for bad in FORBIDDEN.get(mine, ())):
                wrong.append(f"{where(path, node)}: {mine} must not know {theirs}")
            if theirs == "proof" and mine not in ("cli", "replications", "board"):
                wrong.append(f"{where(path, node)}: methods and the engine know nothing of how they are proved")
            if theirs == "cli" and mine not in ("__main__", "demo", "doctor", ""):
                wrong.append(f"{where(path, node)}: only the command line imports the command line")
    assert not wrong, "\n".join(wrong)


def test_only_the_reduction_divides_by_counts() -> None:
    """`reduce` is the one place with a mean: an objective that takes one would change with the size of a micro-batch."""
    wrong = [
        where(path, node)
        for path in METHODS
        if path.parent.name == "objectives"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("mean", "nanmean")
    ]
    assert not wrong, "return unreduced losses and let reduce divide"


def test_light_modules_stay_light() -> None:
    """In one child: import every light module in turn, and after each look for a heavy library among the loaded ones."""
    names = []
    for path in SOURCES:
        short = module_of(path).removeprefix("tempering").removeprefix(".")
        if short in LIGHT or any(short.startswith(f"{light}.") for light in LIGHT if light):
            names.append(module_of(path))
    # The bare package first: it alone must load nothing.
    program = (
        "import importlib, json, sys\n"
        "found = {}\n"
        f"for name in {sorted(set(names), key=lambda n: (n.count('.'), n))!r}:\n"
        "    importlib.import_module(name)\n"
        f"    loaded = sorted({HEAVY!r} & set(sys.modules))\n"
        "    found[name] = loaded\n"
        "print(json.dumps(found))\n"
    )
    child = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    assert {"tempering", "tempering.cli", "tempering.recipes.sft", "tempering.methods.scopes.lora", "tempering.ledger"} <= set(found)
    assert not {name: loaded for name, loaded in found.items() if loaded}, "the first module named here loads them"


# ---------------------------------------------------------------------------------------------------------------------------- docstrings and types


def test_every_public_name_has_a_docstring() -> None:
    missing = []
    for path in SOURCES:
        if not ast.get_docstring(tree(path)):
            missing.append(f"{path.relative_to(ROOT)}: module")
        defined = [node for node in tree(path).body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
        missing += [f"{where(path, node)}: {node.name}" for node in defined if not node.name.startswith("_") and not ast.get_docstring(node)]
    assert not missing, "\n".join(missing)


def test_every_function_is_annotated() -> None:
    missing = []
    for path in SOURCES:
        for scope in [tree(path), *(node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef))]:
            for node in scope.body:
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    continue
                args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
                bare = [arg.arg for arg in args if arg is not None and arg.annotation is None]
                static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
                if isinstance(scope, ast.ClassDef) and not static and bare[:1] in (["self"], ["cls"]):
                    bare = bare[1:]
                if bare or node.returns is None:
                    missing.append(f"{where(path, node)}: {node.name}: {bare or 'return type'}")
    assert not missing, "\n".join(missing)


def test_every_file_postpones_annotations() -> None:
    def postpones(path: Path) -> bool:
        return any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree(path).body)

    assert not [str(path.relative_to(ROOT)) for path in SOURCES if len(tree(path).body) > 1 and not postpones(path)]


@pytest.mark.parametrize("path", METHODS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_method_file_has_one_public_name(path: Path) -> None:
    """Beside it only the types that belong to it (a probe's items, a scope's handle) and, in a probe, the formulas of its score, which tests compare
    with libraries."""
    public = [node for node in tree(path).body if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")]
    others = [node.name for node in public if node.name.lower() != path.stem.replace("_", "")]
    assert len(public) == len(others) + 1, f"{path.name} must define one public name that is its file name in another case"
    own = {node.name for node in public if isinstance(node, ast.ClassDef) and node.name.endswith(("Item", "Handle"))}
    formulas = {node.name for node in public if isinstance(node, ast.FunctionDef) and path.parent.name == "probes"}
    assert not set(others) - own - formulas, (
        "one method, one file, one name: helpers begin with an underscore, or live where several methods find them"
    )


# ----------------------------------------------------------------------------------------------------------------------------------------- safety

CODE = sorted(path for folder in ("tempering", "benchmarks", "replications", "docs") for path in (ROOT / folder).rglob("*.py"))


def calls(path: Path) -> Iterator[tuple[ast.Call, str]]:
    """Every call in a file with its dotted name: torch.load(...) -> "torch.load"; a method of an expression -> ".load"."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            try:
                yield node, ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""
            except RecursionError:  # pragma: no cover
                yield node, ""


def flag(node: ast.Call, name: str) -> object:
    """The constant given for a keyword; None where it is absent or not a constant."""
    return next((k.value.value for k in node.keywords if k.arg == name and isinstance(k.value, ast.Constant)), None)


def test_nothing_that_is_read_can_run() -> None:
    wrong = []
    for path in CODE:
        for node, name in imports(path):
            if name.split(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"):
                wrong.append(f"{where(path, node)}: {name}")
        for node, name in calls(path):
            if name in ("eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "jinja2.Template", "Template"):
                wrong.append(f"{where(path, node)}: {name}()")
            if name == "torch.load" and flag(node, "weights_only") is not True:
                wrong.append(f"{where(path, node)}: torch.load without weights_only=True")
            if flag(node, "trust_remote_code") is True:
                wrong.append(f"{where(path, node)}: trust_remote_code=True")
            if flag(node, "shell") is True:
                wrong.append(f"{where(path, node)}: shell=True")
            if name.split(".")[-1] == "Environment" and flag(node, "autoescape") is not True:
                wrong.append(f"{where(path, node)}: a jinja environment without autoescape=True")
    assert not wrong, "\n".join(wrong)


def test_templates_escape_everything() -> None:
    """What a model wrote ends up in these pages: no `|safe`, no autoescape switched off, nothing loaded from the network."""
    wrong = []
    for path in sorted(PACKAGE.rglob("*")):
        if path.suffix not in (".html", ".j2", ".jinja", ".css", ".js"):
            continue
        text = path.read_text(encoding="utf-8")
        for pattern in (r"\|\s*safe\b", r"autoescape\s+false", r"(?:src|href)\s*=\s*.?https?:", r"@import", r"url\(\s*.?https?:"):
            wrong += [f"{path.relative_to(ROOT)}: {match.group()}" for match in re.finditer(pattern, text, flags=re.IGNORECASE)]
    assert not wrong, "\n".join(wrong)


# ------------------------------------------------------------------------------------------------------------------------------- what is committed


def test_nothing_names_a_registry_or_this_machine() -> None:
    """Pieces are joined here so that this file does not name them either."""
    hosts = ["pypi" + ".org", "python" + "hosted", "download." + "pytorch", "registry." + "npmjs", "deb." + "debian", "proxy." + "golang"]
    folders = ["/wo" + "rk/", "/opt/" + "pypi", "/opt/" + "wheels", "/home/" + "runner"]
    wrong = []
    for path in tracked():
        text = text_of(path) or ""
        wrong += [f"{path.relative_to(ROOT)}: {word}" for word in hosts + folders if word in text]
    assert not wrong, "\n".join(wrong)


def test_committed_files_are_small() -> None:
    """The tiny model is the largest thing in the tree."""
    assert not {str(path.relative_to(ROOT)): path.stat().st_size for path in tracked() if path.stat().st_size > 10_000_000}


def strings(value: object) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def records(text: str) -> Iterator[str]:
    """The lines of a text and, where a line is JSON, every string in it; each with single spaces, and only those long enough to be telling."""
    found = text.splitlines()
    for line in text.splitlines():
        if line.lstrip()[:1] in ("{", "["):
            try:
                found += strings(json.loads(line))
            except ValueError:
                continue
    for piece in list(found):
        found += piece.splitlines() if "\n" in piece else []
    return (joined for piece in found if len(joined := " ".join(piece.split())) >= 60)


def test_no_record_of_the_real_data_is_committed() -> None:
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real data is not here: {SHARED / 'data'} (set TEMPERING_SHARED)")
    theirs: set[int] = set()
    for path in sorted((SHARED / "data").rglob("*")):
        if path.suffix in (".jsonl", ".json", ".csv", ".txt", ".gz"):
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            theirs |= {hash(piece) for piece in records(content.decode("utf-8", errors="replace"))}
    assert len(theirs) > 10_000, "the check has nothing to compare with"
    wrong = []
    for path in tracked():
        text = text_of(path)
        if text is None or path.name in ("LICENSE", "constraints.txt"):
            continue
        pieces = []
        if path.suffix == ".py":
            # A line of code may stand in any code data set; what is in its strings may not.
            constants = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
            pieces += [piece for constant in constants for piece in records(constant)]
        elif path.suffix == ".json":
            pieces += [piece for string in strings(json.loads(text)) for piece in records(string)]
        else:
            pieces += records(text)
        wrong += [f"{path.relative_to(ROOT)}: {piece[:80]}" for piece in pieces if hash(piece) in theirs]
    assert not wrong, "\n".join(wrong)
