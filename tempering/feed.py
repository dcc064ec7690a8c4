"""What a run feeds on: records by name, tokenised rows in the store, the start model's log-probs beside them, and answers of its own.

The half of `Experiment` that knows data; the other half knows steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from tempering.config import Budget
from tempering.errors import UserError
from tempering.execution import world_of_run
from tempering.held import Rows
from tempering.home import store_dir
from tempering.stages import content_key, content_of

if TYPE_CHECKING:
    from tempering.display import Display
    from tempering.runs import RunFolder
    from tempering.types import Message, Objective, Policy, Row


def source(data: str, shape: str, limit: int | None, say: Callable[[str], None]) -> Any:
    """The records that `data` names: a built-in set, a file, a folder, a hub id."""
    from tempering.data import read
    from tempering.worlds.demo import demo_records

    return demo_records(data) if data.startswith("builtin:") else read(data, shape=shape, limit=limit, say=say)


class Feed:
    """Base of `Experiment`, which sets these."""

    values: Mapping[str, Any]
    display: Display
    folder: RunFolder
    budget: Budget
    lock: dict[str, Any]
    model_spec: str
    new_tokens: tuple[str, ...]
    rehearses: bool = False
    """Whether this is a plan of a run: nothing may be trained."""
    made: Mapping[str, Any] = {}
    """Sources that the run made itself, by the name under which they stand in its values."""
    _tokenizer: Any

    @property
    def tokenizer(self) -> Any:
        """That of the loaded model, with the template that was asked for."""
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, other: Any) -> None:
        """Rows made from now on are this one's: a method may stand in the chat template."""
        self._tokenizer = other

    def source(self, data: str, shape: str, limit: int | None) -> Any:
        """The records that `data` names: made by the run, or found (`source`)."""
        return self.made[data] if data in self.made else source(data, shape, limit, self.display.say)

    def steps(self, rows: Sequence[Row]) -> int:
        """How many optimizer steps the settings ask for with these rows."""
        training = self.values["training"]
        return training.steps or max(1, math.ceil(training.epochs * len(rows) / training.batch_size))

    def beside(self, role: str, spec: str) -> Policy:
        """Another model of the run, with a tokenizer of its own; it is not measured.

        Raises:
            UserError: it is a reward model.
        """
        from tempering import models

        with self.display.phase(f"loading the {role}"):
            found = models.load(spec, say=lambda _: None)
        if hasattr(found.model, "value_head"):
            raise UserError(f"--{role} {spec}: it is a reward model and has no words; name a language model")
        origin = models.provenance(found.model)
        self.lock[role] = {"source": spec, "sha256": origin.base_sha256() if origin else None}
        return found

    def judge(self) -> Callable[[str, Sequence[tuple[Message, ...]], Sequence[str]], Sequence[float]]:
        """(a reward model, prompts, an answer to each) -> its scores, as `making.Judge`; each model is loaded once."""
        from tempering.methods.rewards.reward_model import RewardModel

        loaded: dict[str, RewardModel] = {}

        def judged(name: str, prompts: Sequence[tuple[Message, ...]], answers: Sequence[str]) -> Sequence[float]:
            return loaded.setdefault(name, RewardModel(name))(prompts, answers).tolist()

        return judged

    def ask(self, policy: Policy, *, quiet: bool = False) -> Callable[[Sequence[tuple[Message, ...]], int, float], list[list[str]]]:
        """(prompts, answers to each, temperature) -> the policy's own answers, of at most `max_new_tokens` tokens, as `making.Ask`.

        Args:
            quiet: show no progress: some other phase is being shown.
        """
        from tempering.data import prompt_ids
        from tempering.sample import sample

        def asked(prompts: Sequence[tuple[Message, ...]], n: int, temperature: float) -> list[list[str]]:
            ids = [prompt_ids(policy.tokenizer, prompt) for prompt in prompts]
            how: dict[str, Any] = {"max_new_tokens": self.values["max_new_tokens"], "seed": int(self.values.get("seed", 0))}
            if quiet:
                found = sample(policy, ids, n=n, temperature=temperature, **how)
            else:
                with self.display.phase("asking the model", len(ids) * n) as phase:
                    found = sample(policy, ids, n=n, temperature=temperature, progress=lambda done, total: phase.advance(done, total), **how)
            return [[episode.text for episode in of] for of in found]

        return asked

    def rows(
        self,
        data: str,
        test: str | None,
        make_row: Callable[..., Row | None],
        *,
        shape: str,
        limit: int | None,
        max_length: int,
        roles: tuple[str, str] = ("train", "test"),
        **how: Any,
    ) -> tuple[Rows, Rows]:
        """Tokenised rows to train on and held-out ones, kept in the store by content so that nothing is tokenised twice.

        Args:
            roles: what the run's lock calls the two.

        Raises:
            UserError: unreadable data, no usable row, or nothing to hold out.
        """
        train = self._table(roles[0], data, make_row, shape, limit, {"max_length": max_length, **how})
        seed = int(self.values.get("seed", 0))
        if test is None and data.startswith("builtin:"):
            test = f"{data}-test"
        if test is not None:
            held = self._table(roles[1], test, make_row, shape, None, {"max_length": max_length, **how})
            if self.lock["data"][roles[1]]["sha256"] == self.lock["data"][roles[0]]["sha256"]:
                self.display.say("the test rows are the training rows: what is gained on them says nothing about others")
            return Rows(train, range(len(train))), Rows(held, range(len(held)))
        import numpy as np

        order = np.random.Generator(np.random.PCG64(seed)).permutation(len(train)).tolist()
        size = max(1, min(self.budget.max_test, len(train) // 10))
        if len(train) < 2:
            raise UserError(f"data {data}: 1 usable row; at least 2 are needed (one to train on, one to hold out), or give held-out rows with --test")
        self.display.say(f"held out {size} of {len(train)} rows to measure with (--test gives your own)")
        return Rows(train, sorted(order[size:])), Rows(train, sorted(order[:size]))

    def all_rows(
        self, role: str, data: str, make_row: Callable[..., Row | None], *, shape: str, limit: int | None, max_length: int, **how: Any
    ) -> Rows:
        """Tokenised rows of all that `data` names, none held out."""
        table = self._table(role, data, make_row, shape, limit, {"max_length": max_length, **how})
        return Rows(table, range(len(table)))

    def made_rows(self, role: str, records: Any, make_row: Callable[..., Row | None], **how: Any) -> Rows:
        """Tokenised rows of records that are there already (`lessons.Made`), all of them."""
        table = self._table(role, records.name, make_row, "", None, how, records)
        return Rows(table, range(len(table)))

    def _table(
        self, role: str, data: str, make_row: Callable[..., Row | None], shape: str, limit: int | None, how: Mapping[str, Any], source: Any = None
    ) -> Any:
        from tempering.data import RowReport, Table

        source = self.source(data, shape, limit) if source is None else source
        fingerprint = source.fingerprint
        template = getattr(self._tokenizer, "chat_template", None)
        tokens = self._tokenizer.backend_tokenizer.to_str()
        inputs = {"data": fingerprint, "shape": shape, "limit": limit, "row": make_row.__name__, "how": dict(how), "tokens": tokens, "chat": template}
        key = content_key(inputs)
        folder, report = store_dir("tables") / key, RowReport()

        def rows() -> Iterator[Row]:
            with self.display.phase(f"tokenising {data}"):
                for record in islice(source, limit):
                    row = make_row(record, self._tokenizer, report=report, **how)
                    if row is not None:
                        yield row

        def build() -> None:
            if not folder.exists():
                Table.build(rows(), folder)
                self.display.say(f"{data}: {report.sentence()}")

        world_of_run().lead(build)
        table = Table.open(folder)
        if not len(table):
            look = f"look with `temper check {data} --model {self.model_spec}`, or raise --max-length"
            raise UserError(f"{role} {data}: no row is usable: {report.sentence()} {look}")
        self.lock.setdefault("data", {})[role] = {"source": data, "sha256": fingerprint, "rows": len(table), "table": key}
        return table

    def cache_likeliest(self, role: str, policy: Policy, objective: Objective, *groups: Rows) -> tuple[Any, ...]:
        """The rows with what an objective asks of the role's likeliest tokens as columns, computed once; () where it asks nothing of the kind."""
        from tempering.signals import owner, top_of

        asked = sorted({name for names in objective.needs.values() for name in names if owner(name)[0] == role and top_of(name)})
        return self.cache_reference(policy, *groups, column=tuple(asked)) if asked else ()

    def cache_reference(
        self, policy: Policy, *groups: Any, column: str | tuple[str, ...] = "reference.logp", part: str | None = None
    ) -> tuple[Any, ...]:
        """The same rows with the start model's log-probs as the column "reference.logp"; computed once for these weights and rows, ever.

        Args:
            column: another of its signals, "prior.entropy", or several.
            part: the only part of the rows that it reads; by default all.
        """
        from tempering import models
        from tempering.reference import cached
        from tempering.signals import engine_for

        origin, training = models.provenance(policy.model), self.values["training"]
        start = {"weights": origin.base_sha256(), "source": content_of(origin.source) or origin.source} if origin else {"run": str(self.folder.path)}
        found = []
        for rows in groups:
            inputs = {
                **start,
                "new_tokens": self.new_tokens,
                "seed": self.values.get("seed", 0),
                "table": rows.fingerprint,
                # What this gave before may be given to it again.
                "of": getattr(rows, "indices", None),
            }
            with self.display.phase(
                "reference log-probs" if column == "reference.logp" else f"computing {' and '.join([column] if isinstance(column, str) else column)}"
            ) as phase:
                how = {"micro_tokens": training.micro_tokens, "progress": phase.advance, "column": column, "part": part}
                compute = partial(cached, policy, rows, engine_for(training), inputs, **how)
                found.append(world_of_run().after_first(compute))
        return tuple(found)
