"""Environments of other packages, by recorded objects with their protocols: what is called in which order, what a policy sees, what it earns."""

from __future__ import annotations

import asyncio
import pickle
import random
import sys
from dataclasses import dataclass, field, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tempering.errors import UserError
from tempering.methods.environments._live import text
from tempering.methods.environments.gymnasium import Gymnasium
from tempering.methods.environments.verifiers import Verifiers
from tempering.rollouts.types import Environment, Trajectory, Turn
from tempering.types import Message, Record


def played(env: Environment, task: Record, *answers: str) -> Trajectory:
    """A conversation with written answers, as far as they go."""

    async def go() -> Trajectory:
        state, rewards = await env.reset(task), list[float]()
        for answer in answers:
            assert not state.done
            state = await env.step(state, answer)
            rewards.append(state.reward)
        turns = tuple(Turn((), (), (), answer, True) for answer in answers)
        return Trajectory(task, turns, tuple(rewards), state)

    return asyncio.run(go())


def said(trajectory: Trajectory) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in trajectory.state.messages]


# ------------------------------------------------------------------------------------------------------------------------------------- verifiers, v1


class Task:
    """As a taskset's."""

    NEEDS_CONTAINER = False
    key, hash, config = "key", "hash", None

    def __init__(self, i: int, prompt: Any = None) -> None:
        self.data = SimpleNamespace(idx=i, system_prompt="Be short.", prompt=prompt or f"What is {i} + {i}?")

    @classmethod
    def toolsets(cls, config: Any) -> list[Any]:
        return []

    async def score(self, trace: Any) -> None:
        assert trace.is_completed and trace.task.type == "Task" and trace.task.data is self.data and trace.state == "state of Task"
        assert [node.parent for node in trace.nodes] == [None, 0, 1] and [node.sampled for node in trace.nodes] == [False, False, True]
        trace.reward = float(trace.nodes[-1].message == {"role": "assistant", "content": str(2 * self.data.idx)})


class Taskset:
    def __init__(self, config: Any) -> None:
        self.config = config

    def __iter__(self) -> Any:
        return (Task(i) for i in range(self.config.num_tasks))

    @classmethod
    def toolsets(cls, config: Any) -> list[Any]:
        return []


def packaged(monkeypatch: pytest.MonkeyPatch, **modules: dict[str, Any]) -> None:
    """Modules of that name, for one test."""
    for name, content in modules.items():
        made = ModuleType(name.replace("__", "."))
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, made.__name__, made)


def tasksets(monkeypatch: pytest.MonkeyPatch, taskset: type = Taskset) -> None:
    def trace(**fields: Any) -> Any:
        return SimpleNamespace(nodes=[], is_completed=False, ok=False, **fields)

    plain = {name: SimpleNamespace for name in ("TraceTask", "AgentInfo", "AgentConfig", "MessageNode")}
    v1 = {"load_taskset": taskset, "taskset_config_type": lambda id: SimpleNamespace, "Trace": trace, **plain}
    packaged(monkeypatch, verifiers={}, verifiers__v1=v1, verifiers__v1__state={"state_cls": lambda cls: lambda: f"state of {cls.__name__}"})


def test_a_taskset_is_played_and_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    tasksets(monkeypatch)
    env = Verifiers(id="someone/addition-v1", options={"num_tasks": 20})
    train, test = env.tasks("train"), env.tasks("test")
    assert len(train) + len(test) == 20 and len(test) == 2 and {t.id for t in train}.isdisjoint(t.id for t in test)
    assert env.tasks("train", 3) == train[:3] and env.name == "addition-v1"
    task = train[4]
    row = task.tags["row"]
    right, wrong = played(env, task, str(2 * row)), played(env, task, "no")
    assert said(right) == [("system", "Be short."), ("user", f"What is {row} + {row}?"), ("assistant", str(2 * row))]
    assert (right.rewards, wrong.rewards, right.state.done) == ((1.0,), (0.0,), True)
    assert env.judge([right, wrong]).tolist() == [0, 0] and not env._open


