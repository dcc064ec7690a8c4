"""Models and parts -> the named tensors that objectives ask for, each computed once.

The engine takes the union of what all objectives need and runs each role once for all parts together, so that what chosen and rejected, or the
samples of a prompt, have in common goes through a model once (forest.py). It scores only the tokens that carry weight: hidden states of the other
positions never meet the output head, and the [tokens, vocabulary] logits exist for one chunk at a time (fused.py). Signals are exactly 0 outside the
mask. Log-probs are float32 whatever the matmuls are.

A signal is taken, in this order, from a column of the batch (cached "reference.logp"), from a role of that name, or, for "reference", from the
policy with its scope switched off, or from a view of the policy that its handle offers by that name (scopes/stacked.py).

"mixed.0.2.logp" is a signal of a second pass, on inputs mixed with what the model would have written itself (mixed.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tempering import attention
from tempering.config import Training
from tempering.errors import UserError
from tempering.fused import likeliest, scores
from tempering.layout import LayoutKind, arrange, concatenate
from tempering.mixed import MIXED, Mix, arrange_mixed, share_of
from tempering.models.heads import attends_by_segments, body_and_head, packs
from tempering.models.recompute import recomputing
from tempering.models.value import ValueModel
from tempering.types import Batch, Handle, Parts, Role, Signals
from tempering.vocabulary import EXTRA, wide_scores

TOP = ("top_logp.", "top_id.")
"""Before a number K: the K largest log-probs at a token and whose they are [T, K], the likeliest first; without gradient."""
STATE = "state"
"""What the output layer reads where it predicts a token: the signal that stands in for "logits" which are taken late (late.py)."""
FROM_HEAD = frozenset({"logp", "entropy", "logsumexp", "logits", "guess", STATE}) | EXTRA
FROM_VALUES = frozenset({"value", "values", "reward", "rewards"})
"""Of a `ValueModel`; "value" and "values" of the state before a token, "reward" and "rewards" of the state after it."""
KNOWN = FROM_HEAD | FROM_VALUES | {"hidden"}
"""And "hidden.N", the states after layer N (0: the embeddings); "hidden" is the last one, after the norm. Both of the state after a token. "router.N"
are the logits by which the N-th router sends a token to its experts, [T, experts]."""
NUMBERED = ("hidden.", "router.")


@dataclass(frozen=True)
class Engine:
    """How forward passes are run. Nothing here changes a result beyond rounding.

    `layout` is what a model can do at best: "segments" falls back to "packed" and that to "padded", found out by trying once per model. `share` lets
    common prefixes go through a model once. `dtype` bfloat16 runs matmuls under autocast. `run` does something with a model
    while its weights are there, which matters where they lie in pieces on several processes; there `late` is off (late.py). Of passes of more than
    `recompute_over` tokens some blocks are computed again (models/recompute.py).
    """

    layout: LayoutKind = "segments"
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    share: bool = True
    run: Callable[[nn.Module, Callable[[], Any]], Any] = lambda model, action: action()
    late: bool = True
    recompute_over: int = 0

    def autocast(self) -> AbstractContextManager[Any]:
        """Where matmuls run in `dtype`."""
        return torch.autocast(self.device.type, self.dtype) if self.dtype != torch.float32 else nullcontext()

    def layout_for(self, model: nn.Module) -> LayoutKind:
        """The layout that this model's forward pass takes."""
        if self.layout == "segments" and attends_by_segments(model):
            return "segments"
        return "packed" if self.layout != "padded" and packs(model) else "padded"


def engine_for(training: Training) -> Engine:
    """The engine that this machine and the settings give: a GPU if there is one; bfloat16 matmuls where "auto" finds them fast."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fast = training.precision == "bf16" or (training.precision == "auto" and fast_bf16(device))
    return Engine(training.layout, torch.bfloat16 if fast else torch.float32, device, recompute_over=training.recompute_over)


def fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 matmuls beat float32 ones here: a GPU that supports them, or a CPU with AVX-512 BF16 or AMX tiles."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.backends.cpu.get_cpu_capability()
    return capabilities.startswith("AVX512") and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass
class Live:
    """A role inside a run: its model with the scope attached (handle None = frozen)."""

    model: nn.Module
    handle: Handle | None = None

    @staticmethod
    def attach(role: Role) -> Live:
        if role.scope is None:
            return Live(role.model.requires_grad_(False).eval())
        handle = role.scope.attach(role.model)
        return Live(handle.model, handle)

    @contextmanager
    def replacing(self) -> Iterator[None]:
        """Around what puts other tensors in the place of the model's parameters: the handle's follow, by their names in the model."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        yield
        now = dict(self.model.named_parameters())
        if self.handle is not None:
            self.handle.params = {name: now.get(names.get(id(p), ""), p) for name, p in self.handle.params.items()}


