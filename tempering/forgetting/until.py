"""`--until "asked >= oracle"`: when forgetting is done. A probe of the run is measured at every evaluation, and training ends where it holds.

Every published comparison of unlearning methods hinges on when each was stopped; a rule stops them all at the same amount of forgetting.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tempering.errors import UserError
from tempering.items import mean
from tempering.types import Policy, Probe, Scores

EVERY = 10
"""Steps between two looks where the settings name no number."""
_FORM = re.compile(r"\s*(?P<probe>.+?)\s*(?P<op>>=|<=|>|<)\s*(?P<than>oracle|start|[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)\s*")
_OPS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}


@dataclass(frozen=True)
class Until:
    """A parsed rule; called with the live policy, it gives the sentence with which training ends, or ""."""

    text: str
    probe: Probe
    op: str
    threshold: float
    tokenizer: Any

    @property
    def flag(self) -> str:
        """What asked for it."""
        return f"--until {self.text!r}"

    def __call__(self, roles: Mapping[str, Any]) -> str:
        live = roles["policy"]
        found = self.probe(Policy(live.model, self.tokenizer, handle=live.handle))
        value = mean([item.score for item in found.items])
        return f"{self.text}: {value:.3f} against {self.threshold:.3f}" if _OPS[self.op](value, self.threshold) else ""


def _refuse_away(text: str, found: re.Match[str], before: Scores) -> None:
    """Refuse a rule that wants what is to go on the start's side of the oracle: it would hold at the first look, and nothing be forgotten."""
    asked = next((p for p in before.probes if p.probe == found["probe"] and p.side == "target"), None)
    wrong = {True: "<", False: ">"}.get(asked.higher_is_better) if asked and asked.higher_is_better is not None else None
    if asked and wrong and found["op"].startswith(wrong):
        meant = found["op"].replace(wrong, ">" if wrong == "<" else "<")
        more = "more" if asked.higher_is_better else "less"
        raise UserError(
            f"until {text!r}: of {found['probe']} ({asked.metric}) {more} is better, so this holds as long as nothing is forgotten; "
            f'write "{found["probe"]} {meant} oracle"'
        )


def read(text: str, probes: Sequence[Probe], *, oracle: bool) -> re.Match[str]:
    """The rule's words, as far as they can be checked before anything is measured.

    Args:
        oracle: whether there will be one.

    Raises:
        UserError: another form, an unknown probe, or no oracle to compare with.
    """
    named = [str(probe.name) for probe in probes]  # type: ignore[attr-defined]
    found = _FORM.fullmatch(text)
    if found is None:
        raise UserError(f'until {text!r} is malformed; write PROBE OP NUMBER, for example "asked >= 0.95" or "asked >= oracle"')
    if found["probe"] not in named:
        near = difflib.get_close_matches(found["probe"], named, 1)
        mean_ = f"did you mean {near[0]!r}?" if near else f"this run measures {', '.join(named) or 'none'}"
        raise UserError(f"until {text!r}: there is no probe {found['probe']!r}; {mean_}")
    if found["than"] == "oracle" and not oracle:
        raise UserError(f"until {text!r}: there is no oracle; give one with --oracle or --base, or a number instead of the word")
    return found


def parse(text: str, probes: Sequence[Probe], before: Scores, oracle: Scores | None, tokenizer: Any) -> Until:
    """Read PROBE OP NUMBER, where the number may be the word oracle (that model's own mean) or start (this model's, before).

    Raises:
        UserError: as `read`, or a rule that wants to be as far from the oracle as the start.
    """
    found = read(text, probes, oracle=oracle is not None)
    probe = next(probe for probe in probes if probe.name == found["probe"])  # type: ignore[attr-defined]
    if found["than"] == "oracle":
        _refuse_away(text, found, before)
    threshold = found["than"]
    if threshold in ("oracle", "start"):
        of = oracle if threshold == "oracle" and oracle is not None else before
        threshold = mean([item.score for scores in of.probes if scores.probe == found["probe"] for item in scores.items])
    return Until(text.strip(), probe, found["op"], float(threshold), tokenizer)
