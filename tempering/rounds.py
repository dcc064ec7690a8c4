"""A stream of pairs that are made anew every few steps, of the answers of the model as it is by then: iterative preference tuning within one run.

What a round makes is a stage of the run (`made-N/records.jsonl`), so a resumed run goes on with the pairs that it began the round with. The reference
is the start model throughout, or the model as it was when the round began: then its log-probs are a column of the round's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tempering.data.streams import Shuffled
from tempering.lessons import Made, build
from tempering.making import Ask, Maker, answer, made
from tempering.types import Parts, Policy, Record, Row, Run


class Rounds:
    """Rows that change every `every` steps; within a round a `Shuffled` stream.

    Args:
        first: the rows of the first round.
        again: (number of the round, the policy as it is) -> the rows of a later one.
        every: steps of a round.
        batch_size: rows of one optimizer step.
        seed: of the order.
    """

    def __init__(self, first: Sequence[Row], again: Callable[[int, Any], Sequence[Row]], every: int, batch_size: int, seed: int = 0) -> None:
        self.first, self.again, self.every, self.batch_size, self.seed = first, again, every, batch_size, seed
        self.taken, self._round = 0, -1
        self._stream: Shuffled | None = None

    def next(self, run: Run) -> Parts:
        """The next step's parts; at the first step of a round the live policy is asked."""
        number, place = divmod(self.taken, self.every)
        if self._stream is None or number != self._round:
            rows = self.first if number == 0 else self.again(number, run.roles.get("policy"))
            self._round, self._stream = number, Shuffled(rows, self.batch_size, self.seed + number)
            self._stream.taken = place * self.batch_size
        self.taken += 1
        return self._stream.next(run)

    def state(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def load(self, state: Mapping[str, Any]) -> None:
        self.taken, self._stream = int(state["taken"]), None


class Makers:
    """The rounds of an opened run: what a method makes of the records with the model of each.

    Args:
        run: an `Experiment`.
        policy: the start model.
        inputs: what the records depend on (`lessons.divided`).
        row: one of `tempering.data`'s, a record to a row; `how` are its arguments.
        fresh: take the model at the beginning of a round as its reference.
        teach: a teacher beside the model, for methods that ask one.
    """

    def __init__(
        self,
        run: Any,
        policy: Policy,
        make: Maker,
        records: Sequence[Record],
        inputs: dict[str, Any],
        row: Any,
        fresh: bool,
        teach: Ask | None = None,
        **how: Any,
    ) -> None:
        self.run, self.policy, self.make, self.records, self.inputs = run, policy, make, records, inputs
        self.row, self.fresh, self.teach, self.how = row, fresh, teach, how
        self.memory: dict[str, Any] = {}
        self.made = 0

    def first(self) -> Any:
        """The rows of the first round, without a reference's column."""
        return self._rows(0, self.run.ask(self.policy))

    def again(self, number: int, live: Any) -> Any:
        """The rows of a later round, of the live policy's answers. Rounds before it are read back where a resumed run has not seen them."""
        for earlier in range(self.made, number):
            # Their stages are there, so nobody is asked; only their memory is wanted.
            self._rows(earlier, self.run.ask(self.policy, quiet=True))
        now = Policy(live.model, self.policy.tokenizer, name=self.policy.name, handle=live.handle)
        rows = self._rows(number, self.run.ask(now, quiet=True))
        return list(self._with_reference(now, rows)) if self.fresh else rows

    def _rows(self, number: int, ask: Any) -> Any:
        inputs = {**self.inputs, "run": getattr(self.run, "key", ""), "round": number}
        made = self._made(f"made-{number}", self.records, inputs, ask, self.memory)
        self.made = number + 1
        return self.run.made_rows(f"round {number + 1}", made, self.row, **self.how)

    def held(self, records: Sequence[Record]) -> Any:
        """Rows made of held-out records with the start model."""
        made = self._made("made-held", records, self.inputs, self.run.ask(self.policy), {})
        return self.run.made_rows("test", made, self.row, **self.how)

    def _made(self, name: str, records: Sequence[Record], inputs: dict[str, Any], ask: Any, memory: dict[str, Any]) -> Made:
        if not self.run.rehearses:
            return build(self.run, self.make, name, records, inputs, ask, memory, self.teach)
        # Nobody answers in a plan: two answers as long as they may be stand for what the method would make of real ones.
        longest = "one " * self.run.values["max_new_tokens"]
        pairs = [made(record, "plan", record.prompt, [answer(longest), answer(f"{longest}two")], better=((0, 1),)) for record in records]
        return Made(f"{self.run.values['data']} as {self.make.name} may make it", tuple(pairs))

    def _with_reference(self, now: Policy, rows: Any) -> Any:
        from tempering.reference import cached
        from tempering.signals import engine_for

        training = self.run.values["training"]
        # The run's key and the rows say which weights these are: they follow from both. A resumed run finds what it began the round with.
        inputs = {"run": self.run.key, "folder": str(self.run.folder.path.resolve()), "round": self.made, "table": rows.fingerprint}
        return cached(now, rows, engine_for(training), inputs, micro_tokens=training.micro_tokens)
