"""A hand-worked case as tensors: through the objective, the engine's own reduction and backward, and compared with what was worked out.

Everything is float64, so that a wrong value cannot hide behind rounding. All signals are leaves with a gradient, those of frozen roles too: a case
may say that a reference gets none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tempering.cases import Case, MergeCase
from tempering.fit import Means
from tempering.proof import merged
from tempering.reduce import count, reduce
from tempering.signals import is_signal, owner
from tempering.types import Batch, Context, Objective, Parts, Signals

TOLERANCE = 1e-6
"""Relative to the expected number, absolute below 1: float64 is far better, a method that casts to float32 just stays within."""


@dataclass(frozen=True)
class Input:
    """The tensors of a case. `columns` says which of the signals are columns of the batch: a run takes no gradient of those."""

    parts: Parts
    signals: Signals
    columns: frozenset[tuple[str, str]]
    step: int = 0
    state: Mapping[str, Tensor] = field(default_factory=dict)

    def trained(self) -> list[tuple[str, str]]:
        """(part, signal) of everything that carries a gradient in a run: the policy's and other trained roles' signals, sorted."""
        return [
            (part, name)
            for part in sorted(self.signals)
            for name in sorted(self.signals[part])
            if (part, name) not in self.columns and owner(name)[0] not in ("reference", "teacher")
        ]


@dataclass
class Outcome:
    """What an objective gives for an input; `gradient` by "part/signal"."""

    loss: float
    gradient: Mapping[str, Tensor]
    logs: Mapping[str, float]


def name_of(case: Case | MergeCase) -> str:
    """ "DPO(beta=0.5), the pair stands in the wrong order"."""
    return f"{case.method if isinstance(case, MergeCase) else case.objective}: {case.what}"


# ------------------------------------------------------------------------------------------------------------------------------ numbers to tensors


def tensors(case: Case | MergeCase) -> Input:
    """The parts and signals of a case; a merge has none.

    Raises:
        AssertionError: numbers that do not fit together, or a signal that the objective needs and the case does not give.
    """
    if isinstance(case, MergeCase):
        return Input({}, {}, frozenset())
    needs = case.objective.needs
    for part, names in sorted(needs.items()):
        if missing := sorted(names - set(case.signals.get(part, ()))):
            raise AssertionError(f"{name_of(case)}: `needs` names {', '.join(missing)} of part {part!r}, and the case gives none")
    parts, signals, columns = {}, {}, set()
    # What a case gives beyond the needs is not handed on, as the engine would not.
    for part, names in needs.items():
        values, size_S = {name: case.signals[part][name] for name in sorted(names)}, _sizes(case, part)
        flat = {name: _flat(case, f"{part}/{name}", numbers, size_S) for name, numbers in values.items()}
        weight_T = _flat(case, f"weights of {part}", case.weights[part], size_S) if part in case.weights else torch.ones(sum(size_S)).double()
        group_S = torch.tensor(case.groups.get(part, range(len(size_S))), dtype=torch.long)
        if group_S.shape != (len(size_S),):
            raise AssertionError(f"{name_of(case)}: {len(group_S)} groups for the {len(size_S)} segments of {part!r}")
        mine = {name for name in values if not is_signal(name)}
        columns |= {(part, name) for name in mine}
        ids_T = torch.arange(sum(size_S)) % 7 + 3
        segment_T = torch.repeat_interleave(torch.arange(len(size_S)), torch.tensor(size_S, dtype=torch.long))
        parts[part] = Batch(ids_T, segment_T, weight_T, group_S, {name: flat[name] for name in sorted(mine)})
        signals[part] = flat
    state = {name: torch.tensor(values, dtype=torch.float64) for name, values in case.state.items()}
    return Input(parts, signals, frozenset(columns), case.step, state)


def _sizes(case: Case, part: str) -> list[int]:
    """Tokens of each segment, read from the weights or the first signal per token; 1 where there are only columns per segment."""
    candidates = [case.weights[part]] if part in case.weights else []
    for numbers in [*candidates, *case.signals[part].values()]:
        if len(numbers) and isinstance(numbers[0], Sequence):
            return [len(segment) for segment in numbers]
    return [1] * max((len(numbers) for numbers in case.signals[part].values()), default=0)


def _flat(case: Case, what: str, numbers: Sequence[Any], size_S: list[int]) -> Tensor:
    if len(numbers) != len(size_S):
        raise AssertionError(f"{name_of(case)}: {what} has {len(numbers)} segments, others of the part {len(size_S)}")
    if not len(numbers) or not isinstance(numbers[0], Sequence):
        return torch.tensor(numbers, dtype=torch.float64)
    if [len(segment) for segment in numbers] != size_S:
        raise AssertionError(f"{name_of(case)}: {what} has {[len(s) for s in numbers]} tokens, others of the part {size_S}")
    return torch.tensor([value for segment in numbers for value in segment], dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------------- through objective and reduction


@dataclass(frozen=True)
class Watched(Mapping[str, Tensor]):
    """Signals of one part that remember what was read of them."""

    part: str
    values: Mapping[str, Tensor]  # pyright: ignore[reportIncompatibleMethodOverride]
    reads: set[tuple[str, str]] = field(default_factory=set)

    def __getitem__(self, name: str) -> Tensor:
        self.reads.add((self.part, name))
        return self.values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)


def context(term: Objective, given: Input, signals: Signals, log: Callable[..., None]) -> Context:
    """What a term may know beyond its inputs, as the loop makes it (fit.py) when the case is the whole step, and the first: the one place where
    a context is made."""
    stats: Mapping[str, Tensor] = {}
    with torch.no_grad():
        if term.couples != "none":
            stats = term.stats(given.parts, signals)
        kept = term.advance({**term.initial(), **given.state}, stats)
    return Context(given.step, stats, log, state=kept)


def loss(objective: Objective, given: Input, signals: Signals, contexts: Sequence[Context]) -> Tensor:
    """The step's loss, a scalar.

    Args:
        signals: part -> signal -> tensor; those of `given`, or others in their place.
        contexts: one for each term.
    """
    total = torch.zeros((), dtype=torch.float64)
    for (coefficient, term), ctx in zip(objective.terms(), contexts, strict=True):
        batch = given.parts[term.part]
        losses = term(given.parts, signals, ctx)
        size = batch.num_tokens if term.per == "token" else batch.num_segments
        if losses.shape != (size,):
            raise AssertionError(
                f"{type(term).__name__}: losses have shape {list(losses.shape)}, but [{size}] is one per {term.per} of {term.part!r}"
            )
        factor = coefficient(given.step) if callable(coefficient) else coefficient
        total = total + factor * reduce(losses, term, batch, count(term.norm, batch))
    return total


def run(objective: Objective, given: Input, reads: set[tuple[str, str]] | None = None) -> Outcome:
    """Loss, gradients of all signals and logged means.

    Args:
        reads: gets (part, signal) of everything the objective reads, from signals or from the batch's columns.
    """
    leaves = {part: {name: x.detach().clone().requires_grad_() for name, x in values.items()} for part, values in given.signals.items()}
    signals: Signals = leaves
    if reads is not None:
        signals = {part: Watched(part, values, reads) for part, values in leaves.items()}
        given = replace(given, parts={part: replace(b, extras=Watched(part, b.extras, reads)) for part, b in given.parts.items()})
    log = Means()
    total = loss(objective, given, signals, [context(term, given, signals, log) for _, term in objective.terms()])
    if total.requires_grad:
        total.backward()
    gradient = {f"{part}/{name}": torch.zeros_like(x) if x.grad is None else x.grad for part, values in leaves.items() for name, x in values.items()}
    return Outcome(float(total.detach()), gradient, log.means())


# ------------------------------------------------------------------------------------------------------------------------------------- comparison


def wrong(case: Case | MergeCase, given: Input, objective: Objective | None = None) -> str:
    """What differs from the case, as one sentence; "" if nothing does.

    Args:
        objective: takes the place of the case's own.
    """
    if isinstance(case, MergeCase):
        return merged.wrong(case, TOLERANCE)
    outcome = run(objective or case.objective, given)
    if not close(outcome.loss, case.loss):
        return f"the loss is {outcome.loss:.8g}, worked out as {case.loss:.8g}"
    for name, numbers in case.gradient.items():
        if name not in outcome.gradient:
            return f"gradient names {name!r}; there are {', '.join(sorted(outcome.gradient))}"
        part = name.partition("/")[0]
        expected = _flat(case, f"gradient of {name}", numbers, _sizes(case, part))
        got = outcome.gradient[name]
        if expected.shape != got.shape:
            return f"the gradient of {name} has shape {list(got.shape)}, worked out as {list(expected.shape)}"
        if not bool(((got - expected).abs() <= TOLERANCE * expected.abs().clamp(min=1)).all()):
            return f"the gradient of {name} is {_show(got)}, worked out as {_show(expected)}"
    for name, value in case.logs.items():
        if name not in outcome.logs:
            return f"nothing is logged as {name!r}; there are {', '.join(sorted(outcome.logs)) or 'no logs'}"
        if not close(outcome.logs[name], value):
            return f"{name} is logged as {outcome.logs[name]:.8g}, worked out as {value:.8g}"
    return ""


def close(a: float, b: float) -> bool:
    """Whether two numbers agree within `TOLERANCE`; infinities agree with themselves, NaN with nothing."""
    return a == b or abs(a - b) <= TOLERANCE * max(1.0, abs(b))


def _show(x: Tensor) -> str:
    return "[" + ", ".join(f"{v:.6g}" for v in x.flatten().tolist()) + "]"


def check(case: Case | MergeCase) -> None:
    """One case through objective, reduction and backward.

    Raises:
        AssertionError: with what differs.
    """
    problem = wrong(case, tensors(case))
    if problem:
        raise AssertionError(f"{name_of(case)}: {problem}")
