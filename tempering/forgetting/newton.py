"""One second-order step that takes rows out of some units of a model, and how those units are found.

Mehta et al. 2022 (S115, arXiv 2204.07655): the minimum of a mean loss without a row z lies near

    theta' = theta + 1 / (n - 1) H^-1 grad loss(z),   H the Hessian of the rest

and a Hessian is small where only those units are moved that the loss depends on: its Markov blanket among the activations, found by conditional
dependence (CODEC and FOCI, Azadkia & Chatterjee 2021, arXiv 1910.12327). H is (1/m) sum_i g_i g_i^T + damping I over rows that stay, which is exact
for squared losses with g_i the inputs; it is never formed, because by Woodbury's identity m x m is all there is to solve.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tempering.errors import UserError
from tempering.types import Row, Segment

if TYPE_CHECKING:
    from torch import Tensor

    from tempering.experiment import Experiment
    from tempering.signals import Engine
    from tempering.types import Policy

BLOCK = re.compile(r"\.(\d+)\.")


def foci(y_n: np.ndarray, z_np: np.ndarray, most: int) -> list[int]:
    """Columns of z that y depends on, each given those before it, in the order in which they are found; ends where none adds anything.

    Args:
        y_n: the loss of each draw.
        z_np: the activations, one column a unit.
        most: columns at most.
    """
    n = len(y_n)
    below_n, above_n = ((side(y_n[None], y_n[:, None])).sum(1).astype(float) for side in (np.less_equal, np.greater_equal))
    spread_p = z_np.std(0)
    left = [int(j) for j in np.flatnonzero(spread_p > 0)]
    z_np = z_np / np.where(spread_p > 0, spread_p, 1.0)
    distance_nn = np.diag(np.full(n, np.inf))
    found: list[int] = []
    # sum of min(R_i, R_N(i)), N(i) being i's nearest neighbour in what is chosen; of independent draws where nothing is.
    so_far, room = 0.0, 0.0
    while left and len(found) < most:
        sums = [float(np.minimum(below_n, below_n[_nearest(distance_nn, z_np[:, j])]).sum()) for j in left]
        best = int(np.argmax(sums))
        gain = n * sums[best] - float((above_n**2).sum()) if not found else sums[best] - so_far
        room = float((above_n * (n - above_n)).sum()) if not found else float(below_n.sum()) - so_far
        if room <= 0 or gain <= 0:
            break
        so_far, column = sums[best], left.pop(best)
        distance_nn = distance_nn + (z_np[:, column, None] - z_np[None, :, column]) ** 2
        found.append(column)
    return found


def _nearest(distance_nn: np.ndarray, z_n: np.ndarray) -> np.ndarray:
    return (distance_nn + (z_n[:, None] - z_n[None]) ** 2).argmin(1)


def inverse_times(g_mD: Tensor, v_D: Tensor, damping: float) -> Tensor:
    """((1/m) sum_i g_i g_i^T + damping I)^-1 v, by an m x m solve, in float64."""
    import torch

    g, v, m = g_mD.double(), v_D.double(), len(g_mD)
    inner = m * damping * torch.eye(m, dtype=g.dtype, device=g.device) + g @ g.T
    return (v - g.T @ torch.linalg.solve(inner, g @ v)) / damping


def replaced(segment: Segment, share: float, vocabulary: int, draw: np.random.Generator) -> Segment:
    """The segment with each token before the answer (of a text without a prompt each token) replaced by a random one with this probability."""
    context = np.flatnonzero(segment.weight == 0)
    places = context if len(context) > 1 else np.arange(len(segment.ids))
    hit = places[draw.random(len(places)) < share]
    ids = segment.ids.copy()
    ids[hit] = draw.integers(vocabulary, size=len(hit))
    return replace(segment, ids=ids)


def units(model: Any, only: str) -> dict[int, list[str]]:
    """Block -> names of the matrices in it that match a pattern and write the hidden state, a row for each of its numbers.

    Raises:
        UserError: there is none.
    """
    width = model.config.get_text_config().hidden_size
    found: dict[int, list[str]] = {}
    for name, p in sorted(model.named_parameters()):
        block = BLOCK.search(name)
        if block and p.ndim == 2 and p.shape[0] == width and re.search(only, name):
            found.setdefault(int(block[1]), []).append(name)
    if not found:
        raise UserError(f"only={only!r}: no matrix of that name writes the {width} numbers of the hidden state; down_proj and o_proj do")
    return found


def blanket(model: Any, rows: Sequence[Row], blocks: Sequence[int], *, draws: int, share: float, most: int, seed: int, engine: Engine) -> list[Any]:
    """(block, unit) that the loss of the rows depends on while their prompts are perturbed.

    Args:
        rows: with the part "forget".
        blocks: whose outputs are looked at, a row's mean over its scored tokens.
        draws: perturbed rows in all.
        share: of the tokens that are replaced.
        most: units at most.
    """
    import torch

    from tempering.layout import collate, split, to
    from tempering.reduce import segment_mean
    from tempering.signals import Live, compute

    draw, vocabulary = np.random.Generator(np.random.PCG64(seed)), model.config.get_text_config().vocab_size
    some = [rows[int(draw.integers(len(rows)))] for _ in range(draws)]
    drawn = [{"forget": tuple(replaced(s, share, vocabulary, draw) for s in row["forget"][:1])} for row in some]
    needs = {"forget": frozenset({"logp", *(f"hidden.{block + 1}" for block in blocks)})}
    losses, states = [], []
    for micro in split(collate(drawn), 4096):
        parts = to(micro, engine.device)
        of = compute({"policy": Live(model)}, parts, needs, engine)["forget"]
        losses.append(-segment_mean(of["logp"], parts["forget"]))
        states.append(torch.cat([segment_mean(of[f"hidden.{block + 1}"], parts["forget"]) for block in blocks], -1))
    z_np = torch.cat(states).double().cpu().numpy()
    width = z_np.shape[1] // len(blocks)
    return [(blocks[j // width], j % width) for j in foci(torch.cat(losses).double().cpu().numpy(), z_np, most)]


def step(
    model: Any,
    chosen: Mapping[str, Sequence[int]],
    forget: Sequence[Row],
    retain: Sequence[Row],
    *,
    total: int,
    examples: int,
    damping: float,
    engine: Engine,
) -> float:
    """Take the forget rows out of the chosen units, in place; all else stays to the bit.

    Args:
        chosen: name of a matrix -> its rows that move.
        forget, retain: rows with these parts.
        total: rows that stay, all of them.
        examples: retain rows whose gradients make the Hessian, evenly spread.

    Returns the length of the step; 0 where nothing is chosen.
    """
    import torch

    from tempering.forgetting.localise import mean_gradients
    from tempering.methods.scopes.full import Full

    chosen = {name: sorted(rows) for name, rows in sorted(chosen.items()) if rows}
    if not chosen:
        return 0.0
    handle = Full(only="|".join(f"^{re.escape(name)}$" for name in chosen)).attach(model)

    def gradient(rows: Sequence[Row], part: str) -> Tensor:
        found = mean_gradients(handle, rows, part, engine, 4096)
        return torch.cat([found[name][list(places)].flatten() for name, places in chosen.items()])

    size = min(examples, len(retain))
    g_mD = torch.stack([gradient([retain[i * len(retain) // size]], "retain") for i in range(size)])
    moved_D = inverse_times(g_mD, gradient([forget[i] for i in range(len(forget))], "forget"), damping) * (len(forget) / total)
    at = 0
    with torch.no_grad():
        for name, places in chosen.items():
            p = handle.params[name]
            n = len(places) * p.shape[1]
            p[list(places)] += moved_D[at : at + n].view(len(places), -1).to(p)
            at += n
    model.requires_grad_(False).eval()
    return float(moved_D.norm())


def take_out(run: Experiment, policy: Policy, going: Sequence[Row], staying: Sequence[Row]) -> None:
    """Choose units and take the step, in the policy's own weights, as the run's values say; what moved is in units.json.

    Raises:
        UserError: no matrix goes by the pattern.
    """
    from tempering.config import Training
    from tempering.signals import engine_for

    v, engine = run.values, engine_for(Training(precision="fp32"))
    blocks, model = units(policy.model, v["only"]), policy.model.to(engine.device)
    with run.display.phase("choosing units"):
        search: dict[str, Any] = {"draws": v["draws"], "share": v["replaced"], "most": v["units"], "seed": v["seed"], "engine": engine}
        found = blanket(model, going, sorted(blocks), **search)
    chosen: dict[str, list[int]] = {}
    for block, unit in found:
        for name in blocks[block]:
            chosen.setdefault(name, []).append(unit)
    with run.display.phase("one step"):
        length = step(model, chosen, going, staying, total=len(staying), examples=v["examples"], damping=v["damping"], engine=engine)
    run.folder.write("units.json", {name: sorted(rows) for name, rows in chosen.items()})
    run.display.say(f"{len(found)} units of {len(blocks)} blocks moved by {length:.3g} in all")
