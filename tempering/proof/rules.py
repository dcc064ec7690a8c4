"""How a method's file may be changed: for each node of its syntax tree, the replacements that a wrong paper-to-code step would have made.

A rule gives (kind, replacement) pairs. Replacements share children with the original tree and are put in its place one at a time (mutants.py).
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

HELPERS = ("segment_sum", "segment_mean", "unmasked", "nothing", "same")
"""Functions that a mutant may call whether or not the file imports them, with `PREFIX` in front."""
PREFIX = "_proof_"

MINMAX = {"min": "max", "minimum": "maximum", "amin": "amax", "fmin": "fmax", "argmin": "argmax", "cummin": "cummax", "clamp_min": "clamp_max"}
MINMAX |= {b: a for a, b in MINMAX.items()}
NEGATED = {"logsigmoid", "sigmoid", "softplus", "exp", "expm1", "tanh", "relu", "silu"}
"""Functions of one number whose argument's sign is easily wrong."""
DROPPED = {"exp", "log", "log1p", "expm1", "abs", "square", "sqrt", "sigmoid", "relu", "tanh", "logsigmoid", "softplus", "cumsum", "flip", "cumprod"}
DROPPED |= {"neg", "reciprocal", "softmax", "log_softmax"}
DIMENSIONS = set(
    "sum mean softmax log_softmax logsumexp cumsum cumprod sort argsort gather index_add index_select scatter_add scatter_reduce squeeze "
    "unsqueeze flip size view reshape stack cat max min amax amin argmax argmin norm std var split chunk transpose permute flatten expand repeat "
    "any all prod zeros ones new_zeros new_ones logcumsumexp take_along_dim unbind diff unfold".split()
)
"""Calls whose bare integers are dimensions and sizes: another one raises or is the same axis, and tells nothing about the method."""
FLAGS = {"descending", "largest", "right"}
FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.GtE, ast.GtE: ast.LtE, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], tuple[str, type[ast.operator]]] = {
    ast.Add: ("flip-sign", ast.Sub), ast.Sub: ("flip-sign", ast.Add), ast.Mult: ("mul-div", ast.Div), ast.Div: ("mul-div", ast.Mult),
    ast.BitAnd: ("and-or", ast.BitOr), ast.BitOr: ("and-or", ast.BitAnd),
}  # fmt: skip
NORMS = {
    "segment": {"segments": ["groups"], "groups": ["segments"]},
    "token": {"tokens": ["segments", "segment_mean"], "segment_mean": ["tokens", "segments"], "segments": ["tokens", "groups"]}
    | {"groups": ["segments", "tokens"]},
}
"""What else a divisor might have been, by what a loss belongs to."""
SMALL = 1e-4
"""Constants below it are guards against rounding, not part of a formula."""

Change = tuple[str, ast.AST]


@dataclass(frozen=True)
class Vocabulary:
    """Names that may be taken for each other: the signals and the parts that the objectives of a file need."""

    signals: Sequence[str] = ()
    parts: Sequence[str] = ()

    def other_signals(self, name: str) -> list[str]:
        """First the same thing of another role, else the next signal."""
        base = name.rpartition(".")[2]
        twins = [s for s in self.signals if s != name and s.rpartition(".")[2] == base]
        return twins or self._next(self.signals, name)

    def other_parts(self, name: str) -> list[str]:
        return self._next(self.parts, name)

    @staticmethod
    def _next(names: Sequence[str], name: str) -> list[str]:
        if name not in names or len(names) < 2:
            return []
        return [names[(list(names).index(name) + 1) % len(names)]]


@dataclass(frozen=True)
class Where:
    """What stands around a node: `logging` inside a log call, `graphless` in a function that is computed without gradient, `bare` where an integer is
    a dimension or size."""

    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    logging: bool = False
    graphless: bool = False
    bare: bool = False


# ------------------------------------------------------------------------------------------------------------------------------------------ parts


def number(node: ast.AST) -> bool:
    """Whether a node is a literal number (True and False are not)."""
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)


def called(node: ast.AST) -> tuple[str, ast.expr | None, list[ast.expr]]:
    """A call's bare name, the tensor it works on and its other positional arguments; for x.exp(), torch.exp(x), segment_sum(x, b) alike."""
    if not isinstance(node, ast.Call):
        return "", None, []
    if isinstance(node.func, ast.Attribute):
        if isinstance(node.func.value, ast.Name) and node.func.value.id in ("torch", "F", "math", "functional"):
            return node.func.attr, node.args[0] if node.args else None, node.args[1:]
        return node.func.attr, node.func.value, node.args
    if isinstance(node.func, ast.Name):
        return node.func.id, node.args[0] if node.args else None, node.args[1:]
    return "", None, []


def _minus(node: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.USub(), node)


