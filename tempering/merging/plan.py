"""From a configuration to what every tensor of the result is made of, without reading any.

Which tensors belong to a layer is read off their names: the first number in one ("model.layers.3.mlp.up_proj.weight") is its layer. Of what is
outside the layers, embeddings belong to the first slice and everything else to the last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from tempering import index
from tempering.errors import UserError
from tempering.merges import Informed, Merge
from tempering.merging.config import Config, Slice, Source, evaluate
from tempering.merging.read import Meta, Weights

IGNORED = {"int8_mask"}
"""Settings of mergekit that change how it computes and not what."""
_LAYER = re.compile(r"(.*?\.)(\d+)(\..+)")
_EMBEDDING = re.compile(r"(.*\.)?(embed_tokens|wte|embed_in|word_embeddings)\.weight")
_HEAD = re.compile(r"(.*\.)?(lm_head|embed_out)\.weight")


@dataclass(frozen=True)
class Piece:
    """One tensor of the result."""

    name: str
    meta: Meta
    """As it is stored."""
    dtype: torch.dtype
    """What it is computed in."""
    base: tuple[str, str] | None
    """(model, tensor) that stands apart."""
    others: tuple[tuple[str, str], ...]
    method: Merge | Informed | None
    """None: the only one there is, as it is."""

    @property
    def by_token(self) -> bool:
        """Whether it has a row for every token."""
        return bool(_EMBEDDING.fullmatch(self.name) or _HEAD.fullmatch(self.name)) and len(self.meta.shape) == 2


@dataclass(frozen=True)
class Plan:
    """All of a result's tensors, and how many layers it has."""

    pieces: tuple[Piece, ...]
    lead: str
    """The model whose configuration and tokenizer the result has."""
    layers: tuple[tuple[str, int], ...]
    """Of each layer, the model and the layer that it has the shape of."""


def make_plan(config: Config, models: Mapping[str, Weights], say: Callable[[str], None] = print) -> Plan:
    """What goes into every tensor.

    Raises:
        UserError: no method of that name, a setting that it does not take, a base that it needs and nobody names, layers or tensors that are not
            there, shapes that differ.
    """
    return _Planner(config, models, say).plan()


