"""LaMo: a decision transformer whose trunk is a language model with an adapter learns from recorded walks, and goes on reading text.

    temper run lamo --model builtin:tiny --data builtin:people-retain --walks 100

Shi et al. 2023 (arXiv 2310.20587, S089): what is wanted, seen and done is embedded by MLPs instead of linear layers; the adapter, the embeddings and
the action head train, by the likelihood of the recorded actions plus `language` = 0.1 times that of text. To act, a return is asked for
(`methods/probes/target_return.py`). The walks are those of a grid whose goal alone pays (`worlds/grid.py`). Unlike in the paper actions are one of
several, so their loss is a cross-entropy; the action head is linear, as in its code for Atari but without the tanh; walks are read whole instead of
the last K steps; and text and walks are as many in a step. The time step is embedded and added as in decision transformers, before the norm.

The adapter is saved as of any run; what is no language model's (embeddings and head) lies beside it in the run's folder "actor", and
`models.decisions.DecisionTransformer.read(model, folder)` puts the two together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.worlds.grid import Grid

if TYPE_CHECKING:
    from tempering.models.decisions import DecisionTransformer
    from tempering.types import Policy, Probe
    from tempering.worlds.grid import Trajectory

CATALOGUE = ("S089",)


def lamo(
    model: str = "builtin:smollm2-135m",
    grid: Grid = Grid(),
    walks: Annotated[int | None, Field(ge=1)] = None,
    recorded: str | None = None,
    data: str = "builtin:demo",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    train_on: Literal["assistant", "last", "each", "all"] = "assistant",
    max_length: int = 1024,
    limit: int | None = None,
    language: Annotated[float, Field(ge=0)] = 0.1,
    mlp: bool = True,
    wanted: float = 1.0,
    temperature: Annotated[float, Field(ge=0)] = 1.0,
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=1e-3),
    schedule: Schedule = Schedule(),
    training: Training = Training(epochs=20.0),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Learn to act from recorded walks on the trunk of a language model, which keeps its words.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        grid: where the walks were made, and where acting is measured.
        walks: how many to learn from; by default 100 of the grid, or all that are recorded.
        recorded: a file of walks of your own instead of the grid's (`worlds/recorded.py`), of which a tenth is held out: as there is nowhere to act,
            what is measured is how well their actions are foretold.
        data: file, folder or hub id of text or demonstrations that the language loss is taken of.
        test: held-out rows of the same kind; by default 10% of the data, at most 200 rows, chosen by seed.
        shape: how to read the rows of `data`; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        train_on: what is scored of a demonstration: every assistant turn, the last, each in a sequence of its own, or all; of plain text all is.
        max_length: longest sequence of text in tokens; rows over it are dropped and counted, never cut silently.
        limit: read at most this many rows of text.
        language: weight of the language loss (lambda); 0 leaves it out.
        mlp: embed what is wanted, seen and done by MLPs; else by linear layers, as plain decision transformers do.
        wanted: the return that is asked for when acting is measured.
        temperature: of the actions then; 0 takes the likeliest.
        scope: which weights of the trunk may move: full or lora.
        training: epochs are passes over the walks; its batch size is that of the walks, and of the text beside them.
        seed: of the walks, the split, shuffling, dropout, initialisation and of the draws of actions.
    """
    from tempering.data import sft_row
    from tempering.data.streams import Join, Shuffled
    from tempering.methods.objectives.lamo import LaMo
    from tempering.methods.objectives.nll import NLL
    from tempering.methods.probes.held_loss import HeldLoss
    from tempering.methods.scopes.full import Full
    from tempering.models.decisions import OWN, DecisionTransformer
    from tempering.types import Role

    _refuse(scope)
    own_walks = _recorded(recorded, walks) if recorded else []
    run = Experiment.begin(lamo, locals())
    if run.rehearses:
        raise UserError("there is no plan for lamo yet; beside the walks it needs what `temper plan sft` says of the same model and text")
    policy = run.load(model, template=template)
    texts, held = run.rows(data, test, sft_row, shape=shape, limit=limit, max_length=max_length, train_on=train_on)
    actor, shown, unseen, acting = _actor(run, policy, own_walks)
    learned, later = ([actor.row(walk) for walk in some] for some in (shown, unseen))
    probes = (acting, HeldLoss(name="held_text", rows=held, limit=budget.max_test, side="keep"))

    def with_actor(one: Policy) -> Policy:
        return replace(one, roles={"actor": actor})

    def kept(one: Policy) -> Policy:
        actor.write(run.folder.path / "actor")
        return with_actor(one)

    before = run.measure("before", with_actor(policy), (), probes=probes)
    streams = {"train": (Shuffled(learned, training.batch_size, seed), "train")}
    objective, watched = LaMo(), later
    if language:
        objective = objective + language * NLL(part="text")
        streams["text"] = Shuffled(texts, training.batch_size, seed + 1), "train"
        watched = [{**walk, "text": held[i % len(held)]["train"]} for i, walk in enumerate(later)]
    # Attached before the policy (by name), whose scope then says which weights of the trunk train.
    own: Any = Full(only=OWN)
    roles = {"actor": Role(actor, own, optimizer)}
    tuned = run.fit("fit", policy, objective, learned, watched, (Join(**streams), run.steps(learned)), roles=roles, ending=kept)
    if "actor" not in tuned.roles:  # A resumed run that had trained already.
        actor = DecisionTransformer.read(tuned.model, run.folder.path / "actor")
        tuned = with_actor(tuned)
    return run.finish(tuned, before, run.measure("after", tuned, (), probes=probes))


