"""The calls of one iteration and the machines they may run on; no torch here.

A call is one model's work on the whole batch: "generate" writes `new` tokens behind each prompt, "infer" reads prompts and answers once, "train"
takes `updates` optimizer steps on them. It begins when the calls it is `after` are done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tempering.distributed.arithmetic import Shape
from tempering.errors import UserError

SIZES = {
    "1b": Shape(16, 2048, 8192, 512, 128_256, tied=True),
    "8b": Shape(32, 4096, 14_336, 1024, 128_256, tied=False),
    "70b": Shape(80, 8192, 28_672, 1024, 128_256, tied=False),
}
"""Llama 3's, as in docs/scaling.md."""


@dataclass(frozen=True)
class Call:
    """One model's work on the batch."""

    name: str
    role: str
    """Whose weights."""
    kind: Literal["generate", "infer", "train"]
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cluster:
    """Machines that are alike.

    Raises:
        UserError: a number that is not positive.
    """

    nodes: int = 1
    gpus: int = 8
    """Of one machine."""
    memory: float = 80e9
    """Bytes of one GPU."""
    flops: float = 989.4e12
    """bfloat16, dense, of one GPU: an H100 SXM by its data sheet."""
    read: float = 3.35e12
    """Bytes a second from its memory, by the same sheet."""
    beside: float = 450e9
    """Bytes a second that one GPU sends inside of a machine: NVLink 4, 900 GB/s both ways together."""
    link: float = 50e9
    """The same between machines: one 400 Gbit/s card for each GPU."""
    busy: float = 0.4
    """Share of `flops` that matrix products reach: an assumption, as in docs/scaling.md."""
    latency: float = 1e-5
    """Seconds that a collective takes however little it sends: an assumption."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise UserError(f"cluster: {name} is {value:g}; it must be above 0")

    @property
    def devices(self) -> int:
        """All GPUs."""
        return self.nodes * self.gpus

    def speed(self, size: int, first: int = 0) -> float:
        """Bytes a second between `size` neighbours that begin with GPU `first`."""
        return self.beside if first // self.gpus == (first + size - 1) // self.gpus else self.link


@dataclass(frozen=True)
class Iteration:
    """What is done in one iteration, by which models, on how much.

    Raises:
        UserError: a call of a model without a shape, one that waits for a call that is not there or for itself, or sizes that are not positive.
    """

    calls: tuple[Call, ...]
    shapes: Mapping[str, Shape]
    """Of each role."""
    batch: int = 512
    """Prompts."""
    prompt: int = 1024
    new: int = 1024
    """Tokens of each."""
    updates: int = 8
    """Optimizer steps (mini-batches) that the batch is divided among."""

    def __post_init__(self) -> None:
        for name in ("batch", "prompt", "new", "updates"):
            if getattr(self, name) < 1:
                raise UserError(f"iteration: {name} is {getattr(self, name)}; it must be 1 or more")
        if self.batch % self.updates:
            raise UserError(f"iteration: a batch of {self.batch} cannot be divided among {self.updates} updates; take a divisor of it")
        known = {call.name for call in self.calls}
        for call in self.calls:
            if call.role not in self.shapes:
                raise UserError(f"call {call.name}: there is no model {call.role!r}; there are {', '.join(self.shapes)}")
            if missing := [name for name in call.after if name not in known]:
                raise UserError(f"call {call.name}: it waits for {missing[0]!r}, which is no call")
        if len(known) != len(self.calls):
            raise UserError("iteration: two calls have one name; give each its own")
        self.order()

    def order(self) -> tuple[Call, ...]:
        """The calls, each behind those it waits for."""
        left, done = list(self.calls), list[Call]()
        while left:
            ready = [call for call in left if {c.name for c in done}.issuperset(call.after)]
            if not ready:
                raise UserError(f"iteration: {left[0].name} waits for itself, through {', '.join(left[0].after)}")
            done += ready
            left = [call for call in left if call not in ready]
        return tuple(done)

    def trained(self, role: str) -> bool:
        """Whether a role's weights move."""
        return any(call.role == role and call.kind == "train" for call in self.calls)


def ppo(actor: Shape, critic: Shape, **sizes: int) -> Iteration:
    """PPO with a critic: reference and actor of one shape, reward model and critic of another."""
    calls = (
        Call("generate", "actor", "generate"),
        Call("reference", "reference", "infer", ("generate",)),
        Call("reward", "reward", "infer", ("generate",)),
        Call("value", "critic", "infer", ("generate",)),
        Call("train actor", "actor", "train", ("reference", "reward", "value")),
        Call("train critic", "critic", "train", ("reference", "reward", "value")),
    )
    return Iteration(calls, {"actor": actor, "reference": actor, "reward": critic, "critic": critic}, **sizes)


def grpo(actor: Shape, critic: Shape, **sizes: int) -> Iteration:
    """Without a critic: generate, score by reference and reward model, train."""
    calls: Sequence[Call] = ppo(actor, critic, **sizes).calls
    kept = tuple(Call(c.name, c.role, c.kind, tuple(n for n in c.after if n != "value")) for c in calls if c.role != "critic")
    return Iteration(kept, {"actor": actor, "reference": actor, "reward": critic}, **sizes)
