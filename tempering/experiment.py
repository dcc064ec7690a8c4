"""What every recipe shares besides its method: a run folder, loading, rows, measuring before and after, and the end: ledger, gates, report, model.

A recipe calls these in order and holds no bookkeeping itself. Each step leaves its result in the run folder, so a run that was stopped goes on where
it was: scores are read back, training resumes from its newest checkpoint, a saved model is not trained again.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.choices import SLOTS
from tempering.config import Budget, plain_values
from tempering.distributed import word
from tempering.errors import UserError
from tempering.execution import CURRENT, AlreadyDone, Report, execute, one_folder, world_of_run
from tempering.feed import Feed
from tempering.held import own_probes, samples, target_probes
from tempering.home import store_dir, write_atomic
from tempering.logs import Logs
from tempering.options import OPTIONS, Options
from tempering.runs import RunFolder, lock
from tempering.stages import content_key, content_of
from tempering.watch import watching

if TYPE_CHECKING:
    from tempering.types import Objective, Policy, Probe, Role, Row, Scores, Stream


SPENT = "spent.json"
"""What one training took; cost.json is the sum over those of a run."""


class Experiment(Feed):
    """One run of a recipe. `begin` opens it; the methods are its steps."""

    def __init__(self, recipe: str, values: Mapping[str, Any], folder: RunFolder, key: str, options: Options) -> None:
        self.recipe, self.values, self.folder, self.key, self.options = recipe, values, folder, key, options
        self.display = options.display
        self.logs = Logs(options.log, folder.path, resumed=options.resume is not None, say=options.display.say)
        self.budget: Budget = values.get("budget") or Budget(keep="none")  # A recipe without a budget measures no more than its target.
        self.lock: dict[str, Any] = {}
        self.stopper: Any = None
        self.model_spec = ""
        self.new_tokens: tuple[str, ...] = ()
        self.cost: dict[str, float] = {}

    @staticmethod
    def begin(recipe: Callable[..., Report], values: Mapping[str, Any]) -> Experiment:
        """Open the run: check what can be checked at once, look whether it was done before, make or reopen the folder.

        Raises:
            AlreadyDone: the same run has finished (caught by `execute`).
            UserError: a malformed gate, or a folder that cannot be used.
        """
        from tempering.gates import parse

        options = OPTIONS.get(Options())
        given = {name: values[name] for name in inspect.signature(recipe).parameters}
        for gate in getattr(given.get("budget"), "gate", ()):
            parse(gate)
        if options.rehearse is not None:
            return options.rehearse(recipe.__name__, given, options)
        plain = plain_values(given)
        inside = {f"{name}.{field}": value for name, of in plain.items() if isinstance(of, dict) for field, value in of.items()}
        hashes = {name: content_of(value) for name, value in (plain | inside).items() if isinstance(value, str)}
        key = content_key({"recipe": recipe.__name__, "values": plain, "content": hashes}, recipe)
        marker = store_dir("done") / f"{key}.json"

        def opened() -> RunFolder:
            if options.resume is None and not options.again and marker.exists():
                done = Path(json.loads(marker.read_text())["folder"])
                if RunFolder(done, resume=True).read("status.json").get("key") == key and (done / "ledger.json").exists():
                    raise AlreadyDone(done)
            path = options.resume or options.out or Path("runs") / f"{recipe.__name__}-{datetime.now():%Y%m%d-%H%M%S}-{key[:6]}"
            return RunFolder(path, resume=options.resume is not None)

        folder = one_folder(opened) if word.several() else opened()
        path = folder.path
        run = Experiment(recipe.__name__, given, folder, key, options)
        CURRENT.get([]).append(run)
        run.folder.write("config.json", {"recipe": recipe.__name__, "values": plain})
        run.folder.status("running", command=options.command)
        if options.resume is None:
            options.display.say(f"run {path}")
        return run

    def leave(self, state: str, message: str) -> None:
        """Note how an unfinished run ended, with a page of what there is."""
        from tempering import report

        self.logs.close(state)
        if self.folder.follow:
            return
        with suppress(UserError):  # The disk may be full; what a user is told is the first failure.
            self.folder.status(state, message)
            report.write(self.folder.path)

    def load(self, spec: str, new_tokens: Sequence[str] = (), template: str | None = None, outputs: int = 0, whole: bool = False) -> Policy:
        """The model to start from, with `new_tokens` added to its vocabulary and perhaps another chat template.

        Args:
            outputs: how many numbers a reward model gives an answer; 0 is a language model.
            whole: that copies will be made of it, so that every process needs its weights at once.
        """
        import torch

        from tempering import models
        from tempering.data import with_template

        torch.manual_seed(int(self.values.get("seed", 0)))
        self.model_spec, self.new_tokens = spec, tuple(new_tokens)
        with self.display.phase("loading the model"):
            # The first process measures the whole model; the others only train pieces of it.
            later = word.several() and not world_of_run().first and not new_tokens and not whole
            policy = (self.options.start or models).load(spec, quantise=self._quantise, later=later, say=self.display.say)
            if template is not None:
                policy.tokenizer = with_template(policy.tokenizer, template)
            if new_tokens:
                models.resize_tokens(policy, new_tokens)
        origin = models.provenance(policy.model)
        size = policy.model.num_parameters()  # type: ignore[operator] # Counts a packed weight as the two it stands for.
        self.lock["model"] = {"source": spec, "parameters": size, "sha256": origin.base_sha256() if origin else None}
        self.display.say(f"model {spec}: {size:,} parameters")
        self._tokenizer = policy.tokenizer
        return models.with_outputs(policy, outputs) if outputs else policy

    def stage(self, name: str, inputs: Mapping[str, Any], work: Callable[[Path], None]) -> Path:
        """A memoised step in the run folder (`stages.stage`); of several processes the first does it."""
        from tempering.stages import stage

        world_of_run().lead(lambda: stage(self.folder.path, name, inputs, work, self.display.say))
        return self.folder.path / name

    def measure(
        self,
        name: str,
        policy: Policy,
        held: Sequence[Row],
        objective: Objective | None = None,
        watched: Sequence[Row] | None = None,
        *,
        probes: Sequence[Probe] | None = None,
        only: Sequence[Probe] = (),
        hide: Callable[[Scores], Scores] = lambda scores: scores,
    ) -> Scores:
        """Target probes on the held rows and the keep battery; read back from the folder where a resumed run has them already.

        Args:
            objective: one whose own score of held rows is a target too.
            watched: the held rows as the objective sees them.
            probes: what to measure beside the keep battery, instead of the probes that held rows make.
            hide: what the run keeps of the scores.
            only: what is measured instead of all that.
        """
        from pydantic import TypeAdapter

        from tempering import types

        self.logs.open()  # The inputs are good by now, and nothing has taken long yet.
        adapter, path = TypeAdapter(types.Scores), self.folder.path / f"{name}.scores.json"

        def first_time() -> None:
            if not path.exists():
                scores = hide(self._measured(name, policy, held, objective, watched or held, probes, only))
                write_atomic(path, adapter.dump_json(scores).decode())

        world_of_run().lead(first_time)
        return adapter.validate_json(path.read_bytes())

    def _measured(
        self,
        name: str,
        policy: Policy,
        held: Sequence[Row],
        objective: Objective | None,
        watched: Sequence[Row],
        probes: Sequence[Probe] | None,
        only: Sequence[Probe],
    ) -> Scores:
        from tempering.measure import keep_battery, measure

        battery = () if self.budget.keep == "none" else keep_battery(policy, quick=self.budget.keep == "quick")
        start, most, how = name == "before", self.budget.max_test, self.values.get("training")
        own = own_probes(objective, watched, most, how, start=start) if objective and how and self.budget.own_score else ()
        # A reward model has no words.
        wordless = hasattr(policy.model, "value_head")
        written = () if wordless else target_probes(held, most, None if self.budget.own_score else how) if probes is None else probes
        every = only or (*own, *written, *battery)

        def measured() -> Scores:
            with self.display.phase(f"measuring {name}", len(every)) as phase:
                return measure(policy, every, say=self.display.say, progress=lambda probe, done, total: phase.advance(done, total, probe))

        scores = self.options.start.scores(policy, every, measured) if start and self.options.start else measured()
        self._check_gates(scores)
        return scores

    def check(self, objective: Objective, rows: Sequence[Row]) -> None:
        """Refuse an objective that asks for columns or parts which these rows do not have.

        Raises:
            UserError: naming the first of them.
        """
        from tempering.signals import is_signal

        for part, names in sorted(objective.needs.items()):
            missing = sorted(n for n in names if not is_signal(n) and any(n not in s.extras for s in rows[0].get(part, ())))
            if part not in rows[0] or missing:
                what = f"a column {missing[0]!r} of part {part!r}" if missing else f"a part {part!r}"
                asking = self._kind(type(objective).__name__)
                raise UserError(
                    f"loss {asking} asks for {what}, which rows made of this data do not have; give data with it, another loss or other options of it"
                )

    def _check_gates(self, scores: Scores) -> None:
        """A gate on a probe that is not measured fails here, before any training."""
        from tempering.gates import check
        from tempering.ledger import compare

        if self.budget.gate:
            check(compare(scores, scores), self.budget.gate)

    def trains_nothing(self) -> None:
        """Said by a recipe that changes the model without training, before it looks at the model's numbers."""

    def fit(
        self,
        name: str,
        policy: Policy,
        objective: Objective,
        train: Sequence[Row],
        held: Sequence[Row],
        stream: tuple[Stream, int] | None = None,
        until: tuple[Callable[[Mapping[str, Any]], str], int] | None = None,
        *,
        roles: Mapping[str, Role] | None = None,
        ending: Callable[[Policy], Policy] | None = None,
        offset: int = 0,
        to: str | None = None,
        ahead: tuple[float, Objective] | None = None,
        scope: Any = None,
        optimizer: Any = None,
    ) -> Policy:
        """Train, save the model, and give back the tuned policy. A model that a resumed run has saved already is loaded instead.

        Args:
            name: "fit" is the run's own training; any other one of several, which keeps its metrics and checkpoints in a folder of that name.
            stream: what gives the rows, and for how many steps; by default all of `train` in a new order each epoch, as the settings say.
            until: asked of the live roles every so many steps; its sentence ends the training.
            roles: further models of the run by name, for example a frozen teacher.
            ending: what becomes of the tuned policy before it is saved.
            offset: what is added to the run's seed.
            to: where in the run folder the model goes; by default beside the metrics.
            ahead: as for `fit.fit`.
            scope, optimizer: instead of those asked for.
        """
        from tempering import models
        from tempering.data.streams import Shuffled, passes
        from tempering.fit import Evaluation, Stopper, fit
        from tempering.reference import brought
        from tempering.types import Policy, Role

        own = name == "fit"
        folder = self.folder.path if own else self.folder.path / name
        target = folder / "model" if to is None else self.folder.path / to
        world = world_of_run()
        if world.share((target / "policy.json").exists()):
            self._spend(json.loads((folder / SPENT).read_text()))
            return models.load(str(target), quantise=self._quantise, say=self.display.say)
        training, seed = self.values["training"], int(self.values.get("seed", 0)) + offset
        steps = stream[1] if stream else self.steps(train)
        given = stream[0] if stream else Shuffled(train, training.batch_size, seed)
        scope = scope or self._scope(policy)
        looked = len(held) and (self.budget.own_score or training.eval_every)
        looks = {"every": training.eval_every, "patience": training.patience, "keep_best": training.keep_best}
        if until is not None:
            looks |= {"until": until[0], "every": training.eval_every or until[1], "keep_best": False}
        self.display.say(f"training {'' if own else f'{name}, '}{len(train)} rows, {steps} steps of {training.batch_size}, scope {scope.kind}")
        self.stopper = Stopper()
        columns = brought(objective, *(rows[0] for rows in (train, held) if len(rows) and isinstance(rows[0], Mapping)))
        with watching(
            self.display,
            self.logs if own else Logs((), folder, resumed=False, say=self.display.say),
            steps,
            self.options.profile if own else None,
            folder,
        ) as on_metrics:
            fitted = fit(
                {"policy": Role(policy.model, scope), **(roles or {})}, objective, given,
                steps=steps, optimizer=optimizer or self.values["optimizer"], schedule=self.values["schedule"], training=training,
                evaluation=Evaluation(lambda: passes(held, training.batch_size), **looks) if looked or until else None,
                folder=folder, resume=self.options.resume is not None, seed=seed, say=self.display.say, on_metrics=on_metrics,
                stopper=self.stopper, ahead=ahead, columns=columns,
            )  # fmt: skip
        self.stopper = None
        live = fitted.roles["policy"]
        method = self._kind(self.recipe) if own else name
        tuned = Policy(live.model, policy.tokenizer, name=f"{policy.name} + {method}", handle=live.handle, source=str(target))
        tuned = tuned if ending is None else ending(tuned)
        from tempering.measure import peak_memory_gib

        cost = {"tokens": fitted.tokens, "seconds": fitted.seconds, "peak_memory_gib": max(world.gather(peak_memory_gib()))}
        write_atomic(folder / SPENT, json.dumps(cost, indent=2))
        self._spend(cost)

        def save() -> None:
            with self.display.phase("saving the model"):
                models.save(tuned, target)
            self._diagnose(folder)

        world.lead(save)
        return tuned

    def _spend(self, cost: Mapping[str, float]) -> None:
        """Add what a training took to what the run took."""
        for name, value in cost.items():
            spent = self.cost.get(name, 0)
            self.cost[name] = max(spent, value) if name.startswith("peak") else spent + value
        self.folder.write("cost.json", self.cost)

    def _kind(self, otherwise: str) -> str:
        """The name of the loss that was chosen."""
        return getattr(next((self.values[slot] for slot in SLOTS if slot in self.values), None), "kind", otherwise)

    @property
    def _quantise(self) -> Any:
        return getattr(self.values.get("scope"), "quantise", "none")

    def _scope(self, policy: Policy) -> Any:
        """The scope asked for; new tokens train beside it."""
        from tempering import models

        scope = self.values["scope"]
        if self.new_tokens and scope.kind == "lora":
            targets = models.new_token_targets(policy)
            return scope.model_copy(update={"options": {**scope.options, "trainable_token_indices": targets}})
        return scope

    def _diagnose(self, folder: Path) -> None:
        from tempering.report.curves import read
        from tempering.report.doctor import diagnose

        rows, _ = read(folder / "metrics.jsonl")
        for finding in diagnose(rows, clip=self.values["training"].clip):
            self.display.say(f"curve: {finding.sentence} {finding.mend}")

    def finish(self, policy: Policy, before: Scores, after: Scores) -> Report:
        """Ledger, gates, samples, model card and report; the run is done."""
        from tempering.ledger import Ledger

        failed = world_of_run().lead(lambda: self._finished(policy, before, after))
        return Report(self.folder.path, Ledger.read(self.folder.path / "ledger.json"), failed)

    def _finished(self, policy: Policy, before: Scores, after: Scores) -> tuple[str, ...]:
        from tempering import report
        from tempering.gates import check
        from tempering.ledger import compare

        ledger = compare(before, after, cost=self.cost, kl=self._divergence(policy))
        gates = check(ledger, self.budget.gate)
        ledger = replace(ledger, gates=tuple(gates))
        ledger.write(self.folder.path / "ledger.json")
        self.folder.write("lock.json", lock(self.lock))
        self.folder.write("samples.json", samples(before, after))
        self.logs.ledger(ledger)
        self.logs.close("done")
        card = report.model_card(self.folder.read("config.json"), self.folder.read("lock.json"), ledger, command=self.options.command)
        write_atomic(self.folder.path / "model" / "README.md", card)
        failed = tuple(gate.message for gate in gates if not gate.passed)
        self.folder.status("done", ledger.sentence(), key=self.key, failed_gates=failed)
        page = report.write(self.folder.path)
        write_atomic(store_dir("done") / f"{self.key}.json", json.dumps({"folder": str(self.folder.path.resolve())}))
        self.display.say(f"report {page}")
        return failed

    def _divergence(self, policy: Policy) -> dict[str, float]:
        """KL from the start model on the held texts of the keep battery; {} where nothing is to be kept."""
        from tempering import models
        from tempering.keep import divergence_texts
        from tempering.measure import kl_from

        if self.budget.keep == "none":
            return {}
        with self.display.phase("divergence from the start model"):
            adapter = policy.handle is not None and getattr(self.values.get("scope"), "kind", "") == "lora"
            start = None if adapter else (self.options.start or models).load(self.model_spec, say=lambda _: None)
            if start is not None and self.new_tokens:
                models.resize_tokens(start, self.new_tokens)
            return kl_from(policy, start, divergence_texts(policy))


__all__ = ["OPTIONS", "AlreadyDone", "Experiment", "Options", "Report", "execute"]