def _refuse(scope: AnyScope) -> None:
    from tempering.distributed import word

    if word.several():
        raise UserError("lamo: words and walks share one trunk, which one process can train only so far; run it without --processes")
    if getattr(scope, "quantise", "none") != "none":
        raise UserError("--scope.quantise: lamo trains new layers around the trunk and takes its weights as they are; leave it at none")


def _recorded(file: str, most: int | None) -> list[Trajectory]:
    """The walks of a file, at most so many.

    Raises:
        UserError: it cannot be read, or has fewer than two.
    """
    from tempering.worlds.recorded import recorded

    found = recorded(file)[:most]
    if len(found) < 2:
        raise UserError(f"--recorded {file}: one walk to take; at least 2 are needed, one to learn from and one to hold out")
    return found


def _actor(run: Experiment, policy: Policy, own: list[Trajectory]) -> tuple[DecisionTransformer, list[Trajectory], list[Trajectory], Probe]:
    """The actor that fits the walks, before it learns; walks to learn from, held-out ones, and what is measured."""
    import numpy as np

    from tempering.methods.probes.held_actions import HeldActions
    from tempering.methods.probes.target_return import TargetReturn
    from tempering.models.decisions import DecisionTransformer

    v, seed, most = run.values, run.values["seed"], run.budget.max_test
    if not own:
        grid: Grid = v["grid"]
        actor = DecisionTransformer(policy.model, grid.width, len(grid.moves), grid.horizon, v["mlp"]).eval()
        acting = TargetReturn(name=grid.name, world=grid, n=most, wanted=v["wanted"], temperature=v["temperature"], seed=seed)
        return actor, grid.walks(v["walks"] or 100, seed), grid.walks(64, seed, split="test"), acting
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(own)).tolist()
    count = max(1, min(most, len(own) // 10))
    held, shown = ([own[i] for i in sorted(some)] for some in (order[:count], order[count:]))
    actions, horizon = 1 + max(max(walk.actions) for walk in own), max(len(walk.actions) for walk in own)
    scale = max(abs(left) for walk in shown for left in walk.returns_to_go) or 1.0
    actor = DecisionTransformer(policy.model, len(own[0].observations[0]), actions, horizon, v["mlp"], scale).eval()
    run.display.say(f"{len(own)} recorded walks of {actions} actions and at most {horizon} steps; {count} held out to measure with")
    return actor, shown, held, HeldActions(walks=tuple(held))