def _helper(name: str, *args: ast.expr) -> ast.expr:
    return ast.Call(ast.Name(PREFIX + name, ast.Load()), list(args), [])


def _is_mask(node: ast.expr) -> bool:
    if isinstance(node, ast.Compare):
        return True
    if isinstance(node, ast.Name):
        return "mask" in node.id.lower()
    if isinstance(node, ast.Attribute):
        return node.attr == "weight_T" or "mask" in node.attr.lower()
    name, tensor, _ = called(node)
    return name in ("float", "to", "double", "bool") and tensor is not None and _is_mask(tensor)


def _is_minus(node: ast.AST) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)


# ------------------------------------------------------------------------------------------------------------------------------------------ rules


def changes(node: ast.AST, where: Where) -> Iterator[Change]:
    """Every (kind, replacement) of one node."""
    match node:
        case ast.BinOp() | ast.AugAssign():
            yield from _operator(node)
        case ast.UnaryOp(op=ast.USub()) if not where.bare:
            yield "flip-sign", node.operand
        case ast.UnaryOp(op=ast.Not() | ast.Invert()):
            yield "flip-condition", node.operand
        case ast.Compare(ops=[op]) if type(op) in FLIPPED:
            yield "flip-comparison", ast.Compare(node.left, [FLIPPED[type(op)]()], node.comparators)
        case ast.BoolOp():
            yield "and-or", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        case ast.If(test=test) | ast.IfExp(test=test) if isinstance(test, ast.Name | ast.Attribute | ast.Call):
            not_test = ast.UnaryOp(ast.Not(), test)
            new = ast.If(not_test, node.body, node.orelse) if isinstance(node, ast.If) else ast.IfExp(not_test, node.body, node.orelse)
            yield "flip-condition", new
        case ast.Constant(value=str() as text):
            for other in where.vocabulary.other_signals(text) if text in where.vocabulary.signals else ():
                yield "swap-signal", ast.Constant(other)
            for other in where.vocabulary.other_parts(text):
                yield "swap-part", ast.Constant(other)
        case ast.Constant(value=value) if number(node) and not (where.bare and isinstance(value, int)) and not 0 < abs(value) < SMALL:  # type: ignore[arg-type]
            yield "constant", ast.Constant({0: 1, 1: 2, 2: 1}.get(value, 2 * value))  # type: ignore[operator, arg-type]
        case ast.Subscript(slice=ast.Constant(value=str() as name), ctx=ast.Load()) if name in where.vocabulary.signals:
            yield "shift", ast.Call(ast.Attribute(node, "roll", ast.Load()), [ast.Constant(1), ast.Constant(0)], [])
        case ast.Subscript(slice=index, ctx=ast.Load()) if _is_mask(index):
            yield "drop-mask", node.value
        case ast.Return(value=value) if value is not None:
            yield from _negated_return(value)
        case ast.With(items=[ast.withitem(context_expr=manager)]) if called(manager)[0] == "no_grad" and not where.graphless:
            yield "drop-detach", ast.With([ast.withitem(_helper("nothing"))], node.body)
        case ast.Call():
            yield from _call(node, where)


