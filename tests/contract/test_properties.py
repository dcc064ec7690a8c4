"""Whatever the lengths, masks, cuts and layouts are, the engine's loss and gradients are those of a plain loop over the sequences (float32, 1e-5).

The plain loop runs one sequence at a time through the model's own forward pass and takes log_softmax of all its logits. The engine runs the same rows
with everything that may change no result drawn at random: layout and switches, how the step is cut into micro-batches, chunk sizes, the order of the
rows, and what stands where nothing is scored.
"""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tempering import layout, reduce
from tempering.fit import Means, count_terms, total
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.full import Full
from tempering.signals import Engine, Live
from tempering.types import Context, Objective, Parts, Role, Row, Segment
from tests.toy_families import FAMILIES, VOCAB, WINDOW, family

TOLERANCE = 1e-5
_CHUNKS = (("signals", "CHUNK"), ("fused", "CHUNK_ELEMENTS"), ("fused", "PASSING_ELEMENTS"), ("fused", "ROW_ELEMENTS"))
CHUNKS = [(f"tempering.{module}", name) for module, name in _CHUNKS if find_spec(f"tempering.{module}")]
"""Where the sizes of chunks are set."""
CHUNKS = [(module, name) for module, name in CHUNKS if name in vars(importlib.import_module(module))]
assert CHUNKS

OBJECTIVES: list[Objective] = [
    NLL(),
    NLL(norm="segments"),
    NLL(norm="segment_mean"),
    NLL(norm="groups"),
    NLL(norm=7.0),
    DPO(beta=0.5),
    DPO(beta=0.5, label_smoothing=0.2) + 0.3 * NLL("chosen", norm="segments"),
]


def engines() -> list[Engine]:
    """Every layout with every setting of the switches."""
    switches = [field.name for field in fields(Engine) if field.type in (bool, "bool")]
    values = itertools.product((True, False), repeat=len(switches))
    return [Engine(layout=kind, **dict(zip(switches, on, strict=True))) for on in values for kind in get_args(layout.LayoutKind)]


@functools.cache
def roles(name: str) -> dict[str, Live]:
    """A policy that trains in full, and a frozen reference of other weights."""
    return {"policy": Live.attach(Role(family(name), Full())), "reference": Live.attach(Role(family(name, seed=1)))}


@dataclass(frozen=True)
class Case:
    """One step: its rows, what is wanted, and how the engine is to run it."""

    objective: Objective
    rows: tuple[Row, ...]
    engine: Engine
    cuts: tuple[int, ...]
    """Which micro-batch each row goes into."""
    order: tuple[int, ...]
    chunk: int
    junk: int
    """Seed of what is put where nothing is scored; 0 puts nothing."""
    cached: bool
    """Whether the reference comes as a column of the batch."""


@st.composite
def segments(draw: st.DrawFn, prompt: Sequence[int]) -> Segment:
    """A prompt, now and then cut short, and tokens of which some are scored, with weights; one token alone is a segment too."""
    start = list(prompt[: draw(st.integers(0, len(prompt)))]) if draw(st.integers(0, 3)) == 0 else list(prompt)
    rest = draw(st.lists(st.integers(3, VOCAB - 1), min_size=0 if start else 1, max_size=3 * WINDOW))
    ids = np.array(start + rest, dtype=np.int32)
    weight = np.array([0.0] * len(start) + draw(st.lists(st.sampled_from([1.0, 1.0, 0.5, 0.0]), min_size=len(rest), max_size=len(rest))), np.float32)
    weight[0] = 0.0
    return Segment(ids, weight)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Up to five rows; the parts of a row, and now and then rows, share a prompt."""
    objective = draw(st.sampled_from(OBJECTIVES))
    parts = sorted(objective.needs)
    prompts = st.lists(st.integers(3, VOCAB - 1), min_size=0, max_size=2 * WINDOW)
    common = draw(prompts)
    rows: list[Row] = []
    for _ in range(draw(st.integers(1, 5))):
        prompt = draw(st.one_of(st.just(common), prompts))
        several = draw(st.integers(1, 3)) if parts == ["train"] else 1
        rows.append({part: tuple(draw(segments(prompt)) for _ in range(several)) for part in parts})
    number = len(rows)
    return Case(
        objective,
        tuple(rows),
        draw(st.sampled_from(engines())),
        tuple(draw(st.lists(st.integers(0, 2), min_size=number, max_size=number))),
        tuple(draw(st.permutations(range(number)))),
        draw(st.sampled_from([1, 2, 7, 10_000])) * VOCAB,
        draw(st.integers(0, 3)),
        draw(st.booleans()),
    )


# ------------------------------------------------------------------------------------------------------------------------------------- the plain twin


def plain_logps(model: Any, segment: Segment) -> Tensor:
    """Log-prob of every token of one sequence given those before it [T]; 0 for the first."""
    ids_T = torch.as_tensor(segment.ids, dtype=torch.long)
    logp_TV = model(input_ids=ids_T[None], use_cache=False).logits[0].float().log_softmax(-1)
    return torch.cat([torch.zeros(1), logp_TV[:-1].gather(1, ids_T[1:, None])[:, 0]])


def plain(name: str, objective: Objective, rows: Sequence[Row]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients, one sequence at a time."""
    live, signals = roles(name), {}
    for part in objective.needs:
        mine = [segment for row in rows for segment in row[part]]
        with torch.no_grad():
            reference_T = torch.cat([plain_logps(live["reference"].model, s) for s in mine])
        signals[part] = {"logp": torch.cat([plain_logps(live["policy"].model, s) for s in mine]), "reference.logp": reference_T}
    parts = layout.collate(rows)
    divisors = count_terms(objective, [parts])
    values = [
        coefficient * reduce.reduce(term(parts, signals, Context(0, {}, Means())), term, parts[term.part], divisor)
        for (coefficient, term), divisor in zip(objective.terms(), divisors, strict=True)
    ]
    return backward(name, lambda: sum(values))


