"""The mutation pass over a file that several methods share: a helper has no cases, so those of its users must notice."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType

from tempering.cases import Case
from tempering.proof import hand, mutants, rules


def _path(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise AssertionError(f"there is no module {module!r}")
    return Path(spec.origin)


class _Users:
    """The modules that stand on the shared one, compiled once and executed again on each mutant of it."""

    def __init__(self, shared: str, names: Sequence[str]) -> None:
        self.shared = shared
        trees = {name: ast.parse(_path(name).read_text(encoding="utf-8")) for name in names}
        self.codes: dict[str, CodeType] = {name: compile(tree, str(_path(name)), "exec") for name, tree in trees.items()}
        self.needed = {name: [other for other in names if other in _imported_by(tree)] for name, tree in trees.items()}
        self.cases: dict[str, tuple[Case, ...]] = {}
        self.inputs: dict[str, list[hand.Input]] = {}
        for name in names:
            self.cases[name] = mutants.cases_of(importlib.import_module(name), _path(name))
            self.inputs[name] = [hand.tensors(case) for case in self.cases[name]]
            for case, given in zip(self.cases[name], self.inputs[name], strict=True):
                if problem := hand.wrong(case, given):
                    raise AssertionError(f"{_path(name).name}, {hand.name_of(case)}: {problem}")
        self.order = list(names)
        self.reached = {name for tree in trees.values() for name in rules.mentioned(tree.body, mutants.SKIPPED)}

    def again(self, name: str) -> ModuleType:
        """The user, executed on the modules that stand in `sys.modules` now, after what it needs."""
        if isinstance(sys.modules[name].__loader__, mutants.Compiled):
            return sys.modules[name]
        for other in self.needed[name]:
            self.again(other)
        return mutants.execute(name, self.codes[name])

    def notice(self, shared: CodeType) -> str:
        """What the first user's first case says of a mutant; "" if none says anything."""
        names = [self.shared, *self.codes]
        real = {name: sys.modules[name] for name in names}
        try:
            mutants.execute(self.shared, shared)
            for name in list(self.order):
                module = self.again(name)
                for case, given in zip(module.CASES, self.inputs[name], strict=True):
                    if problem := hand.wrong(case, given):
                        self.order.remove(name)
                        self.order.insert(0, name)
                        return f"{name}, {case.what}: {problem}"
        finally:
            sys.modules.update(real)
        return ""


def _imported_by(tree: ast.Module) -> set[str]:
    return {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def survey(shared: str, users: Sequence[str]) -> mutants.Survey:
    """Make every mutant of a shared module and run its users' cases on each.

    Args:
        shared: the module's name, as it is imported.
        users: names of the methods' modules that import it, by themselves or through each other.

    Raises:
        AssertionError: a user has no cases or fails one as it is.
    """
    path = _path(shared)
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    module = importlib.import_module(shared)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        standing = _Users(shared, users)
        every = [case for cases in standing.cases.values() for case in cases]
        found = list(mutants.places(tree, mutants.vocabulary_of(every), standing.reached))
        results = tuple(mutants.tried(tree, found, lambda: standing.notice(compile(tree, str(path), "exec"))))
    return mutants.Survey(path, results, len(every), dict(getattr(module, "EQUIVALENT", {})))


def check(shared: str, users: Sequence[str]) -> mutants.Survey:
    """`survey`, with the verdict of `mutants.judge`."""
    return mutants.judge(survey(shared, users))
