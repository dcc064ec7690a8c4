"""The mutation pass: a method's file is changed in every way `rules` knows, one place at a time, and its own cases must notice each change.

A mutant has a readable id that survives moved lines, function:kind:ordinal, for example "__call__:flip-sign:2". One that the cases cannot notice
because nothing changes stands in the file's `EQUIVALENT` with the reason; the contract tests allow two of those.

Mutants are compiled, never written, and imported through Python's import machinery under a name of their own.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.abc
import importlib.util
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import torch

from tempering import reduce
from tempering.cases import Case, MergeCase
from tempering.proof import hand, rules
from tempering.types import Batch

SKIPPED = {"CASES", "EQUIVALENT", "__all__"}
UNTOUCHED = {"needs", "reads", "__post_init__", "__repr__", "__str__"}
"""Methods with tests of their own: `contract` holds `needs`, and the `reads` it is made of, to what is read."""
GRAPHLESS = {"stats", "initial", "advance"}
"""Methods of an objective that are computed without gradient."""
MOST_EQUIVALENT = 2
"""Of a method's file; a larger one that methods share may have one for every 25 mutants."""


@dataclass(frozen=True)
class Mutant:
    """One change, and what came of it. `noticed` is the first case's complaint, or what was raised; "" for a survivor."""

    id: str
    line: int
    before: str
    after: str
    noticed: str
    raised: bool = False

    def __str__(self) -> str:
        return f"{self.id} (line {self.line}): {self.before}  ->  {self.after}"


@dataclass(frozen=True)
class Survey:
    """All mutants of a file, and its `EQUIVALENT`."""

    path: Path
    mutants: tuple[Mutant, ...]
    cases: int
    equivalent: Mapping[str, str]

    @property
    def survivors(self) -> tuple[Mutant, ...]:
        return tuple(m for m in self.mutants if not m.noticed)

    def __str__(self) -> str:
        killed = len(self.mutants) - len(self.survivors)
        raised = sum(m.raised for m in self.mutants)
        return f"{self.path.stem}: {killed} of {len(self.mutants)} mutants noticed by {self.cases} cases ({raised} of them by an exception)"


# -------------------------------------------------------------------------------------------------------------------------------------- the places


@dataclass(frozen=True)
class Place:
    """Where a replacement goes: a field of a node, or one element of a field that is a list."""

    parent: ast.AST
    field: str
    index: int | None

    def get(self) -> Any:
        value = getattr(self.parent, self.field)
        return value if self.index is None else value[self.index]

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


Change = tuple[str, Place, str, ast.AST]
"""(function, place, kind, replacement)"""


def places(tree: ast.Module, vocabulary: rules.Vocabulary, also: Collection[str] = ()) -> Iterator[Change]:
    """Every change of a file, in reading order.

    Args:
        also: names that others use, beside the file's classes.
    """
    reached = rules.used_by(tree.body, SKIPPED, also)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in reached:
            yield from _of_class(node, vocabulary)
        elif isinstance(node, ast.FunctionDef) and node.name in reached:
            yield from _of_function(node, vocabulary)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id in reached:
                yield from _within(target.id, Place(node, "value", None), rules.Where(vocabulary))


def overrides(tree: ast.Module) -> Iterator[Change]:
    """Every class-level value left out, so that the base class's holds: for files that consist of nothing else."""
    for node in tree.body:
        for i, inner in enumerate(node.body if isinstance(node, ast.ClassDef) else ()):
            if isinstance(inner, ast.Assign | ast.AnnAssign) and inner.value is not None:
                yield (
                    ast.unparse(inner.targets[0] if isinstance(inner, ast.Assign) else inner.target),
                    Place(node, "body", i),
                    "drop-override",
                    ast.Pass(),
                )


def _of_class(node: ast.ClassDef, vocabulary: rules.Vocabulary) -> Iterator[Change]:
    values: dict[str, ast.stmt] = {}
    for inner in node.body:
        target = inner.targets[0] if isinstance(inner, ast.Assign) else inner.target if isinstance(inner, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and getattr(inner, "value", None) is not None:
            values[target.id] = inner
    per = getattr(getattr(values.get("per"), "value", None), "value", "token")
    for name, inner in values.items():
        for kind, new in rules.class_value(name, inner.value, per, vocabulary):  # type: ignore[attr-defined]
            yield name, Place(inner, "value", None), kind, new
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef) and inner.name not in UNTOUCHED:
            yield from _of_function(inner, vocabulary)


def _of_function(node: ast.FunctionDef, vocabulary: rules.Vocabulary) -> Iterator[Change]:
    graphless = node.name in GRAPHLESS
    for i, decorator in enumerate(node.decorator_list):
        if "no_grad" in ast.unparse(decorator) and not graphless:
            yield node.name, Place(node, "decorator_list", i), "drop-detach", ast.Name(rules.PREFIX + "same", ast.Load())
    where = rules.Where(vocabulary, graphless=graphless)
    for i in range(len(node.body)):
        yield from _within(node.name, Place(node, "body", i), where)


def _within(function: str, place: Place, where: rules.Where) -> Iterator[Change]:
    node = place.get()
    if (
        not isinstance(node, ast.AST)
        or isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.expr_context | ast.operator)
        or rules.is_guard(node)
    ):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    yield from ((function, place, kind, new) for kind, new in rules.changes(node, where))
    inside = replace(where, bare=where.bare and isinstance(node, ast.UnaryOp))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "log" and node.keywords and not node.args:
        inside = replace(inside, logging=True)
    name = rules.called(node)[0]
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "type_comment") or (isinstance(node, ast.FunctionDef | ast.Lambda) and field == "args"):
            continue
        found = [Place(node, field, i) for i in range(len(value))] if isinstance(value, list) else [Place(node, field, None)]
        for child in found:
            bare = (field == "args" and name in rules.DIMENSIONS) or (isinstance(node, ast.keyword) and node.arg in ("dim", "dims"))
            yield from _within(function, child, replace(inside, bare=inside.bare or bare))


