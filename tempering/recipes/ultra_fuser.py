"""UltraFuser: specialists of one vocabulary speak together, and a gate says at every token what each counts: `temper run ultra_fuser`.

    temper run ultra_fuser --model TEXT --others CODE --others MATHS --domains text.jsonl --domains code.jsonl --domains maths.jsonl

Ding et al. 2024 (arXiv 2403.08281, S246): the gate alone learns first, with the specialists as they are, then all weights; every step has as many
rows of each domain. The gate is a row more in each specialist's output layer and begins at 0, where every one counts the same (the paper's start is
not known here). What is written is the first specialist with the others beside it and a decode chain that fuses them, so the result answers, is
measured and served like any model, at the price of all specialists for each token.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report

if TYPE_CHECKING:
    from tempering.types import Policy, Row

CATALOGUE = ("S246",)


def ultra_fuser(
    model: str = "builtin:smollm2-135m",
    others: tuple[str, ...] = (),
    domains: tuple[str, ...] = (),
    shape: str = "auto",
    template: str | None = None,
    train_on: Literal["assistant", "last", "each", "all"] = "assistant",
    max_length: int = 1024,
    limit: int | None = None,
    gating: Annotated[int, Field(ge=0)] = 100,
    gate_rate: Annotated[float, Field(gt=0)] = 1e-2,
    optimizer: Optimizer = Optimizer(lr=2e-5),
    schedule: Schedule = Schedule(),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Fuse specialists token by token: a gate first, then all weights.

    Args:
        model: the first specialist: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m; the ledger is against it alone.
        others: the other specialists, of the same vocabulary.
        domains: files, folders or hub ids with rows of a domain each; of every one a tenth, at most 200 rows, is held out.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the first specialist's own: a Jinja file, or plain (for base models); it is saved with the model.
        train_on: what is scored: every assistant turn, the last, each in a sequence of its own, or all.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut silently.
        limit: read at most this many rows of each domain.
        gating: steps in which the gate alone learns.
        gate_rate: the learning rate of these steps.
        training: its steps are those in which all weights learn; its batch size divides by the domains.
        seed: of what is held out and of the order of rows.
    """
    from tempering.data import sft_row
    from tempering.data.streams import Balanced
    from tempering.merging.specialists import BidsAlone, together
    from tempering.methods.objectives.ultra_fuser import UltraFuser
    from tempering.methods.probes.held_loss import HeldLoss
    from tempering.methods.scopes.full import Full
    from tempering.types import Role

    if not others or not domains:
        raise UserError("ultra_fuser: name the other specialists with --others (a folder, a run, a hub id), and rows of each domain with --domains")
    if training.batch_size % len(domains):
        raise UserError(f"--batch-size {training.batch_size}: a step has as many rows of each of the {len(domains)} domains; take a multiple of that")
    run = Experiment.begin(ultra_fuser, locals())
    first = run.load(model, template=template)
    fused = together([first, *(_other(run, first, spec, f"specialist {i + 2}") for i, spec in enumerate(others))])
    how: Any = {"shape": shape, "limit": limit, "max_length": max_length, "train_on": train_on}
    kinds = [run.rows(file, None, sft_row, roles=(f"train {i + 1}", f"test {i + 1}"), **how) for i, file in enumerate(domains)]
    asked: Any = {"limit": budget.max_test, "side": "target"}
    probes = tuple(HeldLoss(name=f"held_loss_{i + 1}", rows=held, **asked) for i, (_, held) in enumerate(kinds))
    before = run.measure("before", first, (), probes=probes)
    train, objective = [rows for rows, _ in kinds], UltraFuser(others=tuple(fused.roles))
    every: list[Row] = [row for rows in train for row in rows]

    def fitted(name: str, begin: Policy, steps: int, scope: Any, rate: Optimizer) -> Policy:
        """The specialists after some steps, still together."""
        roles = {role: Role(other, scope) for role, other in begin.roles.items()}
        stream = Balanced(train, training.batch_size, seed)

        def fusing(one: Policy) -> Policy:
            return replace(one, decode=begin.decode, roles=begin.roles)

        return run.fit(name, begin, objective, every, (), (stream, steps), roles=roles, ending=fusing, scope=scope, optimizer=rate)

    # A plan is of the stage in which everything trains.
    if gating and not run.rehearses:
        fused = fitted("gate", fused, gating, BidsAlone(), optimizer.model_copy(update={"lr": gate_rate, "weight_decay": 0.0}))
    tuned = fitted("fit", fused, run.steps(every), Full(), optimizer)
    return run.finish(tuned, before, run.measure("after", tuned, (), probes=probes))


def _other(run: Experiment, first: Policy, spec: str, role: str) -> Policy:
    """Another specialist, if its words are those of the first."""
    found = run.beside(role, spec)
    sizes = [one.model.get_output_embeddings().weight.shape[0] for one in (first, found)]  # type: ignore[operator, union-attr]
    if found.tokenizer.get_vocab() != first.tokenizer.get_vocab() or sizes[0] != sizes[1]:
        raise UserError(f"--others {spec}: its vocabulary is another than that of --model, so they cannot be fused; fuse_llm needs no common one")
    return found
