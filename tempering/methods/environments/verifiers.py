"""Environments written for the package verifiers: `--env verifiers --env.id NAME`, where NAME is an installed taskset or environment of its hub.

verifiers (PrimeIntellect-ai/verifiers on GitHub) is not a dependency of this project: it wants an environment of its own, so it is loaded where it is
installed. Two of its protocols are spoken, as they stood in its repository on 2026-08-21 (commit a60a606):

- `v1`: a taskset yields tasks, whose `data` holds `system_prompt` and `prompt`; `task.score(trace)` fills in the trace's rewards. The policy answers
  once. Tasks that want a container, tools, or somebody who opens the conversation are refused: their harness calls a server, and is no environment.
- `v0`: an environment with `init_state`, `is_completed`, `get_prompt_messages` (which asks for the environment's response) and a rubric that scores
  the finished state; conversations of many turns. The package called it deprecated, and
  release 0.4.0 no longer has it. Rubrics that score groups together are refused.

The order of calls is that of the package's own rollout; who writes the answer is our decoder, so the sampled tokens are the tokens that are trained
on. A tool call in an answer's text, in the form of `rollouts/tools.py`, reaches v0 as a tool call. Tested with recorded objects, not with the
package.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tempering.errors import UserError
from tempering.methods.environments._live import Live, field, module, text
from tempering.rollouts.tools import CALL
from tempering.rollouts.types import State, Trajectory
from tempering.types import Message, Record

if TYPE_CHECKING:
    import numpy as np

INSTALL = "--env verifiers needs the package verifiers where this runs: pip install verifiers, and the environment's own package"


class Verifiers(Live):
    """A taskset or environment of verifiers."""

    kind: Literal["verifiers"] = "verifiers"
    id: str = Field(min_length=1)
    """Its name, as verifiers takes it."""
    protocol: Literal["v1", "v0"] = "v1"
    """Of tasksets, or of the older environments."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Fields of the taskset's configuration, or arguments of `load_environment`."""
    limit: int = Field(default=1000, ge=2)
    """Take at most so many tasks; a taskset may have no end."""

    @property
    def name(self) -> str:
        return self.id.rpartition("/")[2]

    @cached_property
    def _theirs_loaded(self) -> _Tasksets | _Rollouts:
        with self._theirs("loading it"):
            return (_Tasksets if self.protocol == "v1" else _Rollouts)(self.id, self.options, self.limit)

    def tasks(self, split: Literal["train", "test"], n: int | None = None) -> Sequence[Record]:
        """Its own evaluation set, else a tenth, is for the test.

        Raises:
            UserError: the package or the environment is not there, or a task cannot be played here.
        """
        return self._divided[split == "test"][:n]

    @cached_property
    def _divided(self) -> tuple[list[Record], list[Record]]:
        from tempering.lessons import split

        with self._theirs("reading its tasks"):
            train, test = self._theirs_loaded.records()
        return (train, test) if test else split(train, 200, 0)

    async def reset(self, task: Record) -> State:
        """As the package begins."""
        with self._theirs(f"beginning task {task.id}"):
            live, messages, tools = await self._theirs_loaded.begin(int(task.tags["row"]))
        return State(messages, memory=self._opened(live), tools=tools)

    async def step(self, state: State, answer: str) -> State:
        """As the package answers; over when it says so, and then scored."""
        live = self._open[state.memory["open"]]
        with self._theirs("answering"):
            messages = await self._theirs_loaded.answer(live, answer)
            if messages is not None:
                return State(messages, memory=state.memory, tools=state.tools)
            del self._open[state.memory["open"]]
            return state.said(answer, done=True, reward=await self._theirs_loaded.score(live))

    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        """What conversations earn that ended without being over; others have been paid."""
        import numpy as np

        found = np.zeros(len(played))
        for place, live in self._left(played):
            with self._theirs("scoring"):
                found[place] = asyncio.run(self._theirs_loaded.score(live))
        return found


def _messages(theirs: Any) -> tuple[Message, ...]:
    """Their messages as ours."""
    if isinstance(theirs, str):
        return (Message("user", theirs),)
    return tuple(Message(field(m, "role"), text(field(m, "content")), name=field(m, "name")) for m in theirs)


def _record(row: int, messages: tuple[Message, ...], source: str, answer: Any = None) -> Record:
    return Record(messages, (), id=str(row), source=f"{source}:{row}", tags={"row": row, **({"answer": answer} if isinstance(answer, str) else {})})


@dataclass
class _Answered:
    """A conversation of v1: its task, and what was said."""

    task: Any
    said: list[str]