class _Planner:
    def __init__(self, config: Config, models: Mapping[str, Weights], say: Callable[[str], None]) -> None:
        self.config, self.models, self.say = config, models, say
        self.method = index.load(index.find(config.merge_method, "merge"))
        self.known = index.settings(self.method)
        self.slices = self._slices()
        self.lead = config.base_model or self.slices[0].sources[0].model
        self._warn()

    def plan(self) -> Plan:
        pieces, layers = [], []
        first, last = self.slices[0], self.slices[-1]
        outside = [name for name in self.models[self._lead_of(first)].metas if not _LAYER.fullmatch(name)]
        outside += [name for one in last.sources for name in self.models[one.model].metas if _HEAD.fullmatch(name) and name not in outside]
        before = [name for name in outside if _EMBEDDING.fullmatch(name)]
        pieces += [self._piece(name, first, dict.fromkeys(_models(first), name), 0.0) for name in before]
        for one in self.slices:
            for offset, length in self._steps(one):
                lead = self._lead_of(one)
                ranges = {source.model: source.layer_range[0] for source in one.sources if source.layer_range}
                start = ranges.get(lead, 0)
                for prefix, suffix in self._in_layer(lead, start + offset):
                    named = {model: f"{prefix}{ranges.get(model, 0) + offset}{suffix}" for model in _models(one)}
                    depth = offset / (length - 1) if length > 1 else 1.0
                    pieces.append(self._piece(f"{prefix}{len(layers)}{suffix}", one, named, depth))
                layers.append((lead, start + offset))
        pieces += [self._piece(name, last, dict.fromkeys(_models(last), name), 0.0) for name in outside if name not in before]
        return Plan(tuple(pieces), self.lead, tuple(layers))

    # ------------------------------------------------------------------------------------------------------------------------------------ slices

    def _slices(self) -> list[Slice]:
        body, base = self.config.body, self.config.base_model
        if body.slices:
            return body.slices
        sources = list(body.models or ())
        if base and self.method.base in ("first", "needed", "optional") and base not in [source.model for source in sources]:
            sources.append(Source(model=base))
        counts = {source.model: _layers(self.models[source.model]) for source in sources}
        if len(set(counts.values())) > 1:
            raise UserError(
                f"the models have {', '.join(f'{n} ({model})' for model, n in counts.items())} layers; name those that belong together in slices"
            )
        return [Slice(sources=[source.model_copy(update={"layer_range": (0, counts[source.model])}) for source in sources])]

    def _steps(self, one: Slice) -> Iterator[tuple[int, int]]:
        lengths = set()
        for source in one.sources:
            first, end = source.layer_range or (0, _layers(self.models[source.model]))
            if not 0 <= first <= end <= _layers(self.models[source.model]):
                raise UserError(f"layer_range [{first}, {end}] of {source.model}: it has layers 0 to {_layers(self.models[source.model]) - 1}")
            lengths.add(end - first)
        if len(lengths) != 1:
            raise UserError(f"a slice has sources of {' and '.join(map(str, sorted(lengths)))} layers; they must be as many")
        length = lengths.pop()
        return iter([(offset, length) for offset in range(length)])

    def _lead_of(self, one: Slice) -> str:
        base = self._base_of(one)
        return base if base else one.sources[0].model

    def _base_of(self, one: Slice) -> str | None:
        if self.method.base == "none":
            return None
        named = [source.model for source in one.sources]
        base = one.base_model or self.config.base_model
        if base is None and self.method.base == "first":
            base = named[0]
        if base is None and self.method.base == "needed":
            raise UserError(f"{self.config.merge_method} needs the model whose changes are merged; name it with base_model: (--base)")
        if base is not None and base not in named:
            raise UserError(f"base_model {base} is no source of the slice of {named[0]}; add it with its layer_range")
        return base

    def _in_layer(self, model: str, layer: int) -> list[tuple[str, str]]:
        return [(found[1], found[3]) for name in self.models[model].metas if (found := _LAYER.fullmatch(name)) and int(found[2]) == layer]

    # ------------------------------------------------------------------------------------------------------------------------------------ tensors

    def _piece(self, name: str, one: Slice, named: Mapping[str, str], depth: float) -> Piece:
        base = self._base_of(one)
        others = [source for source in one.sources if source.model != base]
        sources = [(source.model, self._tied(source.model, named[source.model])) for source in others]
        apart = (base, self._tied(base, named[base])) if base else None
        every = [apart, *sources] if apart else sources
        metas = [self.models[model].metas[tensor] for model, tensor in every]
        if not metas[0].dtype.is_floating_point:
            return Piece(name, metas[0], metas[0].dtype, None, (every[0],), None)
        dtype = getattr(torch, self.config.dtype) if self.config.dtype else reduce(torch.promote_types, (meta.dtype for meta in metas))
        out = getattr(torch, self.config.out_dtype) if self.config.out_dtype else dtype
        piece = Piece(name, Meta(metas[0].shape, out), dtype, apart, tuple(sources), self._value(others, one, name, named, depth))
        for (model, _), meta in zip(every, metas, strict=True):
            if meta.shape[piece.by_token :] != metas[0].shape[piece.by_token :]:
                raise UserError(f"{name} is {_size(metas[0])} in {every[0][0]} and {_size(meta)} in {model}; only models of one shape are merged")
            if meta.shape != metas[0].shape and not self.config.joins:
                many = f"{every[0][0]} has {metas[0].shape[0]} tokens and {model} {meta.shape[0]}"
                raise UserError(f"{many}; say which the result has: --tokenizer union, base or a model (tokenizer_source in a file)")
        if len(every) == 1 and self.config.merge_method not in ("passthrough", "linear"):
            return replace(piece, base=None, others=(every[0],), method=None)
        return piece

    def _tied(self, model: str, name: str) -> str:
        """The tensor of that name, or for an output head that a model does not store the embedding that it shares."""
        metas = self.models[model].metas
        if name in metas:
            return name
        shared = next((other for other in metas if _EMBEDDING.fullmatch(other)), None) if _HEAD.fullmatch(name) else None
        if shared is None:
            raise UserError(f"{model} has no tensor {name}; only models of one architecture are merged")
        return shared

    def _value(self, others: Sequence[Source], one: Slice, name: str, named: Mapping[str, str], depth: float) -> Merge | Informed:
        given = {}
        for key, field in self.known.items():
            if "Each" in str(field.type):
                found = [self._setting(key, one, source, named[source.model], depth) for source in others]
                if any(value is not None for value in found):
                    given[field.name] = tuple(field.default if value is None else value for value in found)
            elif (value := self._setting(key, one, None, name, depth)) is not None:
                given[field.name] = value
        return _made(self.method, tuple(given.items()), self.config.merge_method)

    def _setting(self, key: str, one: Slice, source: Source | None, name: str, depth: float) -> Any:
        for place in (source, one, self.config.body, self.config):
            if place is not None and place.parameters and key in place.parameters:
                value = evaluate(place.parameters[key], name, depth)
                if value is not None:
                    return value
        return None

    def _warn(self) -> None:
        places = [self.config, self.config.body, *self.slices, *(source for one in self.slices for source in one.sources)]
        for key in sorted({key for place in places for key in place.parameters or ()} - self.known.keys() - IGNORED):
            near = index.closest(key, self.known)
            self.say(f"{self.config.merge_method} has no setting {key!r}{near}; it is left out")


@cache
def _made(method: type, given: tuple[tuple[str, Any], ...], name: str) -> Any:
    try:
        return TypeAdapter(method).validate_python(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        place = str(first["loc"][0]).rstrip("_") if first["loc"] else "its settings"
        raise UserError(f"{name}: {place}: {first['msg'].removeprefix('Value error, ')}, got {dict(given).get(str(first['loc'][0]))!r}") from error


def _size(meta: Meta) -> str:
    return " x ".join(map(str, meta.shape))


def _models(one: Slice) -> list[str]:
    return [source.model for source in one.sources]


def _layers(weights: Weights) -> int:
    return max((int(found[2]) + 1 for name in weights.metas if (found := _LAYER.fullmatch(name))), default=0)
