"""Reinforcement as a stream: tasks of an environment, conversations of the live policy, what they earned, credit; as the part "rollout".

A round samples `updates` steps' worth of tasks and is learned from `epochs` times, in mini-batches; the next round is sampled by the policy as it is
by then. Position is JSON: how many tasks were visited, what of the round is still to be learned from, and the rounds that were sampled ahead, tokens
and all. Since the noise is keyed by (seed, visit), a resumed run goes on to the same bits.

With a staleness of N a round is asked for N rounds before it is learned from, and never sooner: so it is exactly N versions of the weights old (less
at the beginning), samplers that are ahead wait, and the run is the same whoever samples and however fast. A checkpoint waits for what was asked for.
What a round leaves open (`partial`) goes on in the next one that is asked for.

Where several processes train, the policy's whole weights are put together for each round, and all processes have the same rounds and columns.

Columns, on sampled tokens (all others have weight 0): "sampled_logp", the sampler's; "old_logp", what ratios are taken to; "advantage"; "turn", the
turn's number in its conversation; of a credit with a critic also "return" and "old_value"; "reference.logp" where it was asked for its price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from tempering.config import Training
from tempering.data.rendering import prompt_ids
from tempering.distributed.world import ALONE
from tempering.errors import UserError
from tempering.layout import collate, to
from tempering.rollouts import acting
from tempering.rollouts.acting import Acting, Group
from tempering.rollouts.health import health, mismatch, silent
from tempering.rollouts.play import Begun
from tempering.rollouts.rows import SAMPLED, flat, from_json, segments, to_json
from tempering.rollouts.samplers import Here, Samplers, Wait
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.types import Credit, Earned, Environment
from tempering.sample import evaluating
from tempering.signals import compute, engine_for, is_signal
from tempering.types import Parts, Record, Row, Run, Segment

PART = "rollout"
HORIZON = 10_000
"""Conversations over which the price of a nat may change by a fifth."""
PLANNED = 64
"""Tasks that a plan looks at."""
_SIGNALS = {"value": "critic.value", "old": "logp", "kl": "reference.logp"}


@dataclass(frozen=True)
class _Asked:
    """A round that was asked for."""

    begin: int
    """Its first visit."""
    end: int
    """The first visit that is not its own."""
    version: int
    """Of the weights that sample it: how many rounds were learned from before."""
    made: Wait


class Conversations:
    """Conversations of the live policy with advantages.

    Args:
        tokenizer: the policy's.
        tasks: gone through in a new seeded order each time.
        training: its batch size is the tasks of one optimizer step, its precision is the sampler's too.
        max_new_tokens: of one turn.
        samplers: who samples; the trainer itself, unless said otherwise.
        rounds: how many there will be, so that none is sampled ahead that nobody learns from; None knows no end.
    Raises:
        UserError: conversations are to be left open that cannot be.
    """

    def __init__(
        self,
        tokenizer: Any,
        environment: Environment,
        tasks: Sequence[Record],
        credit: Credit,
        settings: Rollouts,
        *,
        training: Training,
        max_new_tokens: int,
        seed: int = 0,
        samplers: Samplers | None = None,
        rounds: int | None = None,
    ) -> None:
        if settings.partial and not environment.portable:
            raise UserError(
                f"--rollouts.partial {settings.partial}: conversations of {environment.name} live in its own package and cannot be left open between "
                "rounds, nor kept in a checkpoint; leave it at 0"
            )
        self.credit, self.settings, self.training, self.engine, self.seed = credit, settings, training, engine_for(training), seed
        own = settings.old == "trainer" or settings.temperature != 1 or settings.correction > 0
        self.asks = {*credit.asks, *(("old",) if own else ()), *(("kl",) if settings.kl_cost else ())}
        self.acting = Acting(
            tokenizer, environment, tasks, settings, max_new_tokens, seed,
            wanted=settings.updates * training.batch_size, greedy="greedy" in credit.asks, dtype=self.engine.dtype,
        )  # fmt: skip
        self.rounds, self.samplers = rounds, samplers or Here()
        self.taken, self.version, self.kl_cost = 0, 0, settings.kl_cost
        self._ahead: list[_Asked] = []
        self._open: Sequence[Begun] = ()
        self._rows: list[tuple[Segment, ...]] = []
        self._left: list[list[int]] = []

    def next(self, run: Run) -> Parts:
        """The next step's conversations; sampled anew where the round is over."""
        if not self._left:
            self._rows = [_chosen(row) for row in self._round(run)] if self.credit.chooses else self._round(run)
            order = np.random.Generator(np.random.PCG64([self.seed, self.taken, 1]))
            turns = [order.permutation(len(self._rows)) for _ in range(self.settings.epochs)]
            self._left = [part.tolist() for turn in turns for part in np.array_split(turn, self.settings.updates)]
        return collate([{PART: self._rows[i]} for i in self._left.pop(0)])

    def state(self) -> dict[str, Any]:
        return {
            "taken": self.taken,
            "version": self.version,
            "ahead": [{"begin": a.begin, "end": a.end, "version": a.version, "made": acting.to_json(a.made())} for a in self._ahead],
            "open": acting.begun_to_json(self._open),
            "kl_cost": float(self.kl_cost),
            "left": self._left,
            "rows": [to_json(row) for row in self._rows] if self._left else [],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.taken, self.kl_cost, self._left = int(state["taken"]), float(state["kl_cost"]), [list(part) for part in state["left"]]
        self._rows = [from_json(row) for row in state["rows"]]
        self.version = int(state["version"])
        self._ahead = [_Asked(a["begin"], a["end"], a["version"], partial(acting.from_json, a["made"])) for a in state["ahead"]]
        self._open = acting.begun_from_json(state["open"])

    # ------------------------------------------------------------------------------------------------------------------------------ sampling

    def _round(self, run: Run) -> list[tuple[Segment, ...]]:
        ahead, settings, model = self._ahead, self.settings, None
        left = settings.staleness + 1 if self.rounds is None else self.rounds - self.version
        while len(ahead) < max(1, min(settings.staleness + 1, left)):
            begin, (begun, self._open) = ahead[-1].end if ahead else self.taken, (self._open, ())
            model = self._sampled(run) if model is None else model
            wait = self.samplers.submit(self.acting, model, self.version, begin, begun)
            ahead.append(_Asked(begin, begin + self.acting.span(begun), self.version, wait))
        asked = ahead.pop(0)
        made = asked.made()
        tries, self._open = made.tries, made.left
        for groups in tries:
            run.log(**health([g.played for g in groups], [g.score_N for g in groups]))
        if settings.staleness:
            run.log(staleness=torch.tensor([float(self.version - asked.version)]))
        if settings.samplers:
            run.log(waited=torch.tensor([self.samplers.waited]))
            self.samplers.waited = 0.0
        if settings.partial:
            run.log(carried=torch.tensor([made.carried / self.acting.wanted]), open=torch.tensor([float(len(made.left))]))
        self.taken, self.version = asked.end if settings.partial else asked.begin + sum(map(len, tries)), self.version + 1
        chosen = self.acting.chosen(tries)
        rows = self._credited(run, chosen)
        if settings.drop:
            return [_unheard(row) if silent(group.score_N) else row for row, group in zip(rows, chosen, strict=True)]
        return rows

    def _sampled(self, run: Run) -> torch.nn.Module:
        """The policy with whole weights, where this process samples with it."""
        whole = None if run.pieces is None else run.pieces.whole("policy", everywhere=not (self.settings.samplers or self.settings.partial))
        return run.roles["policy"].model if whole is None else whole

    # -------------------------------------------------------------------------------------------------------------------------------- credit

    def _credited(self, run: Run, groups: Sequence[Group]) -> list[tuple[Segment, ...]]:
        """Rows of the groups with every column that a loss may ask for."""
        nested = [[segments(trajectory) for trajectory in group.played] for group in groups]
        rows = self._seen(run, [tuple(s for own in group for s in own) for group in nested])
        every = [s for row in rows for s in row]
        played = [trajectory for group in groups for trajectory in group.played]
        if not every:
            return rows
        reward_T = np.concatenate([reward_T for group in groups for reward_T in group.reward])
        sampled_T = flat(every, SAMPLED)
        old_T = flat(every, "logp") if "old" in self.asks else sampled_T
        if "old" in self.asks:
            run.log(**mismatch(sampled_T, old_T))
        price_T = self._priced(run, old_T - flat(every, "reference.logp"), len(played)) if "kl" in self.asks else None
        turn_T = np.concatenate([np.repeat(np.arange(len(one.turns)), [len(turn.ids) for turn in one.turns]) for one in played])
        earned = Earned(
            reward_T if price_T is None else reward_T - price_T,
            np.repeat(np.arange(len(played)), [trajectory.tokens for trajectory in played]),
            np.repeat(np.arange(len(groups)), [len(group.played) for group in groups]),
            flat(every, "critic.value") if "value" in self.asks else None,
            np.concatenate([np.full(len(group.played), group.greedy) for group in groups]) if "greedy" in self.asks else None,
            np.concatenate([along_T for group in groups for along_T in group.along]) if any(group.along for group in groups) else None,
            turn_T,
            price_T,
        )
        told = {"old_logp": old_T, "turn": turn_T}
        columns = iter(_by_segment(every, {**self._corrected(run, self.credit(earned), old_T - sampled_T), **told}))
        return [tuple(replace(s, extras={**_kept(s), **next(columns)}) for s in row) for row in rows]

    def _corrected(self, run: Run, columns: Mapping[str, np.ndarray], moved_T: np.ndarray) -> Mapping[str, np.ndarray]:
        """Credit with each token's advantage times how much likelier it is by now than when it was sampled, where that is asked for."""
        if not (most := self.settings.correction):
            return columns
        ratio_T = np.exp(moved_T)
        run.log(correction=torch.tensor(np.minimum(ratio_T, most)), truncated=torch.tensor((ratio_T > most).astype(np.float64)))
        return {**columns, "advantage": columns["advantage"] * np.minimum(ratio_T, most)}

    def _priced(self, run: Run, away_T: np.ndarray, count: int) -> np.ndarray:
        """What each token's log-ratio to the reference costs; where there is a target, the price of the next round follows from this one's mean."""
        mean, cost = away_T.sum() / count, self.kl_cost
        run.log(sampled_kl=torch.tensor([mean]), kl_cost=torch.tensor([cost]))
        if self.settings.kl_target:
            self.kl_cost *= 1 + np.clip(mean / self.settings.kl_target - 1, -0.2, 0.2) * count / HORIZON
        return cost * away_T

    def _seen(self, run: Run, rows: list[tuple[Segment, ...]]) -> list[tuple[Segment, ...]]:
        """The rows with what the trainer's own passes say of their tokens, as columns; as they are where nothing is asked."""
        needs = {PART: frozenset(_SIGNALS[name] for name in self.asks if name in _SIGNALS)}
        if not needs[PART]:
            return rows
        found: list[tuple[Segment, ...]] = []
        chunks = _chunks(rows, self.training.micro_tokens)
        for some, signals in zip(chunks, self._signals(run, chunks, needs), strict=True):
            at = 0
            for row in some:
                made = []
                for s in row:
                    mine = {name: x_T[at : at + len(s.ids)] for name, x_T in signals.items()}
                    made.append(replace(s, extras={**s.extras, **mine}))
                    at += len(s.ids)
                found.append(tuple(made))
        return found

    def _signals(self, run: Run, chunks: Sequence[Sequence[tuple[Segment, ...]]], needs: Mapping[str, frozenset[str]]) -> list[dict[str, np.ndarray]]:
        """Signals of each chunk's tokens; of several processes each computes its share of the chunks, all as many at once."""
        pieces = run.pieces
        world, engine = (ALONE, self.engine) if pieces is None else (pieces.world, replace(self.engine, run=pieces.run, late=False))
        found: list[dict[str, np.ndarray]] = []
        with evaluating(*(role.model for role in run.roles.values())):
            for at in range(0, len(chunks), world.hands):
                some = chunks[min(at + world.hand, len(chunks) - 1)]
                parts = to(collate([{PART: row} for row in some]), self.engine.device)
                mine = {name: x.float().cpu().numpy() for name, x in compute(run.roles, parts, needs, engine)[PART].items()}
                found += world.gather(mine)[:: world.tensor]
        return found[: len(chunks)]


def _chunks(rows: Sequence[tuple[Segment, ...]], most: int) -> list[list[tuple[Segment, ...]]]:
    """Rows in order, together while they have at most so many tokens."""
    chunks: list[list[tuple[Segment, ...]]] = []
    filled = most + 1
    for row in rows:
        size = sum(len(s.ids) for s in row)
        if filled + size > most:
            chunks, filled = [*chunks, []], 0
        chunks[-1].append(row)
        filled += size
    return chunks


def _chosen(row: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """What of a row has advantages; its first segment without weight where nothing has, since a step must have rows."""
    return tuple(s for s in row if np.any(s.extras["advantage"])) or _unheard(row)


def _unheard(row: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """A row's first segment without weight: it is there, and teaches nothing."""
    return tuple(replace(s, weight=0 * s.weight) for s in row[:1])


def _kept(s: Segment) -> Mapping[str, Any]:
    """The columns that stay: the trainer's own log-probs and values live on under the names that losses ask for."""
    return {name: x for name, x in s.extras.items() if name not in ("logp", "critic.value")}


def _by_segment(every: Sequence[Segment], columns: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Columns of sampled tokens [T] as columns of all tokens of each segment, 0 elsewhere."""
    found, at = [], 0
    for s in every:
        own_T = s.weight != 0
        count = int(own_T.sum())
        mine = {name: np.zeros(len(s.ids), np.float32) for name in columns}
        for name, x_T in columns.items():
            mine[name][own_T] = x_T[at : at + count]
        found.append(mine)
        at += count
    return found


def longest(tokenizer: Any, tasks: Sequence[Record], samples: int, new: int, needs: Mapping[str, frozenset[str]]) -> list[Row]:
    """Rows as large as a step can be, for a plan: every conversation one turn of the whole budget, no two of them alike.

    Args:
        needs: an objective's; columns that no model gives are zeros.
    """
    rows = []
    for task in tasks[:PLANNED]:
        prompt = prompt_ids(tokenizer, task.prompt, task.tools)
        own = np.repeat(np.array([0.0, 1.0], np.float32), [len(prompt), new])
        extras = {name: np.zeros(len(own), np.float32) for name in sorted(needs[PART]) if not is_signal(name)}
        rows.append({PART: tuple(Segment(np.array([*prompt, *[i] * new], np.int32), own, extras) for i in range(samples))})
    return rows