class _Tasksets:
    """The protocol of tasksets."""

    def __init__(self, id: str, options: dict[str, Any], limit: int) -> None:
        self.vf = module("verifiers.v1", INSTALL)
        self.id = id
        taskset = self.vf.load_taskset(self.vf.taskset_config_type(id)(**options, id=id))
        self.rows = list(islice(iter(taskset), limit))
        if not self.rows:
            raise UserError(f"environment {id}: its taskset has no tasks")
        if type(taskset).toolsets(taskset.config) or any(type(task).toolsets(task.config) for task in self.rows[:1]):
            raise UserError(
                f"environment {id}: its tasks have tools, which verifiers serves to a harness; only tasks answered in words can be played"
            )
        for task in self.rows:
            if task.NEEDS_CONTAINER or not task.data.prompt:
                why = "wants a container" if task.NEEDS_CONTAINER else "has no prompt"
                raise UserError(f"environment {id}: task {task.data.idx} {why}; only tasks that are answered in words can be played here")

    def records(self) -> tuple[list[Record], list[Record]]:
        return [_record(i, self._prompt(task), self.id) for i, task in enumerate(self.rows)], []

    @staticmethod
    def _prompt(task: Any) -> tuple[Message, ...]:
        system = (Message("system", task.data.system_prompt),) if task.data.system_prompt else ()
        return (*system, *_messages(task.data.prompt))

    async def begin(self, row: int) -> tuple[_Answered, tuple[Message, ...], tuple[()]]:
        task = self.rows[row]
        return _Answered(task, []), self._prompt(task), ()

    async def answer(self, live: _Answered, answer: str) -> None:
        """One answer ends it."""
        live.said.append(answer)

    async def score(self, live: _Answered) -> float:
        task, vf = live.task, self.vf
        trace = vf.Trace(
            task=vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
            state=module("verifiers.v1.state", INSTALL).state_cls(type(task))(),
            agent=vf.AgentInfo(config=vf.AgentConfig()),
        )
        given = [{"role": m.role, "content": m.content} for m in self._prompt(task)]
        for message, sampled in [(m, False) for m in given] + [({"role": "assistant", "content": said}, True) for said in live.said]:
            trace.nodes.append(vf.MessageNode(parent=len(trace.nodes) - 1 if trace.nodes else None, message=message, sampled=sampled))
        trace.is_completed = trace.ok = True
        await task.score(trace)
        return float(trace.reward)


@dataclass
class _Going:
    """A conversation of v0: their state, and the prompt that was last shown."""

    state: Any
    prompt: Any


class _Rollouts:
    """The protocol of environments before tasksets."""

    def __init__(self, id: str, options: dict[str, Any], limit: int) -> None:
        self.id, self.limit = id, limit
        try:
            self.vf, place = module("verifiers.legacy", INSTALL), "verifiers.legacy"
        except UserError:
            # Releases before tasksets have it at the top.
            self.vf, place = module("verifiers", INSTALL), "verifiers"
        self.types = module(f"{place}.types", INSTALL)
        self.env = self.vf.load_environment(id, **options)
        if getattr(self.env, "requires_group_rollouts", False):
            raise UserError(f"environment {id}: its rubric scores groups of answers together; only answers scored one by one can be played here")
        self.rows: list[Any] = []

    def records(self) -> tuple[list[Record], list[Record]]:
        held = any(getattr(self.env, name, None) is not None for name in ("eval_dataset", "eval_dataset_source"))
        made: list[list[Record]] = [[], []]
        for side, read in enumerate((self.env.get_dataset, self.env.get_eval_dataset) if held else (self.env.get_dataset,)):
            for row in islice(read(n=self.limit), self.limit):
                made[side].append(_record(len(self.rows), _messages(row["prompt"]), self.id, row.get("answer")))
                self.rows.append(row)
        return made[0], made[1]

    async def begin(self, row: int) -> tuple[_Going, tuple[Message, ...], tuple[dict[str, Any], ...]]:
        state = await self.env.init_state(dict(self.rows[row]), self.types.ClientConfig(), "policy", {})
        state = await self.env.setup_state(state) or state
        if await self.env.is_completed(state):
            raise UserError(f"it is over before the first answer ({state.get('stop_condition')})")
        prompt = await self.env.get_prompt_messages(state)
        shown = ("name", "description", "parameters")
        tools = tuple({"type": "function", "function": {name: field(tool, name) for name in shown}} for tool in state.get("tool_defs") or ())
        return _Going(state, prompt), _messages(prompt), tools

    async def answer(self, live: _Going, answer: str) -> tuple[Message, ...] | None:
        """All messages that the policy sees next; None where it is over."""
        env, state = self.env, live.state
        empty = {"response": None, "tokens": None, "reward": None, "advantage": None, "is_truncated": False, "extras": {}}
        step = {"prompt": live.prompt, "completion": [self._said(answer)], "trajectory_id": state.get("trajectory_id"), **empty}
        await env.add_trajectory_step(state, step)
        if await env.is_completed(state):
            return None
        prompt = await env.get_prompt_messages(state)
        if state.get("final_env_response") is not None:
            await env.is_completed(state)
            return None
        live.prompt = prompt
        return _messages(prompt)

    def _said(self, answer: str) -> Any:
        """An answer as a message of theirs, with the tools that it calls."""
        calls = []
        for found in CALL.findall(answer):
            try:
                call = json.loads(found)
                calls.append(self.types.ToolCall(id=f"call-{len(calls)}", name=str(call["name"]), arguments=json.dumps(call["arguments"])))
            except (ValueError, TypeError, KeyError, RecursionError):
                continue  # No call: the text alone is what was said.
        return self.types.AssistantMessage(content=answer, tool_calls=calls or None)

    async def score(self, live: _Going) -> float:
        """After its cleaning up, which writes down what was said."""
        await self.env.cleanup(live.state)
        await self.env.rubric.score_rollout(live.state)
        await self.env.rubric.cleanup(live.state)
        return float(live.state["reward"])
