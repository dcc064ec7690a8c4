"""What is true of every objective, whatever it wants: checked on its own cases, so there is no list of methods or inputs to keep.

On a case's numbers (float64): `needs` names what is read; what stands outside the mask changes nothing and gets no gradient; the gradient is the
slope of the loss, unless the file stops gradients on purpose. On a toy model, through the real engine, with rows shaped like the case's: the layouts,
micro-batches and the order of rows change nothing, and a small step lowers the loss.
"""

from __future__ import annotations

import copy
import inspect
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tempering.cases import Case
from tempering.fit import Means, count_terms, total
from tempering.layout import LayoutKind, collate, split
from tempering.methods.scopes.full import Full
from tempering.models.value import ValueModel
from tempering.proof import hand
from tempering.signals import Engine, Live, owner
from tempering.types import Batch, Objective, Parts, Role, Row, Segment

EXACT = 1e-6
"""What rounding may change on the toy model, in float32, relative to the largest gradient or the loss."""


def toy(experts: bool = False) -> nn.Module:
    """A Llama of one layer and a few thousand random weights, always the same; or a Mixtral of two, with two experts each."""
    from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    # A wide range, so that the next token's distribution is far from uniform and mistakes show.
    config = LlamaConfig(vocab_size=61, max_position_embeddings=64, initializer_range=0.1, tie_word_embeddings=False, **sizes)
    mixture = MixtralConfig(**{**config.to_dict(), "num_hidden_layers": 2, "num_local_experts": 2, "num_experts_per_tok": 2, "model_type": "mixtral"})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return (MixtralForCausalLM(mixture) if experts else LlamaForCausalLM(config)).eval()


def check(cases: Sequence[Case], model: nn.Module | None = None) -> None:
    """All properties.

    Args:
        cases: a method's `CASES`.
        model: a small causal LM in float32; copies of it are trained, it stays as it is. `toy()` by default.

    Raises:
        AssertionError: naming the case and the property.
    """
    needs(cases)
    for case in cases:
        masks(case)
        state(case)
    slopes = [slope(case) for case in cases]
    if not any(s.length for s in slopes):
        raise AssertionError(f"{type(cases[0].objective).__name__}: no case has a gradient; add one where the loss moves the policy")
    if any(s.stopped for s in slopes) and not any(case.gradient for case in cases):
        who = type(cases[0].objective).__name__
        raise AssertionError(f"{who}: this loss stops gradients, so its value says too little; give at least one case a `gradient`")
    most = max(range(len(cases)), key=lambda i: (slopes[i].exact and slopes[i].length > 0, sum(map(len, cases[i].objective.needs.values()))))
    model = model or toy(any(owner(name)[1].startswith("router.") for case in cases for names in case.objective.needs.values() for name in names))
    for i in sorted({0, most}):
        on_model(cases[i], model, descends=slopes[i].exact)


# ----------------------------------------------------------------------------------------------------------------------------------------- needs


def needs(cases: Sequence[Case]) -> None:
    """Everything that is read is named, and everything that is named is read in some case."""
    named: set[tuple[str, str]] = set()
    read: set[tuple[str, str]] = set()
    for case in cases:
        mine: set[tuple[str, str]] = set()
        try:
            hand.run(case.objective, hand.tensors(case), mine)
        except KeyError as error:
            raise AssertionError(f"{hand.name_of(case)}: reads {error}, which `needs` does not name") from None
        named |= {(part, name) for part, names in case.objective.needs.items() for name in names}
        read |= mine
    if unread := sorted(f"{part}/{name}" for part, name in named - read):
        raise AssertionError(f"{type(cases[0].objective).__name__}: `needs` names {', '.join(unread)}, which no case reads: a pass for nothing")


# ----------------------------------------------------------------------------------------------------------------------------------------- masks