def owner(signal: str) -> tuple[str, str]:
    """ "reference.logp" -> ("reference", "logp"); "logp" -> ("policy", "logp"); "critic.hidden.3" -> ("critic", "hidden.3"); "mixed.0.2.logp" ->
    ("policy", "mixed.0.2.logp")."""
    before, mark, name = signal.rpartition(MIXED)
    if mark:
        return before.rstrip(".") or "policy", mark + name
    role, _, name = signal.rpartition(".")
    if name.isdigit():
        role, _, kind = role.rpartition(".")
        name = f"{kind}.{name}"
    return role or "policy", name


def is_signal(name: str) -> bool:
    """Whether a model gives what goes by this name; anything else is a column of the batch."""
    return _known(owner(name)[1])


def _known(signal: str) -> bool:
    share, name = share_of(signal)
    return share <= 1 and (name in KNOWN or (name.startswith((*NUMBERED, *TOP)) and name.rpartition(".")[2].isdigit()))


def top_of(signal: str) -> int:
    """ "teacher.top_id.5" -> 5; 0 for a signal of another kind."""
    name = owner(signal)[1]
    return int(name.rpartition(".")[2]) if name.startswith(TOP) else 0


def compute(roles: Mapping[str, Live], parts: Parts, needs: Mapping[str, frozenset[str]], engine: Engine) -> Signals:
    """Run every role once per part and return the signals asked for.

    Args:
        roles: live models by name.
        parts: flat batches on the engine's device.
        needs: part -> signal names.

    Raises:
        ValueError: a part, a role or a signal that does not exist.
    """
    result: dict[str, dict[str, Tensor]] = {}
    asked: dict[str, dict[str, frozenset[str]]] = {}
    for part, names in sorted(needs.items()):
        if part not in parts:
            raise ValueError(f"the objective needs part {part!r}; the stream yields {sorted(parts)}")
        result[part] = {name: parts[part].extras[name] for name in names if name in parts[part].extras}
        for name in sorted(names - result[part].keys()):
            role, signal = owner(name)
            if not _known(signal):
                raise ValueError(
                    f"unknown signal {name!r}; signals are {', '.join(sorted(KNOWN))}, hidden.N, router.N, top_logp.K, top_id.K, "
                    "mixed.SHARE.NAME; of another role with its name and a dot"
                )
            wanted = asked.setdefault(role, {})
            wanted[part] = wanted.get(part, frozenset()) | {signal}
    for role, wanted in sorted(asked.items()):
        prefix = "" if role == "policy" else f"{role}."
        with entered(roles, role) as model:
            found = forward(model, parts, wanted, engine)
        for part, values in found.items():
            result[part] |= {prefix + signal: value for signal, value in values.items()}
    return result


@contextmanager
def entered(roles: Mapping[str, Live], name: str) -> Iterator[nn.Module]:
    """The model that a role's signals come from, in the state that they are of; without gradient where it is frozen.

    Raises:
        ValueError: there is no such role.
    """
    policy = roles["policy"]
    with ExitStack() as stack:
        if name in roles:
            live = roles[name]
            stack.enter_context(nullcontext() if live.handle is not None else torch.no_grad())
            yield live.model
        elif view := getattr(policy.handle, "views", {}).get(name):
            # The policy's own weights in another state, with gradient.
            yield stack.enter_context(view())
        elif name != "reference" or policy.handle is None:
            raise ValueError(f"no role {name!r} in this run; roles are {sorted(roles)}")
        else:
            stack.enter_context(torch.no_grad())
            model = stack.enter_context(policy.handle.off())
            was_training = model.training
            model.eval()
            try:
                yield model
            finally:
                model.train(was_training)


