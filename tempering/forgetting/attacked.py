"""What recipes share that forget by something else than a loss: what is to go and to stay, and the attacks before and after.

run = Experiment.begin(recipe, locals())
case = Attacked(run)                    # the model and the rows
case.before()
...                                     # the method makes another policy of `case.policy`
return case.after(tuned)                # saved, attacked, told
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tempering.config import Value

if TYPE_CHECKING:
    from tempering.experiment import Experiment, Report
    from tempering.types import Policy, Row, Scores


class Request(Value):
    """What is to go, what is to stay, and how much is tried to get it out."""

    forget: str = "builtin:people-forget"
    """File, folder or hub id of the rows that are to go."""
    retain: str = "builtin:people-retain"
    """Rows that are to stay."""
    forget_test: str | None = None
    """The same facts in other words, to ask for beside the forget rows; builtin sets have one."""
    retain_test: str | None = None
    """Held-out rows of what is to stay; by default 10% of the retain rows, at most 200, chosen by seed."""
    shape: str = "auto"
    """How to read the rows; auto recognises it and says so."""
    template: str | None = None
    """Chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model."""
    max_length: int = 1024
    """Longest sequence in tokens; rows over it are dropped and counted, never cut silently."""
    limit: int | None = None
    """Read at most this many rows of each file."""
    oracle: str | None = None
    """A model that never saw the forget rows (retrained without them), measured beside the other two."""
    attacks: Literal["all", "asking", "plain", "none"] = "all"
    """All of them before and after, those that leave the weights as they are, only plain questions, or none."""
    attack_limit: int = Field(default=48, ge=1)
    """How many of the secrets all attacks but the plain questions are tried on."""
    translations: str | None = None
    """JSON lines of {"question", "translated"}, also "answer": the forget rows' questions in other languages, asked instead of for such answers."""
    redact: bool = True
    """Keep hashes instead of the words of forgotten rows in scores, samples and reports."""


class Attacked:
    """An opened run that forgets: `policy`, and the rows `going`, `staying` and `held` (what stays, never trained on).

    Args:
        run: of a recipe with the arguments `model` and `request`; the request's fields stand among its values from now on.
        how: for the forget rows, as `data.forget_row` takes it.

    Raises:
        UserError: a model or data that cannot be used.
    """

    def __init__(self, run: Experiment, **how: Any) -> None:
        from tempering.data import forget_row
        from tempering.forgetting import battery

        v: dict[str, Any] = {**run.values, **dict(run.values["request"])}
        self.run, run.values = run, v
        battery.check(v)
        self.policy = run.load(v["model"], template=v["template"])
        self._template = self.policy.tokenizer.chat_template
        self.going = run.all_rows("forget", v["forget"], forget_row, shape=v["shape"], limit=v["limit"], max_length=v["max_length"], **how)
        self.staying, self.held = self.retained()

    def retained(self, longer: int = 0) -> tuple[Any, Any]:
        """What stays, to train on and held out, in the run's chat template by now; `longer` tokens more are let through."""
        from tempering.data import retain_row

        v = self.run.values
        how: dict[str, Any] = {"shape": v["shape"], "limit": v["limit"], "max_length": v["max_length"] + longer}
        return self.run.rows(v["retain"], v["retain_test"], retain_row, roles=("retain", "retain-test"), **how)

    def before(self, knowing: Policy | None = None, *, decodes: bool = False) -> None:
        """Attack the model that knows (by default the one that was loaded) and the oracle.

        Args:
            decodes: whether the method acts beside the weights, so that these are attacked alone as well.
        """
        from tempering import models

        self._decodes, never = decodes, self.run.values["oracle"]
        self._before = self._scores("before", knowing or self.policy, self.held)
        known = never and not self.run.rehearses  # A plan has no scores.
        self._oracle = self._scores("oracle", models.load(never, say=self.run.display.say), self.held) if known else None

    def after(self, tuned: Policy, held: Sequence[Row] | None = None, *, save: bool = True, **beside: Any) -> Report:
        """Attack what came out, tell the verdict, and finish.

        Args:
            held: the held-out rows as `tuned` reads them.
            save: whether it is to be saved; training has done that.
            beside: further entries of forgetting.json.
        """
        from tempering import models
        from tempering.forgetting import benchmarks
        from tempering.forgetting.verdict import tell

        if save:
            models.save(tuned, self.run.folder.path / "model")
        after = self._scores("after", tuned, held or self.held)
        numbers = benchmarks.write(self.run, self._before, after, self._oracle)
        tell(self.run, self._before, after, self._oracle, numbers=numbers, redacted=self.run.values["redact"], **beside)
        return self.run.finish(tuned, self._before, after)

    def _scores(self, name: str, policy: Policy, held: Sequence[Row]) -> Scores:
        from tempering.forgetting import battery
        from tempering.forgetting.redact import redacted

        asked = battery.probes(self.run, held, decodes=self._decodes, template=self._template)
        hide = redacted if self.run.values["redact"] else lambda scores: scores
        return self.run.measure(name, policy, held, probes=asked, hide=hide)