def test_a_taskset_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(Taskset):
        def __iter__(self) -> Any:
            i = 0
            while True:
                yield Task(i)
                i += 1

    tasksets(monkeypatch, Endless)
    env = Verifiers(id="endless", limit=30)
    assert len(env.tasks("train")) + len(env.tasks("test")) == 30


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ({"NEEDS_CONTAINER": True}, "task 0 wants a container"),
        ({"toolsets": classmethod(lambda cls, config: ["search"])}, "its tasks have tools"),
        ({"__init__": lambda self, i: setattr(self, "data", SimpleNamespace(idx=i, system_prompt="", prompt=None))}, "task 0 has no prompt"),
    ],
)
def test_what_no_policy_can_answer_in_words_is_refused(what: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type("Other", (Task,), what)
    tasksets(monkeypatch, type("Others", (Taskset,), {"__iter__": lambda self: iter([kind(0), kind(1)])}))
    with pytest.raises(UserError, match=sentence):
        Verifiers(id="other").tasks("train")


def test_without_the_package_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("verifiers", "verifiers.v1", "gymnasium"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="needs the package verifiers"):
        Verifiers(id="x").tasks("train")
    with pytest.raises(UserError, match="needs the package gymnasium"):
        Gymnasium(id="X-v0").tasks("train", 1)


# ------------------------------------------------------------------------------------------------------------------------------------- verifiers, v0


@dataclass
class Said:
    """As verifiers.types.AssistantMessage."""

    content: str
    tool_calls: Any = None
    role: str = "assistant"


@dataclass
class Doubling:
    """An environment of several turns: double a number twice; a tool call is answered by a tool."""

    calls: list[str] = field(default_factory=list)
    eval_dataset: Any = None
    requires_group_rollouts = False

    def __post_init__(self) -> None:
        self.rubric = self

    def get_dataset(self, n: int) -> list[dict[str, Any]]:
        return [{"prompt": [{"role": "user", "content": f"Double {i}."}], "answer": str(4 * i), "example_id": i} for i in range(min(n, 12))]

    async def init_state(self, row: Any, client: Any, model: str, sampling: Any) -> dict[str, Any]:
        assert client == "client"
        return {**row, "trajectory": [], "trajectory_id": "t", "tool_defs": [SimpleNamespace(name="add", description="Adds.", parameters={})]}

    async def setup_state(self, state: dict[str, Any]) -> None:
        self.calls.append("setup")

    async def is_completed(self, state: dict[str, Any]) -> bool:
        return len(state["trajectory"]) == 3 or state.get("final_env_response") is not None

    async def get_prompt_messages(self, state: dict[str, Any]) -> list[Any]:
        if not state["trajectory"]:
            return state["prompt"]
        last = state["trajectory"][-1]
        answer = last["completion"][0]
        if answer.content == "stop":
            state["final_env_response"] = [{"role": "user", "content": "Bye."}]
            return []
        reply = {"role": "user", "content": [{"type": "text", "text": "Again."}]}
        if answer.tool_calls:
            reply = {"role": "tool", "content": f"called {answer.tool_calls[0].name} {answer.tool_calls[0].arguments}"}
        return [*last["prompt"], answer, reply]

    async def add_trajectory_step(self, state: dict[str, Any], step: dict[str, Any]) -> None:
        state["trajectory"].append(step)

    async def cleanup(self, state: dict[str, Any]) -> None:
        self.calls.append("cleanup")
        state["completion"] = [step["completion"][0].content for step in state["trajectory"]] if state["trajectory"] else []

    async def score_rollout(self, state: dict[str, Any]) -> None:
        self.calls.append("score")
        state["reward"] = float(state["answer"] in state["completion"])


def third(env: Environment) -> Record:
    """The task to double 3 twice, on whichever side it is."""
    return next(task for split in ("train", "test") for task in env.tasks(split) if task.tags["row"] == 3)  # type: ignore[arg-type]


def legacy(monkeypatch: pytest.MonkeyPatch, env: Doubling) -> None:
    types = {"ClientConfig": lambda: "client", "AssistantMessage": Said, "ToolCall": SimpleNamespace}
    packaged(monkeypatch, verifiers={}, verifiers__legacy={"load_environment": lambda id, **options: env}, verifiers__legacy__types=types)


def test_an_environment_of_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = Doubling()
    legacy(monkeypatch, theirs)
    env = Verifiers(id="doubling", protocol="v0")
    task = third(env)
    call = '<tool_call>{"name": "add", "arguments": {"a": 3}}</tool_call>'
    whole = played(env, task, call, "6", "12")
    assert said(whole) == [
        ("user", "Double 3."), ("assistant", call), ("tool", 'called add {"a": 3}'), ("assistant", "6"), ("user", "Again."), ("assistant", "12"),
    ]  # fmt: skip
    assert whole.rewards == (0, 0, 1) and whole.state.done
    assert whole.state.tools[0] == {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}
    assert theirs.calls == ["setup", "cleanup", "score", "cleanup"], "the rubric cleans up too"


def test_an_environment_may_end_a_conversation_and_a_model_may_run_out_of_room(monkeypatch: pytest.MonkeyPatch) -> None:
    legacy(monkeypatch, Doubling())
    env = Verifiers(id="doubling", protocol="v0")
    task = third(env)
    ended, cut = played(env, task, "12", "stop"), played(env, task, "12")
    assert ended.state.done and ended.rewards == (0, 1)
    assert not cut.state.done and cut.rewards == (0,) and len(env._open) == 1
    assert env.judge([ended, cut]).tolist() == [0, 1] and not env._open, "what was left is scored as it stands"


def test_a_rubric_that_scores_groups_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = Doubling()
    theirs.requires_group_rollouts = True  # type: ignore[misc]
    legacy(monkeypatch, theirs)
    with pytest.raises(UserError, match="its rubric scores groups"):
        Verifiers(id="doubling", protocol="v0").tasks("train")


def test_what_the_package_raises_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = Doubling()
    legacy(monkeypatch, theirs)
    env = Verifiers(id="doubling", protocol="v0")
    task = env.tasks("train")[0]
    monkeypatch.setattr(theirs, "get_prompt_messages", None)
    with pytest.raises(UserError, match=r"environment doubling: beginning task .*: TypeError: "):
        played(env, task, "1")
    with pytest.raises(UserError, match="a part of type 'image_url'"):
        text([{"type": "image_url"}])


# ---------------------------------------------------------------------------------------------------------------------------------------- gymnasium


class Corridor:
    """Four places in a row; the last pays 1."""

    def __init__(self, render_mode: str | None) -> None:
        self.render_mode, self.closed = render_mode, False

    def reset(self, seed: int) -> tuple[int, dict[str, Any]]:
        self.at = random.Random(seed).randrange(2)
        return self.at, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.at = max(0, self.at + (1 if action else -1))
        return self.at, float(self.at == 3), self.at == 3, False, {}

    def render(self) -> str:
        return "\x1b[41m" + "." * self.at + "X\x1b[0m"

    def close(self) -> None:
        self.closed = True


class Parrot(Corridor):
    """Observations and actions in words; it draws nothing."""

    def __init__(self) -> None:
        super().__init__(None)

    def reset(self, seed: int) -> tuple[Any, dict[str, Any]]:
        return f"Say {seed}.", {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return "Well.", float(action == "hello"), False, action == "enough", {}


@pytest.fixture
def gym(monkeypatch: pytest.MonkeyPatch) -> list[Corridor]:
    """A package with both, and the games that it made."""
    made = list[Corridor]()

    def make(id: str, **options: Any) -> Corridor:
        made.append({"Corridor-v0": Corridor, "Parrot-v0": Parrot}[id](**options))
        return made[-1]

    packaged(monkeypatch, gymnasium={"make": make})
    return made


def test_a_drawn_game_is_shown_and_played_by_words(gym: list[Corridor]) -> None:
    env = Gymnasium(id="Corridor-v0", actions=("left", "right"), invalid=-0.5, games=20)
    task = env.tasks("train")[0]
    begin = random.Random(0).randrange(2)
    assert all(game.closed for game in gym) and task.prompt[0].content.endswith("." * begin + "X")
    one = played(env, task, "I go left, no: Right!", "bright", *["right"] * (2 - begin))
    shown = [content for role, content in said(one) if role == "user"]
    assert shown[0] == "Answer with one of: left, right.\n\n" + "." * begin + "X" and shown[1] == "." * (begin + 1) + "X"
    assert shown[2] == "That is none of: left, right."
    assert one.rewards == (0, -0.5, *[0.0] * (1 - begin), 1) and one.state.done and gym[-1].closed and not env._open
    assert {t.tags["seed"] for t in env.tasks("test")} == {20, 21} and len(env.tasks("train")) == 20


def test_words_go_in_and_come_out(gym: list[Corridor]) -> None:
    env = Gymnasium(id="Parrot-v0", says="Talk.", turns=3)
    task = env.tasks("train", 8)[7]
    cut = played(env, task, " hello ", "enough")
    assert said(cut)[:3] == [("user", "Talk.\n\nSay 7."), ("assistant", " hello "), ("user", "Well.")]
    assert cut.rewards == (1, 0) and cut.state.done, "a game that was cut short is over too"
    long = played(env, task, "a", "b", "hello")
    assert long.state.done and long.rewards == (0, 0, 1)
    left = played(env, task, "a")
    assert env.judge([cut, left]).tolist() == [0, 0] and gym[-1].closed and not env._open


def test_games_at_once_do_not_meet(gym: list[Corridor]) -> None:
    env = Gymnasium(id="Corridor-v0", actions=("left", "right"))
    tasks = [replace(task, tags={"seed": seed}) for task, seed in zip(env.tasks("train", 2), (1, 1), strict=True)]

    async def both() -> list[Any]:
        one, other = [await env.reset(task) for task in tasks]
        one = await env.step(one, "right")
        return [one, await env.step(other, "left")]

    one, other = asyncio.run(both())
    assert gym[-2].at == random.Random(1).randrange(2) + 1 and gym[-1].at == max(0, random.Random(1).randrange(2) - 1)
    assert one.memory["open"] != other.memory["open"]


def test_a_sampler_in_another_process_gets_the_fields_alone(gym: list[Corridor]) -> None:
    env = Gymnasium(id="Corridor-v0", actions=("left", "right"))
    played(env, env.tasks("train")[0], "left")
    there = pickle.loads(pickle.dumps(env))
    assert there == env and not there._open and len(env._open) == 1


def test_a_game_that_is_not_there_is_a_sentence(gym: list[Corridor]) -> None:
    with pytest.raises(UserError, match="environment Chess-v0: making it: KeyError"):
        Gymnasium(id="Chess-v0").tasks("train")


def test_frozen_lake_itself() -> None:
    pytest.importorskip("gymnasium")
    actions = ("left", "down", "right", "up")
    env = Gymnasium(id="FrozenLake-v1", actions=actions, options={"is_slippery": False})
    one = played(env, env.tasks("train")[0], *("down", "down", "right", "right", "down", "right"))
    assert one.state.done and one.rewards == (0, 0, 0, 0, 0, 1) and "SFFF" in one.state.messages[0].content
    assert np.all(env.judge([one]) == 0) and isinstance(one.state.messages[0], Message)