def forward(model: nn.Module, parts: Parts, wanted: Mapping[str, frozenset[str]], engine: Engine) -> dict[str, dict[str, Tensor]]:
    """One model on the parts of a micro-batch: part -> signal -> a value per token, 0 outside the mask; "logits" are [T, V].

    In the layout "segments" all parts are one forward pass; in the others each part is one. Signals of mixed inputs take one pass more to guess, and
    one for each share.
    """
    found: dict[str, dict[str, Tensor]] = {part: {} for part in wanted}
    passes: dict[float, dict[str, dict[str, str]]] = {}
    for part, signals in wanted.items():
        for signal in signals:
            share, name = share_of(signal)
            passes.setdefault(share, {}).setdefault(part, {})[name] = signal
    guess: dict[str, Tensor] = {}
    if passes.keys() - {0.0}:
        modes = [module for module in model.modules() if module.training]
        model.eval()
        try:
            with torch.no_grad():
                asked = {part: frozenset({"guess"}) for share in passes for part in passes[share] if share}
                guess = {part: values["guess"] for part, values in _forward(model, parts, asked, engine).items()}
        finally:
            for module in modes:
                module.training = True
    for share, names in sorted(passes.items()):
        asked = {part: frozenset(signals) for part, signals in names.items()}
        for part, values in _forward(model, parts, asked, engine, (share, guess) if share else None).items():
            found[part] |= {names[part][name]: value for name, value in values.items()}
    return found


def _forward(
    model: nn.Module,
    parts: Parts,
    wanted: Mapping[str, frozenset[str]],
    engine: Engine,
    mixed: tuple[float, Mapping[str, Tensor]] | None = None,
) -> dict[str, dict[str, Tensor]]:
    kind = engine.layout_for(model)
    empty = {part for part in wanted if not bool((parts[part].weight_T != 0).any())}
    found: dict[str, dict[str, Tensor]] = {}
    for together in [list(wanted)] if kind == "segments" else [[part] for part in wanted]:
        batches = [_placeholder(parts[part]) if part in empty else parts[part] for part in together]
        signals = [wanted[part] for part in together]
        mix = None
        if mixed is not None:
            share, guess = mixed
            mix = Mix(share, torch.cat([b.ids_T if part in empty else guess[part] for part, b in zip(together, batches, strict=True)]))
        values = engine.run(model, lambda batches=batches, signals=signals, mix=mix: _pass(model, batches, signals, kind, engine, mix))
        found |= dict(zip(together, values, strict=True))
    # A model with nothing to score still takes part (with a zero): its parameters have a gradient, and other processes need not wait for this one.
    return {part: _unscored(parts[part], values) if part in empty else values for part, values in found.items()}


def _placeholder(batch: Batch) -> Batch:
    """One segment of two tokens, the second scored."""
    zero_T = torch.zeros(2, dtype=torch.long, device=batch.ids_T.device)
    return Batch(zero_T, zero_T, torch.tensor([0.0, 1.0], device=zero_T.device), zero_T[:1])


