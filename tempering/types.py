"""The vocabulary: every central type on one page.

A post-training run is data that reaches a model, something wanted of it, weights that may move, and a way of moving. Each of these is a value:

- a `Record` is one piece of feedback (a conversation, a pair, a ranking, a text); a `Stream` turns records into `Parts`, named `Batch`es;
- an `Objective` names the `Signals` it needs of each part and returns *unreduced* losses; `reduce` divides them, once, by a global count;
- a `Scope` attaches to a model and gives a `Handle`: what trains, the model with the change switched off (the reference), the plain weights;
- a `Role` is a model in the run with its scope and its optimizer: "policy" by default, also "reference", "critic", "teacher";
- a `Decode` turns logits into logits while sampling; a `Reward` scores answers; a `Probe` turns a `Policy` into item-level `Scores`, and the ledger
  compares those.

`fit` (fit.py) is the only training loop and knows no method. Nothing here imports torch, so that the command line and recipe signatures stay light.

Shape suffixes: S segments (sequences), T tokens of all segments laid end to end (no padding), V vocabulary, R rows and L columns of one forward
pass, N items. Position t of a `_T` tensor speaks of token t given the tokens before it in its segment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

# ----------------------------------------------------------------------------------------------------------------- what people have: records


@dataclass(frozen=True)
class Message:
    """One turn. `role` is system, user, assistant, tool, or "text" for plain text that no chat template touches."""

    role: str
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    name: str | None = None


@dataclass(frozen=True)
class Response:
    """One continuation of a record's prompt: usually one assistant turn, or the rest of a conversation from the first assistant turn on."""

    messages: tuple[Message, ...]
    score: float | None = None
    """An overall rating, higher is better; any scale."""
    label: bool | None = None
    """Desirable or not, for unpaired feedback."""
    aspects: Mapping[str, float] = field(default_factory=dict)
    """Ratings by aspect, for example {"helpfulness": 4.0}."""
    weight: float = 1.0


@dataclass(frozen=True)
class Record:
    """One feedback record for everything. SFT rows, pairs, rankings, unpaired labels and plain texts are views of it.

    `better` holds pairs (i, j): response i is preferred to response j (a partial order). A chosen/rejected pair is two responses with ((0, 1),).
    `source` says where it came from ("train.jsonl:12", one-based line), so that every message can name it.
    """

    prompt: tuple[Message, ...]
    responses: tuple[Response, ...]
    better: tuple[tuple[int, int], ...] = ()
    id: str = ""
    source: str = ""
    tags: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()


# --------------------------------------------------------------------------------------------------------------- what reaches a model: batches


@dataclass(frozen=True)
class Segment:
    """One tokenised sequence. `weight` is the loss weight per token (0 = context, never scored); the first token's weight is always 0.

    `extras` hold numbers per segment (float) or per token (array of the same length) by name, for example {"reference.logp": array, "label": 1.0}.
    """

    ids: np.ndarray
    """int32 [T]"""
    weight: np.ndarray
    """float32 [T]"""
    extras: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


Row = Mapping[str, Sequence[Segment]]
"""One group of aligned segments by part, for example {"chosen": (a,), "rejected": (b,)}: rows are what is shuffled, counted and never split."""


@dataclass(frozen=True)
class Batch:
    """Segments laid end to end. How they are laid out for a forward pass (padded, packed) is the engine's business; methods cannot tell.

    `group_S` says which row (prompt) a segment belongs to: aligned parts are split into micro-batches by it, together.
    `extras` maps names to tensors whose first dimension is T (per token) or S (per segment).
    """

    ids_T: Tensor
    segment_T: Tensor
    """Index of the token's segment, 0..S-1, ascending."""
    weight_T: Tensor
    """float32; 0 = context."""
    group_S: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def num_segments(self) -> int:
        return self.group_S.shape[0]

    @property
    def num_tokens(self) -> int:
        return self.ids_T.shape[0]


Parts = Mapping[str, Batch]
Signals = Mapping[str, Mapping[str, "Tensor"]]
"""part -> signal -> tensor. "logp", "entropy", "logsumexp", "mean_logp", "logsumexp2", "max_logp" [T]; "guess" [T] (a token's id); "logits" [T, V];
"hidden", "hidden.N" [T, H] (after token t), "state" [T, H] (what the output layer reads for it); "value" [T], "values" [T, K] of a value head (before
token t), "reward" [T], "rewards" [T, K] (after it); "mixed.0.2.logp" (mixed.py); "reference.logp" of another role; columns ("label" [S]) likewise."""

# ------------------------------------------------------------------------------------------------------------------ what is wanted: objectives