def backward(name: str, loss: Callable[[], Any]) -> tuple[float, dict[str, Tensor]]:
    """A loss, and the gradients of the policy; what did not take part has gradient 0."""
    params = roles(name)["policy"].handle.params
    for p in params.values():
        p.grad = None
    value = loss()
    if isinstance(value, Tensor):
        value.backward()
        value = value.detach()
    return float(value), {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in params.items()}


# ----------------------------------------------------------------------------------------------------------------------------------------- the engine


def with_junk(segment: Segment, seed: int, **columns: np.ndarray) -> Segment:
    """Other tokens after the last scored one, and NaN in columns wherever nothing is scored."""
    scored = np.flatnonzero(segment.weight)
    extras = dict(columns)
    ids = segment.ids.copy()
    if seed:
        end = int(scored[-1]) + 1 if len(scored) else 1
        ids[end:] = np.random.default_rng(seed).integers(3, VOCAB, len(ids) - end)
        extras = {key: np.where(segment.weight != 0, column, np.nan).astype(np.float32) for key, column in columns.items()}
    return Segment(ids, segment.weight, extras, segment.source)


def by_engine(name: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients as `fit` takes them."""
    live = roles(name)

    def dressed(segment: Segment) -> Segment:
        if not case.cached:
            return with_junk(segment, case.junk)
        with torch.no_grad():
            return with_junk(segment, case.junk, **{"reference.logp": plain_logps(live["reference"].model, segment).numpy()})

    rows = [{part: tuple(dressed(s) for s in row[part]) for part in row} for row in (case.rows[i] for i in case.order)]
    parts = layout.collate(rows)
    cuts = [case.cuts[i] for i in case.order]
    micros = [chosen_groups(parts, [g for g, cut in enumerate(cuts) if cut == micro]) for micro in sorted(set(cuts))]
    with monkeypatch.context() as patch:
        for module, constant in CHUNKS:
            patch.setattr(f"{module}.{constant}", case.chunk)
        return backward(
            name, lambda: total(live, case.objective, [lambda m=m: m for m in micros], count_terms(case.objective, [parts]), 0, case.engine, Means())
        )


def chosen_groups(parts: Parts, groups: Sequence[int]) -> Parts:
    return {part: layout.select(batch, torch.isin(batch.group_S, torch.tensor(groups))) for part, batch in parts.items()}


def check(name: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, grads = plain(name, case.objective, case.rows)
    ours, our_grads = by_engine(name, case, monkeypatch)
    assert abs(ours - loss) <= TOLERANCE * max(1.0, abs(loss)), (ours, loss)
    scale = max(1.0, *(float(grad.abs().max()) for grad in grads.values()))
    for parameter, grad in grads.items():
        assert float((our_grads[parameter] - grad).abs().max()) <= TOLERANCE * scale, parameter


def row(*parts: str, lengths: Sequence[int] = (9, 12)) -> Row:
    """A row that reaches beyond a window, with a shared prompt of six tokens."""
    made = {}
    for at, part in enumerate(parts):
        ids = np.concatenate([np.arange(3, 9), np.arange(10 + at, 10 + at + lengths[at])]).astype(np.int32) % VOCAB
        made[part] = (Segment(ids, np.concatenate([np.zeros(6), np.ones(lengths[at])]).astype(np.float32)),)
    return made


# Long and short ones in one micro-batch, so that a packed row holds several.
PAIRS = tuple(row("chosen", "rejected", lengths=lengths) for lengths in ((9, 12), (3, 20), (18, 1), (2, 4)))
TRAIN = tuple(row("train", lengths=(length,)) for length in (9, 20, 1, 2, 5))
FIXED = [Case(DPO(beta=0.5), PAIRS, engine, (0, 0, 0, 1), (2, 1, 0, 3), 7 * VOCAB, 1, cached) for engine in engines() for cached in (False, True)]
FIXED += [Case(NLL(), TRAIN, engine, (0, 0, 1, 0, 0), (2, 4, 0, 1, 3), VOCAB, 1, False) for engine in engines()]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_engine_setting_is_the_plain_loop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for case in FIXED:
        check(name, case, monkeypatch)


QUICK = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("name", FAMILIES)
@QUICK
@given(case=cases())
def test_any_step_is_the_plain_loop(name: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    check(name, case, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@settings(QUICK, max_examples=150)
@given(case=cases())
def test_any_of_many_steps_is_the_plain_loop(name: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    check(name, case, monkeypatch)