def _unscored(batch: Batch, placeholder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    def zeros(value: Tensor) -> Tensor:
        return torch.zeros((batch.num_tokens, *value.shape[1:]), device=batch.ids_T.device) + 0.0 * value.sum()

    return {signal: zeros(value) for signal, value in placeholder.items()}


def _pass(
    model: nn.Module, batches: list[Batch], wanted: list[frozenset[str]], kind: LayoutKind, engine: Engine, mix: Mix | None = None
) -> list[dict[str, Tensor]]:
    """One forward pass over several flat batches; the head runs for each apart, because they may want different signals."""
    batch = batches[0] if len(batches) == 1 else concatenate(batches)
    layout = (arrange if mix is None else arrange_mixed)(batch, kind, share=engine.share and not _drops(model))
    inputs: dict[str, Any] = {"input_ids": layout.ids_RL, "position_ids": layout.position_RL, "use_cache": False}
    if layout.plan is not None:
        inputs[attention.KEYWORD] = layout.plan
    asked = frozenset().union(*wanted)
    _fits(model, asked)
    split = None if isinstance(model, ValueModel) else body_and_head(model)
    found = []
    planned = attention.planned() if layout.plan is not None else nullcontext()
    with engine.autocast(), attention.segmented(model), planned, recomputing(model, layout.ids_RL.numel(), engine.recompute_over):
        if mix is not None:
            del inputs["input_ids"]
            inputs["inputs_embeds"] = mix(model, batch, layout)
        layers: Sequence[Tensor] = ()
        routers: Sequence[Tensor] = ()
        # The states [grid slots, D] of the whole row, or its logits where a model cannot be split.
        if any(signal.startswith(NUMBERED) for signal in asked):
            inner: Any = model.backbone if isinstance(model, ValueModel) else split.inner if split is not None else None
            if inner is None:
                raise ValueError(f"a {type(model).__name__} cannot be split into body and head, so it has no hidden states to ask for")
            if any(signal.startswith("router.") for signal in asked):
                inputs["output_router_logits"] = True
            out = inner(**inputs, output_hidden_states=True)
            states_ND, layers, routers = out.last_hidden_state.flatten(0, 1), out.hidden_states, getattr(out, "router_logits", None) or ()
        elif isinstance(model, ValueModel):
            states_ND = model(**inputs).flatten(0, 1)
        elif split is not None:
            states_ND = split.body(**inputs).flatten(0, 1)
        elif "hidden" in asked:
            raise ValueError(f"a {type(model).__name__} cannot be split into body and head, so it has no hidden states to ask for")
        else:
            states_ND = model(**inputs).logits.flatten(0, 1)
        for slot_T, part, signals in zip(layout.slot_T.split([b.num_tokens for b in batches]), batches, wanted, strict=True):
            scored_N = (part.weight_T != 0).nonzero().squeeze(-1)
            values: dict[str, Tensor] = {}
            tops = {top_of(signal) for signal in signals} - {0}
            if tops or signals & (FROM_HEAD | {"value", "values"}):
                # Position t is predicted from the state at t - 1, which belongs to the same segment because a segment's first token has no weight.
                hidden_ND = states_ND.index_select(0, slot_T[scored_N - 1])
                values[STATE] = hidden_ND
                if isinstance(model, ValueModel):
                    values |= _numbers(model, hidden_ND, "value")
                else:
                    head, plain = (split.head, split.plain) if split is not None else (nn.Identity(), None)
                    take = wide_scores if signals & EXTRA else scores
                    for k in tops:
                        values |= dict(zip((f"{name}{k}" for name in TOP), likeliest(head, hidden_ND, k), strict=True))
                    if signals & (FROM_HEAD - {"guess", STATE}):
                        values |= take(head, plain, hidden_ND, part.ids_T[scored_N], signals)
                    if "guess" in signals:
                        values["guess"] = likeliest(head, hidden_ND)[1][:, 0]
            if isinstance(model, ValueModel) and signals & {"reward", "rewards"}:
                values |= _numbers(model, states_ND.index_select(0, slot_T[scored_N]), "reward")
            for signal in signals:
                if signal.startswith("hidden"):
                    values[signal] = _layer(states_ND, layers, signal).index_select(0, slot_T[scored_N]).float()
                elif signal.startswith("router."):
                    values[signal] = _router(routers, signal).index_select(0, slot_T[scored_N]).float()
            found.append({signal: _scatter(values[signal], scored_N, part.num_tokens) for signal in signals})
    return found


def _fits(model: nn.Module, asked: frozenset[str]) -> None:
    """Raise ValueError where a model has no head for a signal."""
    valued = isinstance(model, ValueModel)
    if wrong := sorted(asked & (FROM_HEAD if valued else FROM_VALUES)):
        raise ValueError(f"signal {wrong[0]!r}: the model has {'a value head' if valued else 'a vocabulary, no value head'}")
    if valued and asked & {"value", "reward"} and model.value_head.weight.shape[0] != 1:
        raise ValueError(f"signal 'value' or 'reward' of a model with {model.value_head.weight.shape[0]} outputs; ask for 'values' or 'rewards'")


def _numbers(model: ValueModel, states_ND: Tensor, name: str) -> dict[str, Tensor]:
    values_NK = model.value_head(states_ND).float()
    return {name: values_NK[:, 0], f"{name}s": values_NK}


def _layer(states_ND: Tensor, layers: Sequence[Tensor], signal: str) -> Tensor:
    if signal == "hidden":
        return states_ND
    number = int(signal.removeprefix("hidden."))
    if number >= len(layers):
        raise UserError(f"signal {signal!r}: the model has the states 0 (embeddings) to {len(layers) - 1}; choose a layer among them")
    return layers[number].flatten(0, 1)


def _router(routers: Sequence[Tensor], signal: str) -> Tensor:
    number = int(signal.removeprefix("router."))
    if number >= len(routers):
        have = f"the model has the routers 0 to {len(routers) - 1}" if routers else "the model has no experts, so nothing routes"
        raise UserError(f"signal {signal!r}: {have}; choose one that is there")
    return routers[number].flatten(0, -2)


def _drops(model: nn.Module) -> bool:
    """Whether a forward pass draws dropout: then a shared prefix would draw once what segments of their own draw apart."""
    if not model.training:
        return False
    config: Any = getattr(model, "config", None)
    return bool(getattr(config, "attention_dropout", 0.0)) or any(isinstance(m, nn.Dropout) and m.p > 0 and m.training for m in model.modules())


def _scatter(value_N: Tensor, scored_N: Tensor, num_tokens: int) -> Tensor:
    return torch.zeros((num_tokens, *value_N.shape[1:]), dtype=value_N.dtype, device=value_N.device).index_copy(0, scored_N, value_N)