Norm = Literal["tokens", "segments", "segment_mean", "groups"] | float
"""What the sum of unreduced losses is divided by, counted over the whole optimizer step: token weights, segments, tokens of each segment and then
segments, groups (rows), or a constant. The divisor is part of the method: GRPO, Dr.GRPO and DAPO differ only here."""

Coefficient = float | Callable[[int], float]
"""A weight of an objective: a number, or a function of the step (0-based)."""


class Log(Protocol):
    """`log(margin=margin_S)` records the mean over all elements of the step, over all micro-batches."""

    def __call__(self, **values: Tensor) -> None: ...


@dataclass(frozen=True)
class Context:
    """What a loss may know beyond its inputs: the step, the `stats` of the whole step, where to log, and what the objective keeps between steps."""

    step: int
    stats: Mapping[str, Tensor]
    log: Log
    state: Mapping[str, Tensor] = field(default_factory=dict)
    """This step's state of the objective (`Objective.advance`)."""
    mine: Tensor | slice = field(default_factory=lambda: slice(None))
    """Where this micro-batch's segments stand in gathered stats: `ctx.stats["ratio"][ctx.mine]` are its own, in the order of its part."""

    def joined(self, name: str, own: Tensor) -> Tensor:
        """Gathered stats [S of the step, ...] with this micro-batch's own entries [S, ...] put back, so that they carry gradient."""
        whole = self.stats[name].clone()
        whole[self.mine] = own.to(whole.dtype)
        return whole


