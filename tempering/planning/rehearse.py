"""A recipe run up to its first training, with a model that has a configuration and shapes but no weights.

The recipe is the user's own function and is called as it is: what it loads, which rows it makes and which objective it hands to training are found
out by letting it do so. Rows are real (at most `SAMPLE` of them) and kept in the store, so a run after it does not make them again where it reads no
more.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.config import Budget, Training
from tempering.errors import UserError
from tempering.experiment import Experiment
from tempering.held import Rows
from tempering.options import OPTIONS, Options
from tempering.runs import RunFolder
from tempering.types import Message, Policy, Row, Scores, Segment, Stream

if TYPE_CHECKING:
    from tempering.planning.trace import Work
    from tempering.types import Objective, Parts

SAMPLE = 512
"""Rows that are looked at: enough to meet nearly the largest micro-batch there is."""
STEPS = 64
"""Steps among which the largest micro-batch is looked for."""


@dataclass(frozen=True)
class Rehearsed(Exception):
    """Raised where training would begin: what would be trained, and how."""

    work: Work
    model: str
    tokens: int
    """Tokens of the largest micro-batch, all parts together."""
    accumulates: bool
    """Whether a step has more than one micro-batch."""
    saves: bool
    """Whether a checkpoint is written on the way."""
    best: bool
    """Whether the weights of the best evaluation are kept beside the live ones."""


def rehearse(recipe: Callable[..., Any], arguments: Mapping[str, Any], say: Callable[[str], None]) -> Rehearsed:
    """Call the recipe and give what its first training would be.

    Raises:
        UserError: what the recipe or its data refuse, a model that is not on this machine, an adapter, or a recipe that trains nothing.
    """
    token = OPTIONS.set(Options(rehearse=lambda name, values, options: Rehearsal(name, values, options, say)))
    try:
        recipe(**arguments)
    except Rehearsed as found:
        return found
    finally:
        OPTIONS.reset(token)
    raise UserError(f"recipe {recipe.__name__} ended without training anything, so there is nothing to plan")


class Rehearsal(Experiment):
    """A run without weights, folder and measurements."""

    rehearses = True

    def __init__(self, recipe: str, values: Mapping[str, Any], options: Options, say: Callable[[str], None]) -> None:
        # No folder, no key, no trackers: only what its steps below and `rows` read.
        self.recipe, self.values, self.options, self.say = recipe, values, options, say
        self.display, self.budget, self.lock = options.display, values.get("budget") or Budget(keep="none"), {}
        self.wanted: int | None = values.get("limit")

    @cached_property
    def folder(self) -> RunFolder:
        """What a recipe writes before it trains goes where the system cleans."""
        return RunFolder(Path(tempfile.mkdtemp(prefix="tempering-plan-")))

    def load(self, spec: str, new_tokens: Sequence[str] = (), template: str | None = None, outputs: int = 0, whole: bool = False) -> Policy:
        """The model's shapes, and its real tokenizer.

        Raises:
            UserError: a reward model is asked for, or an adapter is given.
        """
        if outputs:
            raise UserError(
                "there is no plan for reward models yet; it needs about what `temper plan prefer --loss simpo` says of the same model and data"
            )
        import torch

        from tempering.data import with_template
        from tempering.planning.trace import build

        self.model_spec = spec
        self.config, self._tokenizer = self._found(spec)
        if template is not None:
            self._tokenizer = with_template(self._tokenizer, template)
        if new_tokens:
            self._tokenizer.add_tokens(list(new_tokens))
            text = self.config.get_text_config()
            text.vocab_size = max(text.vocab_size, len(self._tokenizer))
        return Policy(build(self.config, torch.device("meta")), self._tokenizer, name=Path(spec).name, source=spec)

    def _found(self, spec: str) -> tuple[Any, Any]:
        """Configuration and tokenizer of a plain model."""
        from transformers import AutoConfig

        from tempering.models.places import find
        from tempering.models.tokens import read_tokenizer

        place = find(spec, self.say, fetch=False)
        if place.kind == "adapter":
            raise UserError(f"{spec} is an adapter; a plan is made for plain models, so give its base model, or what `temper export` makes of it")
        return AutoConfig.from_pretrained(place.folder, local_files_only=True, trust_remote_code=False), read_tokenizer(place.folder)

    def beside(self, role: str, spec: str) -> Policy:
        """The other model's shapes, and its real tokenizer."""
        import torch

        from tempering.planning.trace import build

        config, tokenizer = self._found(spec)
        return Policy(build(config, torch.device("meta")), tokenizer, name=Path(spec).name, source=spec)

    def source(self, data: str, shape: str, limit: int | None) -> Any:
        """At most `SAMPLE` records."""
        return super().source(data, shape, min(limit or SAMPLE, SAMPLE))

    def stage(self, name: str, inputs: Mapping[str, Any], work: Callable[[Path], None]) -> Path:
        """Done each time, in the rehearsal's folder."""
        folder = Path(tempfile.mkdtemp(dir=self.folder.path))
        work(folder)
        return folder

    def ask(self, policy: Policy, *, quiet: bool = False) -> Callable[[Sequence[tuple[Message, ...]], int, float], list[list[str]]]:
        """A stand-in for the model's answers, one word for each token it may write."""
        return lambda prompts, n, temperature: [["one " * self.values["max_new_tokens"]] * n for _ in prompts]

    def rows(self, data: str, test: str | None, make_row: Callable[..., Row | None], **how: Any) -> tuple[Rows, Rows]:
        """At most `SAMPLE` rows; what is held out is taken from them."""
        self.wanted = how["limit"]
        fewer: dict[str, Any] = {**how, "limit": min(how["limit"] or SAMPLE, SAMPLE)}
        return super().rows(data, None, make_row, **fewer)

    def cache_reference(
        self, policy: Policy, *groups: Any, column: str | tuple[str, ...] = "reference.logp", part: str | None = None
    ) -> tuple[Any, ...]:
        """The rows with columns of zeros: their size is what counts."""
        import numpy as np

        from tempering.signals import top_of

        names = (column,) if isinstance(column, str) else column

        def with_column(s: Segment) -> Segment:
            zeros = {name: np.zeros((len(s.ids), k) if (k := top_of(name)) else len(s.ids), np.float32) for name in names}
            return Segment(s.ids, s.weight, {**s.extras, **zeros}, s.source)

        return tuple([{part: tuple(map(with_column, segments)) for part, segments in row.items()} for row in rows] for rows in groups)

    def measure(self, name: str, policy: Policy, held: Sequence[Row], *how: Any, **more: Any) -> Scores:
        """No scores."""
        return Scores(policy.name, ())

    def trains_nothing(self) -> None:
        """Ends the rehearsal: there is no step to trace."""
        raise UserError(f"{self.recipe} trains nothing, so there is nothing to plan; it takes what measuring the model takes")

    def fit(
        self,
        name: str,
        policy: Policy,
        objective: Objective,
        train: Sequence[Row],
        held: Sequence[Row],
        stream: tuple[Stream, int] | None = None,
        *others: Any,
        **how: Any,
    ) -> Policy:
        """Ends the rehearsal, at the first training of a run.

        Raises:
            Rehearsed: always.
        """
        from tempering.data.streams import Shuffled
        from tempering.planning.trace import Work

        training: Training = self.values["training"]
        steps = stream[1] if stream else self.steps(train)
        # The run may have more rows than were looked at.
        more = training.steps is None and len(train) + len(held) >= SAMPLE and (self.wanted or math.inf) > SAMPLE
        seed = int(self.values.get("seed", 0))
        rows = stream[0] if stream else Shuffled(train, training.batch_size, seed)
        micro, several = _largest(rows, training, min(steps, STEPS), seed)
        scope = how.get("scope") or self.values["scope"]
        raise Rehearsed(
            Work(policy.model.config, scope, objective, self.values["optimizer"], training, micro, self._quantise, how.get("roles") or {}),
            self.model_spec,
            sum(batch.num_tokens for batch in micro.values()),
            several,
            0 < training.save_every < steps or (more and training.save_every > 0),
            bool(training.eval_every) and training.keep_best,
        )


def _largest(stream: Stream, training: Training, steps: int, seed: int) -> tuple[Parts, bool]:
    """The micro-batch with the most tokens among the first steps, and whether any step has several."""
    from tempering.layout import split
    from tempering.types import Run

    largest: Parts = {}
    most, several = -1, False
    for step in range(steps):
        micros = split(stream.next(Run({}, step, seed)), training.micro_tokens)
        several = several or len(micros) > 1
        for micro in micros:
            tokens = sum(batch.num_tokens for batch in micro.values())
            if tokens > most:
                largest, most = micro, tokens
    return largest, several