def _operator(node: ast.BinOp | ast.AugAssign) -> Iterator[Change]:
    if type(node.op) in OPERATORS:
        kind, other = OPERATORS[type(node.op)]
        yield kind, ast.BinOp(node.left, other(), node.right) if isinstance(node, ast.BinOp) else ast.AugAssign(node.target, other(), node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        if number(node.left):
            yield "drop-constant", node.right
        elif number(node.right):
            yield "drop-constant", node.left
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        if _is_mask(node.left):
            yield "drop-mask", node.right
        elif _is_mask(node.right):
            yield "drop-mask", node.left


def _negated_return(value: ast.expr) -> Iterator[Change]:
    if isinstance(value, ast.Dict):
        for i in range(len(value.values)):
            yield "negate", ast.Return(ast.Dict(value.keys, [_minus(v) if i == j else v for j, v in enumerate(value.values)]))
    elif not _is_minus(value) and not isinstance(value, ast.Constant | ast.Tuple | ast.DictComp):
        yield "negate", ast.Return(_minus(value))


def _call(node: ast.Call, where: Where) -> Iterator[Change]:
    name, tensor, rest = called(node)
    if name in MINMAX:
        new = ast.Name(MINMAX[name], ast.Load()) if isinstance(node.func, ast.Name) else ast.Attribute(node.func.value, MINMAX[name], ast.Load())  # type: ignore[attr-defined]
        yield "min-max", ast.Call(new, node.args, node.keywords)
    for keyword in node.keywords:
        if keyword.arg in FLAGS and isinstance(keyword.value, ast.Constant):
            others = [ast.keyword(k.arg, ast.Constant(not keyword.value.value) if k is keyword else k.value) for k in node.keywords]
            yield "flip-order", ast.Call(node.func, node.args, others)
    if tensor is None:
        return
    if name == "clamp" or name == "clip":
        yield from _clamp(node, tensor, rest)
    if name == "detach" and not where.logging and not where.graphless:
        yield "drop-detach", tensor
    if name == "masked":
        yield "drop-mask", tensor
    if name in ("segment_sum", "segment_mean") and rest:
        yield "drop-mask", ast.Call(node.func, [tensor, _helper("unmasked", rest[0])], [])
        yield "normaliser", _helper("segment_mean" if name == "segment_sum" else "segment_sum", tensor, rest[0])
    if name == "segment_weight":
        yield "drop-mask", ast.Call(node.func, [_helper("unmasked", tensor)], [])
    if name == "where" and len(rest) == 2:
        yield from (("drop-mask", branch) for branch in rest)
    if name in ("masked_fill", "where") and len(rest) == 2 and isinstance(node.func, ast.Attribute) and tensor is node.func.value:
        yield "drop-mask", tensor
    if name in ("sum", "mean") and isinstance(node.func, ast.Attribute) and not where.logging:
        other = "mean" if name == "sum" else "sum"
        yield "normaliser", ast.Call(ast.Attribute(node.func.value, other, ast.Load()), node.args, node.keywords)
    if name in DROPPED and not (name == "log" and node.keywords):
        yield "drop-call", tensor
    if name in NEGATED and not _is_minus(tensor):
        minus = _minus(tensor)
        is_method = isinstance(node.func, ast.Attribute) and tensor is node.func.value
        func = ast.Attribute(minus, name, ast.Load()) if is_method else node.func
        yield "negate-argument", ast.Call(func, node.args if is_method else [minus, *node.args[1:]], node.keywords)


def _clamp(node: ast.Call, tensor: ast.expr, rest: list[ast.expr]) -> Iterator[Change]:
    """Each of two bounds dropped; a single one dropped, and turned from floor to ceiling."""
    bounds: Mapping[str, ast.expr] = dict(zip(("min", "max"), rest, strict=False)) | {k.arg: k.value for k in node.keywords if k.arg}
    bounds = {side: bound for side, bound in bounds.items() if not (isinstance(bound, ast.Constant) and bound.value is None)}
    first = [] if isinstance(node.func, ast.Attribute) and tensor is node.func.value else [tensor]
    for side, bound in bounds.items():
        kept = [ast.keyword(s, b) for s, b in bounds.items() if s != side]
        yield "min-max", ast.Call(node.func, first, kept) if kept else tensor
        if not kept:
            yield "min-max", ast.Call(node.func, first, [ast.keyword("max" if side == "min" else "min", bound)])


def class_value(name: str, value: ast.expr, per: str, vocabulary: Vocabulary) -> Iterator[Change]:
    """What else the class-level values `norm` and `part` might have been."""
    if name == "norm" and isinstance(value, ast.Constant):
        for other in NORMS[per].get(value.value, []) if isinstance(value.value, str) else [2 * value.value]:  # type: ignore[operator]
            yield "normaliser", ast.Constant(other)
    if name == "part" and isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield from (("swap-part", ast.Constant(other)) for other in vocabulary.other_parts(value.value))


# ------------------------------------------------------------------------------------------------------------------------------------- what is walked


def is_guard(node: ast.AST) -> bool:
    """`if wrong: raise ...`: refused values have tests of their own."""
    return isinstance(node, ast.If) and not node.orelse and all(isinstance(inner, ast.Raise) for inner in node.body)


def used_by(body: Sequence[ast.stmt], skip: set[str], also: Collection[str] = ()) -> set[str]:
    """Names of a module that its classes, and the names in `also`, reach; what only the cases use is not the method."""
    uses: dict[str, set[str]] = {}
    roots: set[str] = set()
    for node in body:
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            uses[node.name] = names
            roots |= {node.name} if isinstance(node, ast.ClassDef) else set()
        else:
            uses |= dict.fromkeys(_assigned(node), names)
    reached, fresh = set(), (roots | (set(also) & uses.keys())) - skip
    while fresh:
        reached |= fresh
        fresh = {used for name in fresh for used in uses.get(name, ())} & uses.keys() - reached - skip
    return reached


def mentioned(body: Sequence[ast.stmt], skip: set[str]) -> set[str]:
    """Every name that a module's methods, not its cases, mention."""
    reached = used_by(body, skip)
    mine = [node for node in body if getattr(node, "name", None) in reached or _assigned(node) & reached]
    return {n.id for node in mine for n in ast.walk(node) if isinstance(n, ast.Name)}


def _assigned(node: ast.stmt) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {t.id for t in targets if isinstance(t, ast.Name)}