class Objective:
    """A loss on named parts of a batch. Subclasses are frozen dataclasses whose defaults are the paper's.

    `needs`    part -> signals; the engine computes the union once per part and role, and skips the reference pass when nobody asks.
    `part`     whose tokens, segments or groups the divisor counts.
    `per`      what one unreduced loss belongs to: a token or a segment.
    `norm`     the divisor (see `Norm`).
    `couples`  "none": losses of different groups do not touch. Else `stats` are there before any loss, without gradient: "sums" over the step, or
               with "gather" a value for each segment of `part` ([S] or [S, ...]), of the whole step in the order of the stream (`ctx.mine`).
    `by_token` a loss at a token depends on what is known at that token alone: its "logits" come some tokens at a time (late.py).

    State between steps: `initial`, `advance`, `ctx.state`; checkpoints hold it. `c * a + b` builds sums; every term keeps its own divisor.
    """

    norm: Norm = "tokens"
    part: str = "train"
    per: Literal["token", "segment"] = "token"
    couples: Literal["none", "sums", "gather"] = "none"
    by_token: bool = False

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        raise NotImplementedError

    def stats(self, parts: Parts, signals: Signals) -> Mapping[str, Tensor]:
        """What couples the whole step (see `couples`): sums of any shape, or values per segment; computed without gradient."""
        return {}

    def initial(self) -> Mapping[str, Tensor]:
        """The state before the first step: float64 numbers or vectors by name."""
        return {}

    def advance(self, state: Mapping[str, Tensor], stats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """This step's state from the last one's and this step's stats, of the same names and shapes; once a step, first, not for held-out rows."""
        return state

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        """Unreduced losses of the part `self.part`: [T] (token weights not yet applied) or [S], as `per` says; not yet divided."""
        raise NotImplementedError

    def terms(self) -> tuple[tuple[Coefficient, Objective], ...]:
        return ((1.0, self),)

    def __add__(self, other: Objective) -> Objective:
        return Sum(self.terms() + other.terms())

    def __mul__(self, coefficient: Coefficient) -> Objective:
        return Sum(tuple((_times(coefficient, c), term) for c, term in self.terms()))

    __rmul__ = __mul__


def _times(a: Coefficient, b: Coefficient) -> Coefficient:
    if callable(a) or callable(b):
        return lambda step: (a(step) if callable(a) else a) * (b(step) if callable(b) else b)
    return a * b


@dataclass(frozen=True)
class Sum(Objective):
    """A weighted sum of objectives; built by `+` and `*`."""

    parts_: tuple[tuple[Coefficient, Objective], ...]

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        every = [term.needs for _, term in self.parts_]
        return {part: frozenset().union(*(needs.get(part, ()) for needs in every)) for part in {name: 0 for needs in every for name in needs}}

    def terms(self) -> tuple[tuple[Coefficient, Objective], ...]:
        return self.parts_


# ------------------------------------------------------------------------------------------------------------------- where it may move: scopes


class Handle(Protocol):
    """A scope attached to a model; it may have `views` (role -> the policy in another state) and `finish()`, called after training."""

    model: torch.nn.Module
    """What to call for a forward pass with the change on."""
    params: Mapping[str, torch.nn.Parameter]
    """The trainable parameters by name, sorted."""

    def off(self) -> AbstractContextManager[torch.nn.Module]:
        """The model as it was before training: the reference. Full scopes keep a frozen copy, made by `keep_reference()`."""
        ...

    def keep_reference(self) -> None:
        """Called once before training if some signal asks for the reference of this role."""

    def bake(self) -> torch.nn.Module | None:
        """Plain weights with the change folded in, as a model without this scope; None where that is impossible."""
        ...


class Scope(Protocol):
    """Which parameters exist and train: a reparameterisation of the weights."""

    def attach(self, model: torch.nn.Module) -> Handle: ...


@dataclass
class Role:
    """A model in the run. `scope=None` means frozen (then optimizer is unused); `optimizer` an `optim.Optimizer` value, None the run's default."""

    model: torch.nn.Module
    scope: Scope | None = None
    optimizer: Any = None


# ----------------------------------------------------------------------------------------------------------------- data that reaches it: streams


@dataclass
class Run:
    """What a stream may see of a run: the live policy, the step, the seed, and where to log. On-policy data is a stream like any other."""

    roles: Mapping[str, Any]
    """name -> live role (`fit.Live`): `.model`, `.handle`. Of several processes `pieces` (`shard.Sharded`) computes with them, makes them whole."""
    step: int
    seed: int
    log: Log = lambda **values: None
    pieces: Any = None


class Stream(Protocol):
    """Yields the parts of one optimizer step at a time, and can be put back where it was."""

    def next(self, run: Run) -> Parts:
        """The next step's parts: all groups of one optimizer step. A stream has no end; `fit` knows how many steps it takes."""
        ...

    def state(self) -> dict[str, Any]:
        """JSON-able position."""
        ...

    def load(self, state: Mapping[str, Any]) -> None: ...


# ---------------------------------------------------------------------------------------------------------------------- how it decodes: sampling


class Decode(Protocol):
    """Logits to logits while sampling, chained. `roles` names the models whose next-token logits it wants beside the policy's."""

    roles: tuple[str, ...]

    def __call__(self, tokens_RL: Tensor, logits: Mapping[str, Tensor]) -> Tensor:
        """tokens so far [R, L] (-1 is padding on the left) and role -> logits [R, V]; returns logits [R, V]."""
        ...


@dataclass(frozen=True)
class Episode:
    """One sampled continuation: the very tokens, their log-probs under the behaviour policy, and the text."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    logps: tuple[float, ...]
    """Log-probability of each sampled token after processors and temperature, natural log."""
    text: str
    finished: bool
    """True if a stop token or stop string ended it, False if the token budget did."""


@dataclass
class Policy:
    """Weights + tokenizer + handles + decode chain: what measure, chat, compare and save accept."""

    model: torch.nn.Module
    tokenizer: Any
    name: str = ""
    handle: Handle | None = None
    decode: tuple[Decode, ...] = ()
    roles: Mapping[str, torch.nn.Module] = field(default_factory=dict)
    """Other models that the decode chain asks for."""
    source: str = ""
    """Where it was loaded from: what a user would type again."""


# ----------------------------------------------------------------------------------------- what is rewarded and measured: rewards, probes, scores

Prompt = str | tuple[Message, ...]
Reward = Callable[[Sequence[Prompt], Sequence[str]], "np.ndarray"]
"""Prompts and an answer to each -> float64 [N], higher is better. Values under methods/rewards; any function will do, an ensemble of them is one."""


@dataclass(frozen=True)
class ItemScore:
    """One probe item's outcome. `score` is 0/1 for binary probes, any number for continuous ones."""

    id: str
    score: float
    prompt: str = ""
    output: str = ""
    expected: str = ""
    extra: Mapping[str, float] = field(default_factory=dict)
    """Numbers the summary is made of: {"confidence": 0.7}, {"nll": 12.3, "tokens": 9}."""


@dataclass(frozen=True)
class ProbeScores:
    """A probe's outcome on one model, item by item, in a fixed order of ids."""

    probe: str
    """Its name, for example "arithmetic"."""
    metric: str
    """What `score` is, for example "accuracy", "nll per token"."""
    kind: Literal["binary", "continuous"]
    higher_is_better: bool | None
    """None: neither direction is better (output length)."""
    items: tuple[ItemScore, ...]
    side: Literal["target", "keep"] = "keep"
    summary: Mapping[str, float] = field(default_factory=dict)
    """Aggregates that are not item means: ece, brier, auroc, perplexity, distinct2."""
    note: str = ""


@dataclass(frozen=True)
class Scores:
    """All probes on one model."""

    model: str
    probes: tuple[ProbeScores, ...]
    seconds: float = 0.0
    peak_memory_gib: float = 0.0


@runtime_checkable
class Probe(Protocol):
    """Measures one thing about a policy. Frozen values under methods/probes."""

    @property
    def name(self) -> str:
        """What the ledger calls it."""
        ...

    def __call__(self, policy: Policy) -> ProbeScores: ...