def masks(case: Case) -> None:
    """Tokens without weight change nothing: another one before and after each segment, first full of NaN, then of large numbers, which get exactly no
    gradient. (Signals outside the mask are never handed on, so a NaN gradient there harms nobody.)"""
    plain = hand.tensors(case)
    expected = hand.run(case.objective, plain)
    for junk in (math.nan, 37.5):
        given, kept = _with_junk(plain, junk)
        got = hand.run(case.objective, given)
        if not hand.close(got.loss, expected.loss):
            raise AssertionError(
                f"{hand.name_of(case)}: with {junk} outside the mask the loss is {got.loss:.8g}, not {expected.loss:.8g}; use masked()"
            )
        for name, value in expected.logs.items():
            if not hand.close(got.logs.get(name, math.nan), value):
                found = got.logs.get(name)
                raise AssertionError(f"{hand.name_of(case)}: {name} is logged as {found} with {junk} outside the mask; log scored tokens alone")
        for name, gradient in expected.gradient.items():
            part, _, signal = name.partition("/")
            mine = got.gradient[name]
            if (part, signal) in given.columns:
                continue
            per_token = mine.shape[0] == kept[part].shape[0] and gradient.shape[0] == int(kept[part].sum())
            inside = mine[kept[part]] if per_token else mine
            scored = plain.parts[part].weight_T != 0 if per_token else slice(None)
            if not torch.allclose(inside[scored], gradient[scored], rtol=hand.TOLERANCE, atol=hand.TOLERANCE):
                raise AssertionError(f"{hand.name_of(case)}: with {junk} outside the mask the gradient of {name} changes")
            if per_token and junk == junk and bool((mine[given.parts[part].weight_T == 0] != 0).any()):
                raise AssertionError(f"{hand.name_of(case)}: tokens outside the mask get a gradient of {name}; use masked() or segment_sum()")


def _with_junk(given: hand.Input, junk: float) -> tuple[hand.Input, Mapping[str, Tensor]]:
    """A token without weight around each segment, `junk` wherever nothing is scored; and part -> which tokens were there before [T]."""
    parts, signals, kept = {}, {}, {}
    for part, batch in given.parts.items():
        count = batch.num_segments
        segment_T = torch.cat([torch.arange(count), batch.segment_T, torch.arange(count)])
        order_T = torch.argsort(segment_T, stable=True)
        kept[part] = torch.cat([torch.zeros(count), torch.ones(batch.num_tokens), torch.zeros(count)]).bool()[order_T]

        def wide(x: Tensor, fill: float, batch: Batch = batch, count: int = count, order_T: Tensor = order_T) -> Tensor:
            edge = torch.full((count, *x.shape[1:]), fill, dtype=x.dtype)
            return torch.cat([edge, x, edge])[order_T]

        weight_T = wide(batch.weight_T, 0.0)

        def dirty(name: str, x: Tensor, part: str = part, batch: Batch = batch, weight_T: Tensor = weight_T) -> Tensor:
            # Where every segment is one token a column of numbers per segment looks the same: it stays one.
            if x.shape[0] != batch.num_tokens or (batch.num_tokens == batch.num_segments and (part, name) in given.columns):
                return x
            x = wide(x, junk).clone()
            x[weight_T == 0] = junk
            return x

        signals[part] = {name: dirty(name, x) for name, x in given.signals[part].items()}
        extras = {name: signals[part][name] for name in batch.extras}
        parts[part] = Batch(wide(batch.ids_T, 3), segment_T[order_T], weight_T, batch.group_S, extras)
    return replace(given, parts=parts, signals=signals), kept


# ----------------------------------------------------------------------------------------------------------------------------------------- state


def state(case: Case) -> None:
    """What an objective keeps between steps: the same names and shapes after a step, the old state untouched, and the same when saved and loaded."""
    given = hand.tensors(case)
    for _, term in case.objective.terms():
        first = dict(term.initial())
        if not first:
            continue
        saved = {name: (tuple(x.shape), x.double().flatten().tolist()) for name, x in first.items()}
        with torch.no_grad():
            stats = term.stats(given.parts, given.signals)
            second = term.advance(first, stats)
            loaded = {name: torch.tensor(values, dtype=torch.float64).reshape(shape) for name, (shape, values) in saved.items()}
            again = term.advance(loaded, stats)
        who = f"{type(term).__name__}.advance"
        if {name: x.shape for name, x in second.items()} != {name: x.shape for name, x in first.items()}:
            raise AssertionError(f"{who}: the state has other names or shapes after a step")
        if any(x.double().flatten().tolist() != saved[name][1] for name, x in first.items()):
            raise AssertionError(f"{who}: changes the state it is given in place; return a new one")
        if any(not torch.equal(x.double(), again[name].double()) for name, x in second.items()):
            raise AssertionError(f"{who}: goes on differently from a state that was saved and loaded")


# ----------------------------------------------------------------------------------------------------------------------------------------- slopes


@dataclass(frozen=True)
class Slope:
    """Length of a case's gradient, whether it is the slope of the loss, and if not whether gradients are stopped (else it is at a kink)."""

    length: float
    exact: bool
    stopped: bool = False


