"""FactorLLM: a dense model becomes a mixture of experts, and its routers learn which experts a token needs: `temper run factor_llm --model M`.

The reshape `factor_llm` cuts the MLPs; routers and experts then learn from the text, and routers also from which experts came nearest to what the
dense MLP said (`prior_approximate`). What is written is a Mixtral, and the ledger is against the dense model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.full import Full
from tempering.types import Policy, Row

if TYPE_CHECKING:
    from tempering.methods.reshapes.factor_llm import FactorLLM

CATALOGUE = ("S107",)


def factor_llm(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    train_on: Literal["assistant", "last", "each", "all"] = "assistant",
    max_length: int = 1024,
    limit: int | None = None,
    experts: Annotated[int, Field(ge=2)] = 4,
    active: Annotated[int, Field(ge=1)] = 2,
    prior: Annotated[float, Field(ge=0)] = 1.0,
    scope: AnyScope = Full(),
    optimizer: Optimizer = Optimizer(lr=1e-4),
    schedule: Schedule = Schedule(),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Cut a model's MLPs into experts and teach routers which of them a token needs.

    Args:
        model: a Llama or Mistral: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of conversations, instructions, prompt/completion rows or texts; builtin:demo is made for this project.
        test: held-out rows of the same kind; by default 10% of the data, at most 200 rows, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        train_on: what is scored: every assistant turn, the last, each in a sequence of its own, or all.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut silently.
        limit: read at most this many rows.
        experts: how many each MLP is cut into; its neurons must divide by them.
        active: how many of them a token goes through.
        prior: what the routers' own loss counts beside the likelihood of the text.
        scope: which weights may move: full or lora.
        seed: of the routers, of shuffling, dropout and initialisation.
    """
    from tempering.data import sft_row
    from tempering.methods.objectives.nll import NLL
    from tempering.methods.objectives.prior_approximate import PriorApproximate
    from tempering.methods.reshapes.factor_llm import FactorLLM

    run = Experiment.begin(factor_llm, locals())
    dense = run.load(model, template=template)
    train, held = run.rows(data, test, sft_row, shape=shape, limit=limit, max_length=max_length, train_on=train_on)
    before = run.measure("before", dense, held)
    made = _cut(run, dense, FactorLLM(experts=experts, active=active, seed=seed))
    objective: Any = NLL()
    groups: tuple[Sequence[Row], Sequence[Row]] = (train, held)
    if prior:
        objective = objective + prior * PriorApproximate(layers=dense.model.config.num_hidden_layers)  # type: ignore[union-attr]
        with run.display.phase("asking the dense model which experts are nearest"):
            asked = _unasked if run.rehearses else with_priors
            groups = tuple(list(asked(dense.model, rows, experts, active)) for rows in groups)  # type: ignore[assignment]
    tuned = run.fit("fit", made, objective, *groups)
    return run.finish(tuned, before, run.measure("after", tuned, held))


def _cut(run: Experiment, dense: Policy, method: FactorLLM) -> Policy:
    """The mixture; of a plan its shapes alone."""
    from tempering.reshaping.anatomy import built, taken
    from tempering.reshaping.run import reshape

    if not run.rehearses:
        return reshape(dense, method, say=run.display.say)
    return Policy(built(method(taken(dense.model), None), dense.model), dense.tokenizer, name=dense.name)


def _unasked(model: Any, rows: Sequence[Row], experts: int, active: int) -> Iterator[Row]:
    """What `with_priors` gives, of a model without contents: the first experts everywhere."""
    import numpy as np

    for row in rows:
        made = []
        for segment in row["train"]:
            first = np.tile(np.arange(active, dtype=np.float32), (len(segment.ids), 1))
            made.append(replace(segment, extras={**segment.extras, **{f"prior.{i}": first for i in range(model.config.num_hidden_layers)}}))
        yield {**row, "train": tuple(made)}


def with_priors(model: Any, rows: Sequence[Row], experts: int, active: int) -> Iterator[Row]:
    """The rows with a column "prior.L" [T, k] for each block L: the k slices of its MLP's neurons whose output lies nearest to k / N of the whole.

    Args:
        model: the dense one, whose blocks have an `mlp.down_proj`.
    """
    import torch

    downs = [module for name, module in model.named_modules() if name.endswith("mlp.down_proj")]
    caught: dict[int, torch.Tensor] = {}
    hooks = [down.register_forward_pre_hook(lambda module, args, i=i: caught.update({i: args[0][0].detach()})) for i, down in enumerate(downs)]
    try:
        for row in rows:
            made = []
            for segment in row["train"]:
                with torch.no_grad():
                    model(input_ids=torch.tensor([segment.ids.tolist()], device=model.device), use_cache=False)
                priors = {f"prior.{i}": _nearest(caught[i], down.weight.detach(), experts, active) for i, down in enumerate(downs)}
                made.append(replace(segment, extras={**segment.extras, **priors}))
            yield {**row, "train": tuple(made)}
    finally:
        for hook in hooks:
            hook.remove()


def _nearest(neurons_TF: Any, weight_HF: Any, experts: int, active: int) -> Any:
    import torch

    pairs = zip(neurons_TF.float().chunk(experts, 1), weight_HF.float().chunk(experts, 1), strict=True)
    said_ETH = torch.stack([a_T @ w_H.T for a_T, w_H in pairs])
    far_ET = (said_ETH - active / experts * said_ETH.sum(0)).square().sum(-1)
    return far_ET.T.topk(active, largest=False).indices.sort(-1).values.cpu().numpy().astype("float32")
