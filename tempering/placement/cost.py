"""What a plan takes: seconds of each call, weights moved between layouts, memory of each GPU, and when what runs.

A layout has GPUs that stand next to each other and three ways of sharing them: `data` groups take a share of the batch, `tensor` GPUs share each
matrix, `stages` share the layers, and the group's share goes through in `micro` pieces. With b sequences of t tokens in one piece on one group and P
parameters, the piece takes on one stage

    infer      2 P b t / (tensor stages) operations, and two sums of [b t, width] in each layer between those that share matrices
    train      8 P b t / ... (forward 2, backward 4, recomputed 2), six sums; a call's updates also sum gradients and gather weights over the groups
    generate   the prompts like infer; then for each new token the weights and the cache are read once, or 2 P b / ... operations where that is longer

and a call (micro + stages - 1) of these, in generation max(micro, stages) for each token. A sum around a ring of n sends 2 (n - 1) / n of it. The
form is ReaLHF's (arXiv 2406.14088: an estimator from profiled costs of layers, a simulation of the graph, redistribution counted apart); the profile
is replaced by these formulas with the figures of a data sheet. Not counted: tokens sent between calls, kernels' starts, samples of unequal length,
embeddings apart from layers, and what those are kept from who send weights.

Memory: a model that trains lies in bfloat16 with bfloat16 gradients on each of its groups, and 12 bytes a parameter of float32 weights and Adam's
moments divided among them; one that does not, in bfloat16. These stay. A call whose layout is another than where the weights lie holds a copy while
it runs, and its activations: the inputs of all layers for each piece that is on its way (train), one layer's inside (infer), the cache (generate).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tempering.distributed.arithmetic import Shape
from tempering.placement.calls import Call, Cluster, Iteration

HALF = 2
"""Bytes of a bfloat16."""


@dataclass(frozen=True)
class Layout:
    """Which GPUs, and how they share."""

    first: int
    data: int = 1
    tensor: int = 1
    stages: int = 1
    micro: int = 1

    @property
    def size(self) -> int:
        """How many GPUs."""
        return self.data * self.tensor * self.stages

    @property
    def devices(self) -> range:
        """Their numbers."""
        return range(self.first, self.first + self.size)

    @property
    def weights(self) -> tuple[int, int, int, int]:
        """What says where weights lie."""
        return self.first, self.data, self.tensor, self.stages

    def place(self, device: int) -> tuple[int, int, int]:
        """(stage, group, tensor rank) of one of its GPUs: those that share matrices are neighbours, stages are furthest apart."""
        rest, tensor = divmod(device - self.first, self.tensor)
        stage, data = divmod(rest, self.data)
        return stage, data, tensor

    def holds(self, device: int) -> tuple[float, float, float, float]:
        """(begin, end of its layers; begin, end of its part of each matrix), as shares of 1."""
        stage, _, tensor = self.place(device)
        return stage / self.stages, (stage + 1) / self.stages, tensor / self.tensor, (tensor + 1) / self.tensor


Plan = Mapping[str, Layout]
"""Call -> layout."""


@dataclass(frozen=True)
class Event:
    """A call in a schedule."""

    call: str
    begin: float
    moving: float
    """Seconds before it in which weights travel to it."""
    working: float

    @property
    def end(self) -> float:
        """When it is done."""
        return self.begin + self.moving + self.working


@dataclass(frozen=True)
class Estimate:
    """What a plan takes."""

    events: tuple[Event, ...]
    peak: tuple[float, ...]
    """Bytes of each GPU."""
    critical: float
    """Seconds of the longest chain of calls that wait for each other, weights at hand."""

    @property
    def seconds(self) -> float:
        """Of the iteration."""
        return max(event.end for event in self.events)

    @property
    def serial(self) -> float:
        """Seconds if all calls and moves came one after another."""
        return sum(event.moving + event.working for event in self.events)


def fits(call: Call, layout: Layout, iteration: Iteration, cluster: Cluster) -> bool:
    """Whether a call can be shared like this: whole layers, whole heads' widths, and a sequence at least for every piece."""
    shape, pieces = iteration.shapes[call.role], layout.data * layout.micro
    batch = iteration.batch // iteration.updates if call.kind == "train" else iteration.batch
    even = shape.layers % layout.stages == 0 and shape.width % layout.tensor == 0 and shape.key_width % layout.tensor == 0
    return even and batch % pieces == 0 and layout.tensor <= cluster.gpus and layout.devices[-1] < cluster.devices