def slope(case: Case, width: float = 1e-3) -> Slope:
    """The gradient against differences of the loss along it, with sums over the step held fixed.

    Raises:
        AssertionError: they differ and nothing in the objective's files stops gradients.
    """
    given = hand.tensors(case)
    outcome = hand.run(case.objective, given)
    gradient = {key: outcome.gradient["/".join(key)] for key in given.trained()}
    length = math.sqrt(sum(float((g**2).sum()) for g in gradient.values()))
    if length * width < 1e-9 * max(1.0, abs(outcome.loss)):
        # Nothing that differences could show.
        return Slope(length, length == 0)
    contexts = [hand.context(term, given, given.signals, Means()) for _, term in case.objective.terms()]

    def at(step: float) -> float:
        moved = {
            part: {name: x - step / length * gradient[part, name] if (part, name) in gradient else x for name, x in values.items()}
            for part, values in given.signals.items()
        }
        with torch.no_grad():
            return float(hand.loss(case.objective, given, moved, contexts))

    before, after = outcome.loss - at(-width), at(width) - outcome.loss
    if abs(after - before) > 0.05 * length * width:
        return Slope(length, False)
    if abs((before + after) / (2 * width) + length) <= 1e-3 * length:
        return Slope(length, True)
    if not _stops_gradients(case.objective):
        raise AssertionError(
            f"{hand.name_of(case)}: along its gradient the loss changes by {(before + after) / (2 * width):.6g} a unit, but the gradient says "
            f"{-length:.6g}: some of the computation is lost to autograd (float(), item(), tensor()), or is stopped and does not say so by detach()"
        )
    return Slope(length, False, stopped=True)


def _stops_gradients(objective: Objective) -> bool:
    """Whether a file that this objective's classes or those of its terms are written in says detach or no_grad."""
    types = {base for _, term in objective.terms() for base in type(term).__mro__}
    modules = {base.__module__ for base in types} - {"builtins", "tempering.types"}
    return any("detach()" in (text := inspect.getsource(sys.modules[name])) or "no_grad()" in text for name in modules if name in sys.modules)


# --------------------------------------------------------------------------------------------------------------------------------- on a toy model


def on_model(case: Case, model: nn.Module, *, descends: bool = True) -> None:
    """Layouts, micro-batches and the order of rows change nothing; a small step lowers the loss.

    Args:
        descends: check the step too; not for a loss whose gradient is not its slope.
    """
    objective = case.objective
    rows = rows_like(case, vocabulary=int(model.config.vocab_size))  # type: ignore[union-attr, arg-type]
    roles = roles_for(case, model)
    parts = collate(rows)
    whole = _step(objective, roles, parts, "segments")
    for kind in ("packed", "padded"):
        _same(case, f"laid out {kind}", whole, _step(objective, roles, parts, kind))
    micros = split(parts, 1)
    if len(micros) < 2:
        raise AssertionError(f"{hand.name_of(case)}: one group only; give the case several, so that the step can be cut")
    _same(case, f"in {len(micros)} micro-batches", whole, _step(objective, roles, parts, "segments", micros))
    turned = collate([rows[i] for i in np.random.default_rng(1).permutation(len(rows))])
    _same(case, "with its rows in another order", whole, _step(objective, roles, turned, "segments"))
    if descends and objective.couples == "none":
        _descends(case, roles, parts, whole)


def rows_like(case: Case, *, vocabulary: int, copies: int = 2, seed: int = 0) -> list[Row]:
    """Rows of random tokens with the case's structure: its groups, each part's segments in them, and its columns, several times over."""
    rng = np.random.default_rng(seed)
    given = hand.tensors(case)
    groups = sorted({g for batch in given.parts.values() for g in batch.group_S.tolist()})
    rows: list[Row] = []
    for _ in range(copies if len(groups) > 1 else copies + 1):
        for g in groups:
            # Parts whose scored tokens an objective compares one by one have as many of them.
            aligned = getattr(case.objective, "aligned", ())
            scored = dict.fromkeys(aligned, int(rng.integers(2, 8))) if aligned else {}
            rows.append({part: tuple(_segment(case, part, s, batch, vocabulary, rng, scored.get(part)) for s in range(batch.num_segments)
                                     if batch.group_S[s] == g) for part, batch in given.parts.items()})  # fmt: skip
    return rows


