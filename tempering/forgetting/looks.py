"""Looks at a forgetting while it goes on (`--look-every N`): what attacks that only ask get out by then, and how likely the retain rows still are.

How much a method forgets and how much it breaks hinges on its learning rate and on when it is stopped, more than on its formula. A run with looks
writes that path down (`path.json`), and `temper trade --tune` chooses from such paths.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, TypeAdapter

from tempering.config import Value
from tempering.errors import UserError
from tempering.home import write_atomic
from tempering.items import mean
from tempering.types import Parts, Policy, Probe, Run, Scores, Stream

if TYPE_CHECKING:
    from tempering.experiment import Experiment
    from tempering.forgetting.until import Until
    from tempering.types import Row

FILE = "path.json"
SAME = ("look-before.scores.json", "look-oracle.scores.json")
"""What looks compare with; the same for every run on the same start, rows and oracle."""
SOME = 16
"""Secrets of each attack, and four times as many retain rows."""


class Looks(Value):
    """When a forgetting is looked at while it goes on."""

    look_every: int = Field(default=0, ge=0)
    """Steps between two looks (attacks that only ask on 16 secrets, the likelihood of 64 held-out retain rows); 0 takes none."""
    look_tokens: int | None = Field(default=None, gt=0)
    """End the training at the first look after this many tokens; without looks it has no effect."""


@dataclass(frozen=True)
class Look:
    """The state after some steps; of step 0 the start."""

    step: int
    tokens: int
    """Trained on by then."""
    attack: str
    """The strongest."""
    out: float
    """Share of its secrets that it got out and that the oracle, if there is one, does not give away."""
    kept: float
    """How likely a token of the retain rows is, against before; at most 1."""


class Counted:
    """A stream that counts its steps and tokens."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.steps, self.tokens = stream, 0, 0

    def next(self, run: Run) -> Parts:
        """The next step's parts."""
        parts = self.stream.next(run)
        self.steps, self.tokens = self.steps + 1, self.tokens + sum(batch.num_tokens for batch in parts.values())
        return parts

    def state(self) -> dict[str, Any]:
        return {"stream": self.stream.state(), "steps": self.steps, "tokens": self.tokens}

    def load(self, state: Mapping[str, Any]) -> None:
        self.stream.load(state["stream"])
        self.steps, self.tokens = int(state["steps"]), int(state["tokens"])


@dataclass(frozen=True)
class Watch:
    """Called with the live roles after every so many steps: looks, writes the path, and gives the sentence with which training ends, or ""."""

    path: Path
    probes: Sequence[Probe]
    before: Scores
    oracle: Scores | None
    stream: Counted
    tokenizer: Any
    tokens: int | None
    then: Until | None = None
    """The run's own rule, asked at the same times."""

    @property
    def flag(self) -> str:
        """What asked for it."""
        return "--look-every"

    def __call__(self, roles: Mapping[str, Any]) -> str:
        live = roles["policy"]
        policy = Policy(live.model, self.tokenizer, handle=live.handle)
        now = Scores("", tuple(probe(policy) for probe in self.probes))
        earlier = read(self.path) if self.path.exists() else [seen(0, 0, self.before, self.before, self.oracle)]
        path = [look for look in earlier if look.step < self.stream.steps]
        path.append(seen(self.stream.steps, self.stream.tokens, now, self.before, self.oracle))
        write_atomic(self.path, json.dumps([asdict(look) for look in path], indent=1))
        if self.tokens is not None and self.stream.tokens >= self.tokens:
            return f"trained on {self.stream.tokens} of {self.tokens} tokens"
        return self.then(roles) if self.then else ""


def seen(step: int, tokens: int, now: Scores, before: Scores, oracle: Scores | None) -> Look:
    """What scores come to at some step: the strongest attack, and exp of the mean change of the retain rows' loss per token.

    Args:
        oracle: what it gives away too is no leak.
    """
    spared: dict[str, set[str]] = {p.probe: set() for p in now.probes}
    spared |= {p.probe: {i.id for i in p.items if i.score < 1} for p in oracle.probes} if oracle else {}
    attacks = [(sum(i.score < 1 and i.id not in spared[p.probe] for i in p.items) / len(p.items), p.probe) for p in now.probes if p.side == "target"]
    out, attack = max(attacks, key=lambda found: (found[0], found[1]))
    then, after = (mean([i.score for p in scores.probes if p.side == "keep" for i in p.items]) for scores in (before, now))
    return Look(step, tokens, attack, out, min(1.0, math.exp(then - after)))


def read(path: Path) -> list[Look]:
    """The looks that a run wrote."""
    return TypeAdapter(list[Look]).validate_json(path.read_bytes())


def watch(run: Experiment, policy: Policy, held: Sequence[Row], oracle: str | None, stream: Counted, then: Until | None) -> Watch:
    """The looks that a run's values ask for, with the start (and the oracle) looked at.

    Raises:
        UserError: evaluations are asked for at other steps.
    """
    from tempering import models
    from tempering.forgetting.battery import quick
    from tempering.forgetting.redact import redacted
    from tempering.measure import measure

    v = run.values
    if v["training"].eval_every not in (0, v["looks"].look_every):
        raise UserError(f"--look-every {v['looks'].look_every}: a look is an evaluation too, so leave --eval-every out")
    probes = quick(run, held)

    def measured(name: str, of: Callable[[], Policy]) -> Scores:
        """Read back where another run, or this one before it was stopped, has measured the same."""
        path, scores = run.folder.path / name, TypeAdapter(Scores)
        if not path.exists():
            found = measure(of(), probes)
            write_atomic(path, scores.dump_json(redacted(found) if v["redact"] else found).decode())
        return scores.validate_json(path.read_bytes())

    before = measured(SAME[0], lambda: policy)
    never = measured(SAME[1], lambda: models.load(oracle, say=run.display.say)) if oracle else None
    return Watch(run.folder.path / FILE, probes, before, never, stream, policy.tokenizer, v["looks"].look_tokens, then)