# ------------------------------------------------------------------------------------------------------------------------------- as imported modules


class Compiled(importlib.abc.InspectLoader):
    """Gives Python's import machinery a module that is already compiled."""

    def __init__(self, code: CodeType) -> None:
        self.code = code

    def get_code(self, fullname: str) -> CodeType:
        return self.code

    def get_source(self, fullname: str) -> None:
        return None

    def is_package(self, fullname: str) -> bool:
        return False


def _unmasked(batch: Batch) -> Batch:
    return replace(batch, weight_T=torch.ones_like(batch.weight_T))


_HELPERS = {"segment_sum": reduce.segment_sum, "segment_mean": reduce.segment_mean, "unmasked": _unmasked, "nothing": contextlib.nullcontext}
_HELPERS["same"] = lambda function: function


def execute(name: str, code: CodeType) -> ModuleType:
    """Compiled code as a module that stands in `sys.modules`, where dataclasses look up names; the caller takes it away again."""
    loader = Compiled(code)
    module = importlib.util.module_from_spec(ModuleSpec(name, loader))
    vars(module).update({rules.PREFIX + key: value for key, value in _HELPERS.items()})
    sys.modules[name] = module
    loader.exec_module(module)
    return module


@contextlib.contextmanager
def _imported(tree: ast.Module, path: Path) -> Iterator[ModuleType]:
    name = f"_tempering_mutant_{path.stem}"
    try:
        yield execute(name, compile(tree, str(path), "exec"))
    finally:
        sys.modules.pop(name, None)


# ------------------------------------------------------------------------------------------------------------------------------------------ the pass


def cases_of(module: ModuleType, path: Path) -> tuple[Any, ...]:
    """The cases of a method's module.

    Raises:
        AssertionError: there are none.
    """
    cases = tuple(getattr(module, "CASES", ()))
    if not cases:
        raise AssertionError(f"{path.name} has no CASES: end it with `CASES = (Case(...), ...)`, hand-worked values that cover every branch")
    return cases


def vocabulary_of(cases: Sequence[Case]) -> rules.Vocabulary:
    """The signals and parts that the cases' objectives need; merges have none."""
    needs = [case.objective.needs for case in cases if not isinstance(case, MergeCase)]
    signals = sorted({name for need in needs for names in need.values() for name in names})
    return rules.Vocabulary(signals, sorted({part for need in needs for part in need}))


def survey(path: Path | str) -> Survey:
    """Make every mutant of a method's file and run the file's own cases on it.

    Raises:
        AssertionError: there are no cases, or the untouched file fails one.
    """
    path = Path(path)
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _imported(tree, path) as module:
            cases = cases_of(module, path)
            inputs = [hand.tensors(case) for case in cases]
            for case, given in zip(cases, inputs, strict=True):
                if problem := hand.wrong(case, given):
                    raise AssertionError(f"{path.name}, {hand.name_of(case)}: {problem}")
        order = list(range(len(cases)))

        def notice() -> str:
            with _imported(tree, path) as module:
                for i in order:
                    if problem := hand.wrong(module.CASES[i], inputs[i]):
                        # The case that noticed this one will notice most of its neighbours.
                        order.remove(i)
                        order.insert(0, i)
                        return f"{module.CASES[i].what}: {problem}"
            return ""

        found = list(places(tree, vocabulary_of(cases))) or list(overrides(tree))
        return Survey(path, tuple(tried(tree, found, notice)), len(cases), dict(getattr(module, "EQUIVALENT", {})))


def tried(tree: ast.Module, found: Iterable[Change], notice: Callable[[], str]) -> Iterator[Mutant]:
    """Each change in turn: made in the tree, noticed or not, and taken back."""
    ordinals: dict[tuple[str, str], int] = {}
    for function, place, kind, new in found:
        ordinals[function, kind] = number = ordinals.get((function, kind), 0) + 1
        old = place.get()
        place.put(ast.fix_missing_locations(ast.copy_location(new, old)))
        noticed, raised = "", False
        try:
            noticed = notice()
        except Exception as error:
            noticed, raised = f"{type(error).__name__}: {error}", True
        finally:
            place.put(old)
        yield Mutant(f"{function}:{kind}:{number}", getattr(old, "lineno", 0), ast.unparse(old), ast.unparse(new), noticed, raised)


def judge(found: Survey) -> Survey:
    """Every mutant is noticed but those in `EQUIVALENT`: at most two, each with a reason, each a survivor.

    Raises:
        AssertionError: naming each survivor with its line and change, or what is wrong with `EQUIVALENT`.
    """
    survivors = {mutant.id: mutant for mutant in found.survivors}
    problems = [f"  {mutant}" for name, mutant in survivors.items() if name not in found.equivalent]
    if problems:
        problems.insert(0, f"{found.path.name}: no case notices these changes; add cases that do:")
    problems += [f"EQUIVALENT names {name!r}, which is no surviving mutant" for name in found.equivalent if name not in survivors]
    problems += [f"EQUIVALENT gives no reason for {name!r}" for name, reason in found.equivalent.items() if not str(reason).strip()]
    most = max(MOST_EQUIVALENT, len(found.mutants) // 25 if found.path.stem.startswith("_") else 0)
    if len(found.equivalent) > most:
        problems.append(f"EQUIVALENT has {len(found.equivalent)} entries; at most {most} are believed")
    if problems:
        raise AssertionError("\n".join(problems))
    return found


def check(path: Path | str) -> Survey:
    """`survey`, with the verdict of `judge`."""
    return judge(survey(path))
