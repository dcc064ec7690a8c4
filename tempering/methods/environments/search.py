"""Questions with passages to search in: the policy may look things up before it answers, and is paid for the answer by a reward that sees the record.

The setting of R1-Searcher (Song et al. 2025, arXiv 2503.05592) and Search-R1 (Jin et al. 2025, arXiv 2503.09516), with an index of words instead of
an encoder: BM25 (Robertson and Zaragoza 2009) as the library bm25s computes it. What the index finds stands in the conversation with weight 0: it is
read and never learned. `searching` is what the first search that is in order earns by itself, for a first stage in which searching is what is to be
learned.

Without `data` and `passages` the questions are about people whom nobody has heard of (`worlds/people.py`, another slice than builtin:tiny knows),
and the passages are their biographies: what is asked can be found and cannot be known.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from typing import Any, Literal

from pydantic import Field, model_validator

from tempering.errors import UserError
from tempering.methods.environments.records import Records
from tempering.methods.rewards import AnyReward
from tempering.methods.rewards.exact_answer import ExactAnswer
from tempering.rollouts.tools import Tool, called
from tempering.rollouts.types import State
from tempering.types import Record

HOW = (
    'To look something up, write <tool_call>{"name": "search", "arguments": {"query": "some words"}}</tool_call> and nothing else. '
    "In the end, write the answer and nothing else."
)
STRANGERS = 1000
"""Number of the first person of the built-in questions."""
NOTHING = "Nothing was found."


class Search(Records):
    """Questions, and a search over passages."""

    kind: Literal["search"] = "search"  # type: ignore[assignment]
    data: str = ""
    """Questions with their answers; by default about people."""
    passages: str = ""
    """Texts to search in: a file, a folder, a hub id of plain texts; by default the biographies of these people."""
    people: int = Field(default=200, ge=1, le=10_000)
    """How many people there are in the built-in questions."""
    top: int = Field(default=2, ge=1)
    """Most passages that a search gives."""
    searches: int = Field(default=2, ge=1)
    """Most turns that search; the next one is the answer, whatever it is."""
    searching: float = Field(default=0.0, ge=0)
    """What the first search that is in order earns."""
    system: str = HOW
    """How to search, said before each question; templates that show tools say it too."""
    reward: AnyReward = ExactAnswer(rule="text")

    @model_validator(mode="after")
    def _both(self) -> Search:
        if bool(self.data) != bool(self.passages):
            raise ValueError("give data and passages, or neither")
        return self

    @property
    def name(self) -> str:
        return f"search, {super().name}" if self.data else f"search-people-{self.people}"

    @property
    def binary(self) -> bool:
        """Unless searching earns something, or the reward is another."""
        return not self.searching and self.reward == ExactAnswer(rule="text")

    @cached_property
    def _divided(self) -> tuple[list[Record], list[Record]]:
        return super()._divided if self.data else (list(self._world.records("train")), list(self._world.records("test")))

    @property
    def _world(self) -> Any:
        from tempering.worlds.people import People

        return People(self.people, start=STRANGERS)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The passages.

        Raises:
            UserError: they cannot be read, or there is no text.
        """
        if not self.passages:
            return tuple(self._world.texts())
        from tempering.feed import source

        found = tuple(r.responses[0].messages[0].content for r in source(self.passages, "auto", None, lambda _: None) if not r.prompt and r.responses)
        if not found:
            raise UserError(f'passages {self.passages}: there is no plain text in them; give rows with the field "text"')
        return found

    @cached_property
    def _index(self) -> tuple[Any, Any]:
        try:
            bm25s = import_module("bm25s")
        except ImportError:
            raise UserError("--env search needs bm25s: pip install 'tempering[search]'") from None
        index = bm25s.BM25()
        index.index(bm25s.tokenize(list(self.texts), stopwords=None, show_progress=False), show_progress=False)
        return bm25s, index

    def find(self, query: str) -> str:
        """The passages that have most to do with a query, best first, each in a line of its own."""
        bm25s, index = self._index
        words = bm25s.tokenize([query], stopwords=None, show_progress=False)
        best, score = index.retrieve(words, k=min(self.top, len(self.texts)), show_progress=False)
        return "\n".join(self.texts[i] for i, x in zip(best[0].tolist(), score[0].tolist(), strict=True) if x > 0) or NOTHING

    @property
    def tools(self) -> tuple[Tool, ...]:
        """What may be called."""
        return (Tool("search", "Find passages.", {"query": "words to look for"}, lambda query: self.find(query)),)

    async def reset(self, task: Record) -> State:
        """The question, with what can be called."""
        schemas: tuple[Mapping[str, Any], ...] = tuple(tool.schema for tool in self.tools)
        return State(task.prompt, memory={"left": self.searches, "searched": False}, tools=schemas)

    async def step(self, state: State, answer: str) -> State:
        """What was found; or the end, where nothing is called or nothing may be any more."""
        replies, fine = called(answer, self.tools) if state.memory["left"] else ([], 0)
        if not replies:
            return state.said(answer, done=True)
        first = bool(fine) and not state.memory["searched"]
        memory = {"left": state.memory["left"] - 1, "searched": state.memory["searched"] or first}
        return state.said(answer, *replies, memory=memory, reward=self.searching if first else 0.0)