def working(call: Call, layout: Layout, iteration: Iteration, cluster: Cluster) -> float:
    """Seconds of a call whose weights are there."""
    shape, tensor = iteration.shapes[call.role], layout.tensor
    share = shape.parameters / (tensor * layout.stages)
    layers = shape.layers / layout.stages
    length = iteration.prompt + iteration.new
    beside = cluster.speed(tensor, layout.first)

    def piece(sequences: float, tokens: int, work: int, sums: int) -> float:
        sent = sums * layers * 2 * (tensor - 1) / tensor * sequences * tokens * shape.width * HALF
        waits = sums * layers * cluster.latency * (tensor > 1)
        return work * share * sequences * tokens / (cluster.flops * cluster.busy) + sent / beside + waits

    if call.kind == "train":
        each = iteration.batch / iteration.updates / (layout.data * layout.micro)
        ring = 2 * (layout.data - 1) / layout.data * HALF * share / cluster.speed(layout.size // layout.stages, layout.first)
        return iteration.updates * ((layout.micro + layout.stages - 1) * piece(each, length, 8, 6) + ring)
    each = iteration.batch / (layout.data * layout.micro)
    if call.kind == "infer":
        return (layout.micro + layout.stages - 1) * piece(each, length, 2, 2)
    # The cache grows from the prompt's length to all: its mean is read.
    cache = each * (iteration.prompt + iteration.new / 2) * 2 * layers * shape.key_width / tensor * HALF
    read = (HALF * share + cache) / cluster.read
    computed = 2 * share * each / (cluster.flops * cluster.busy)
    sums = piece(each, 1, 0, 2)
    token = max(read, computed) + sums
    return (layout.micro + layout.stages - 1) * piece(each, iteration.prompt, 2, 2) + iteration.new * max(layout.micro, layout.stages) * token


def moving(shape: Shape, here: Layout, there: Layout, cluster: Cluster) -> float:
    """Seconds until every GPU of a layout has its bfloat16 weights: what it does not hold itself comes from one that does, all at once."""
    if here.weights == there.weights:
        return 0.0
    worst = 0.0
    for device in there.devices:
        a, b, c, d = there.holds(device)
        own = 0.0
        if device in here.devices:
            e, f, g, h = here.holds(device)
            own = max(0.0, min(b, f) - max(a, e)) * max(0.0, min(d, h) - max(c, g))
        missing = HALF * shape.parameters * ((b - a) * (d - c) - own)
        near = {source // cluster.gpus for source in here.devices} == {device // cluster.gpus}
        worst = max(worst, missing / (cluster.beside if near else cluster.link))
    return worst + cluster.latency


def homes(iteration: Iteration, plan: Plan) -> dict[str, Layout]:
    """Where each role's weights lie between calls: where it trains, else where its first call runs."""
    found = dict[str, Layout]()
    for call in iteration.order():
        if call.kind == "train" or (call.role not in found and not iteration.trained(call.role)):
            found[call.role] = plan[call.name]
    return found


def staying(role: str, home: Layout, iteration: Iteration) -> float:
    """Bytes of a role on each of its GPUs, all the time."""
    share = iteration.shapes[role].parameters / (home.tensor * home.stages)
    return share * (2 * HALF + 12 / home.data) if iteration.trained(role) else share * HALF


def passing(call: Call, layout: Layout, home: Layout, iteration: Iteration) -> float:
    """Bytes of a call on each of its GPUs while it runs."""
    shape = iteration.shapes[call.role]
    copy = HALF * shape.parameters / (layout.tensor * layout.stages) if layout.weights != home.weights else 0.0
    length, layers = iteration.prompt + iteration.new, shape.layers / layout.stages
    batch = iteration.batch / iteration.updates if call.kind == "train" else iteration.batch
    tokens = batch / (layout.data * layout.micro) * length
    inside = HALF * tokens * (2 * shape.width + (2 * shape.width + 2 * shape.key_width + 3 * shape.inner) / layout.tensor)
    if call.kind == "infer":
        return copy + inside
    if call.kind == "train":
        # Layer inputs of each piece that is on its way, one layer's inside and its gradient.
        return copy + HALF * tokens * layers * shape.width * min(layout.stages, layout.micro) + 2 * inside
    return copy + batch / layout.data * length * 2 * layers * shape.key_width / layout.tensor * HALF


def estimate(iteration: Iteration, plan: Plan, cluster: Cluster) -> Estimate:
    """Simulate one iteration: a call begins when those it waits for are done and its GPUs are free; calls on the same GPUs take turns."""
    home, free = homes(iteration, plan), [0.0] * cluster.devices
    events, longest = dict[str, Event](), dict[str, float]()
    stays = [0.0] * cluster.devices
    for role, layout in home.items():
        for device in layout.devices:
            stays[device] += staying(role, layout, iteration)
    most = [0.0] * cluster.devices
    for call in iteration.order():
        layout = plan[call.name]
        begin = max([events[name].end for name in call.after] + [free[device] for device in layout.devices])
        time = working(call, layout, iteration, cluster)
        event = Event(call.name, begin, moving(iteration.shapes[call.role], home[call.role], layout, cluster), time)
        events[call.name] = event
        longest[call.name] = time + max((longest[name] for name in call.after), default=0.0)
        used = passing(call, layout, home[call.role], iteration)
        for device in layout.devices:
            free[device], most[device] = event.end, max(most[device], used)
    return Estimate(tuple(events.values()), tuple(a + b for a, b in zip(stays, most, strict=True)), max(longest.values()))
