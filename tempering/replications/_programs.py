"""Programs of three lines that a small model can write, and what tests say of them without running anything: for claims about unit tests.

A task names two steps ("double x, then add 3"). Its program is a function that takes them one by one. Verdicts are those of `sandbox.verdict.judge`
on the same code and tests (a test compares them), read off the syntax tree: whatever is not such a program is an error of its line.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Iterator
from itertools import product

from tempering.making import answer, user
from tempering.sandbox.verdict import Verdict
from tempering.types import Record
from tempering.worlds.base import rng

STEPS = {
    **{f"add {k}": f"+ {k}" for k in range(1, 10)},
    **{f"take away {k}": f"- {k}" for k in range(1, 10)},
    **{f"multiply by {k}": f"* {k}" for k in range(2, 10)},
}
TRIED = (2, 5, 9)
_DO = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
_SLIPS = ("d", "", "y")
"""What a sloppy writer puts where a name belongs: another name, nothing."""


def tasks(seed: int, held: bool) -> list[Record]:
    """Tasks with their program, in an order of the seed; a tenth of all is held out, the same for every seed."""
    found = [pair for pair in product(STEPS, STEPS) if (rng("programs", *pair).random() < 0.1) == held]
    rng("order", seed).shuffle(found)
    return [_task(*pair) for pair in found]


def _task(first: str, second: str) -> Record:
    lines = [f"    a = x {STEPS[first]}", f"    b = a {STEPS[second]}", "    return b"]
    right = [_run(x, first, second) for x in TRIED]
    tests = [f"assert f({x}) == {y}" for x, y in zip(TRIED, right, strict=True)]
    text = "\n".join(["def f(x):", *lines])
    return Record((user(f"Write f(x): {first}, then {second}."),), (answer(text),), id=f"{first}, {second}", tags={"tests": tests, "right": right})


def _run(x: int, *steps: str) -> int:
    for step in steps:
        sign, k = STEPS[step].split()
        x = {"+": x + int(k), "-": x - int(k), "*": x * int(k)}[sign]
    return x


def sloppy(records: list[Record], share: float, seed: int) -> Iterator[Record]:
    """Tasks as someone writes them who, in `share` of the programs, puts one name wrong or leaves it out."""
    for record in records:
        source, (response,) = rng("sloppy", seed, record.id), record.responses
        lines = response.messages[0].content.split("\n")
        if source.random() < share:
            at, slip = source.randrange(1, 4), source.choice(_SLIPS)
            name = "b" if at == 3 else "xa"[at - 1]
            head, _, tail = lines[at].rpartition(name)
            lines[at] = head + slip + tail
        yield Record(record.prompt, (answer("\n".join(lines)),), id=record.id, tags=record.tags)


def verdict(code: str, record: Record) -> Verdict:
    """What the record's tests say of a program."""
    right = record.tags["right"]
    try:
        # Compiled and never run: some errors of form are not the parser's.
        compile(code, "f", "exec", dont_inherit=True)
        (function,) = ast.parse(code).body
        assert isinstance(function, ast.FunctionDef) and function.name == "f" and [a.arg for a in function.args.args] == ["x"]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        kind, line = (type(error).__name__, error.lineno or 0) if isinstance(error, SyntaxError) else ("AttributeError", 0)
        return Verdict((False,) * len(right), (kind,) * len(right), (line,) * len(right))
    except AssertionError:
        return Verdict((False,) * len(right), ("AttributeError",) * len(right), (0,) * len(right))
    found = [_called(function, x) for x in TRIED]
    passed = tuple(kind == "" and value == y for (value, kind, _), y in zip(found, right, strict=True))
    return Verdict(
        passed, tuple("" if ok else kind or "AssertionError" for ok, (_, kind, _) in zip(passed, found, strict=True)), tuple(f[2] for f in found)
    )


def _called(function: ast.FunctionDef, x: int) -> tuple[int | None, str, int]:
    """What f(x) gives, or the kind of its error and the line."""
    known = {"x": x}
    for line in function.body:
        try:
            match line:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    known[name] = _value(value, known)
                case ast.Return(value=ast.expr() as value):
                    return _value(value, known), "", 0
                case ast.Return():
                    return None, "", 0
                case _:
                    raise TypeError
        except (NameError, TypeError) as error:
            return None, type(error).__name__, line.lineno
    return None, "", 0


def _value(node: ast.expr, known: dict[str, int]) -> int:
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.Name(id=name):
            if name not in known:
                raise NameError
            return known[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _DO:
            return _DO[type(op)](_value(left, known), _value(right, known))
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=operand):
            return _value(operand, known) * (-1 if isinstance(op, ast.USub) else 1)
    raise TypeError