def _segment(case: Case, part: str, index: int, batch: Batch, vocabulary: int, rng: np.random.Generator, scored: int | None = None) -> Segment:
    context, scored = int(rng.integers(1, 4)), scored or int(rng.integers(2, 8))
    weight = np.concatenate([np.zeros(context), rng.choice([1.0, 1.0, 0.5], scored)]).astype(np.float32)
    extras: dict[str, Any] = {}
    for name, column in batch.extras.items():
        if isinstance(case.signals[part][name][0], Sequence):
            values = column[batch.segment_T == index].numpy()
            extras[name] = values[np.resize(np.arange(len(values)), context + scored)].astype(np.float32)
        else:
            extras[name] = float(column[index])
    return Segment(rng.integers(3, vocabulary, context + scored).astype(np.int32), weight, extras)


def roles_for(case: Case, model: nn.Module) -> dict[str, Live]:
    """A trained policy, frozen others near it, and a trained value model where a value is asked for; each with weights of its own."""
    columns = hand.tensors(case).columns
    asked: dict[str, set[str]] = {"policy": set()}
    for part, names in case.objective.needs.items():
        for name in names:
            if (part, name) not in columns:
                asked.setdefault(owner(name)[0], set()).add(owner(name)[1])
    roles = {}
    for seed, (name, signals) in enumerate(sorted(asked.items())):
        generator = torch.Generator().manual_seed(seed)
        valued = bool(signals & {"value", "values", "reward", "rewards"})
        mine: nn.Module = ValueModel(copy.deepcopy(model), _outputs(case, name)) if valued else copy.deepcopy(model)
        with torch.no_grad():
            for p in mine.parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=generator))
        scope: Any = Full() if name == "policy" or valued else None
        roles[name] = Live.attach(Role(mine, scope))
    return roles


def _outputs(case: Case, role: str) -> int:
    """How many numbers a role's head gives in the case: as many as a token of its "values" or "rewards" has."""
    wide = [x for part in case.signals.values() for name, x in part.items() if owner(name) in ((role, "values"), (role, "rewards"))]
    return max((len(token) for numbers in wide for segment in numbers for token in segment), default=1)


@dataclass(frozen=True)
class _Step:
    loss: float
    gradients: Mapping[str, Tensor]
    logs: Mapping[str, float]


def _params(roles: Mapping[str, Live]) -> dict[str, nn.Parameter]:
    return {f"{role}.{name}": p for role, live in roles.items() if live.handle is not None for name, p in live.handle.params.items()}


def _step(objective: Objective, roles: Mapping[str, Live], parts: Parts, kind: LayoutKind, micros: Sequence[Parts] | None = None) -> _Step:
    params, log = _params(roles), Means()
    for p in params.values():
        p.grad = None
    loss = total(roles, objective, [(lambda m=m: m) for m in micros or [parts]], count_terms(objective, [parts]), 0, Engine(kind), log)
    return _Step(loss, {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in params.items()}, log.means())


def _same(case: Case, how: str, a: _Step, b: _Step) -> None:
    if not abs(a.loss - b.loss) <= EXACT * max(1.0, abs(a.loss)):
        raise AssertionError(f"{hand.name_of(case)}: {how} the loss is {b.loss:.8g}, not {a.loss:.8g}")
    scale = max(1.0, *(float(g.abs().max()) for g in a.gradients.values()))
    for name, gradient in a.gradients.items():
        if not float((gradient - b.gradients[name]).abs().max()) <= EXACT * scale:
            raise AssertionError(f"{hand.name_of(case)}: {how} the gradient of {name} is another")
    for name, value in a.logs.items():
        if not abs(b.logs.get(name, math.nan) - value) <= 10 * EXACT * max(1.0, abs(value)):
            raise AssertionError(f"{hand.name_of(case)}: {how} {name} is logged as {b.logs.get(name)}, not {value:.8g}")


def _descends(case: Case, roles: Mapping[str, Live], parts: Parts, start: _Step) -> None:
    square = sum(float((g.double() ** 2).sum()) for g in start.gradients.values())
    if square < 1e-12:
        return
    # Small enough to be a straight line, large enough to be seen in float32.
    rate = min(1e-3 * max(1.0, abs(start.loss)) / square, 1e-2 / math.sqrt(square))
    params = _params(roles)
    with torch.no_grad():
        for name, gradient in start.gradients.items():
            params[name].sub_(rate * gradient)
    after = _step(case.objective, roles, parts, "segments").loss
    if not after < start.loss:
        raise AssertionError(f"{hand.name_of(case)}: a small step against the gradient takes the loss from {start.loss:.8g} to {after:.8g}")
