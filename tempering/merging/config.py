"""What a merge is asked for, in the form of mergekit's YAML files, which the command line's flags are turned into as well.

A setting is a number, or a list of numbers that are points of a line from the first layer of a slice to its last, or a list of {value, filter}: the
first entry whose filter is part of the tensor's name counts. It is looked for at the model in the slice, the slice, the module, the file, in this
order. mergekit's documentation of its configuration is where this comes from; code was not taken over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from tempering.errors import UserError


def model_name(value: Any) -> Any:
    """mergekit's ways of naming a model, as one word: "path", "path@revision", "path+adapter", {model: {path, revision}, lora: {path}}."""
    if isinstance(value, Mapping):
        name = model_name(value.get("model", value.get("path")))
        for sign, part in (("@", value.get("revision")), ("+", model_name(value.get("lora")))):
            name = f"{name}{sign}{part}" if part else name
        return name
    return value


Model = Annotated[str, BeforeValidator(model_name)]
Settings = dict[str, Any]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    parameters: Settings | None = None


class Source(_Part):
    """A model that goes in, or some of its layers."""

    model: Model
    layer_range: tuple[int, int] | None = None
    """First layer, and the one after the last."""
    calibrate: str | None = None
    """Rows that this model is looked at on, by a method that wants to know (not one of mergekit's fields)."""


class Slice(_Part):
    """Layers of the result that are made of layers of the same number of each source."""

    sources: list[Source]
    base_model: Model | None = None


class Module(_Part):
    """A part of a model, "default" where there is one."""

    slices: list[Slice] | None = None
    models: list[Source] | None = None


class TokenRule(BaseModel):
    """Where a token's embedding comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: Any = None
    force: bool = False


class Tokenizer(BaseModel):
    """The result's tokenizer and rules for single tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: Model = "union"
    tokens: dict[str, TokenRule] | None = None
    pad_to_multiple_of: int | None = None


class Config(_Part):
    """A whole merge."""

    merge_method: str
    models: list[Source] | None = None
    slices: list[Slice] | None = None
    modules: dict[str, Module] | None = None
    base_model: Model | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What is computed in; by default the type that the base, or the first model, is stored in."""
    out_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What is stored; by default what was computed in."""
    tokenizer_source: Model | None = None
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None
    calibrate: str | None = None
    """Rows for all models that name none of their own."""

    @model_validator(mode="after")
    def _one_form(self) -> Config:
        if sum(bool(form) for form in (self.models, self.slices, self.modules)) != 1:
            raise ValueError("give exactly one of models, slices and modules")
        if self.modules and len(self.modules) > 1:
            raise ValueError("models of several modules are not merged here; give one module")
        if self.tokenizer and self.tokenizer_source:
            raise ValueError("give tokenizer or tokenizer_source, not both")
        return self

    @property
    def body(self) -> Module:
        """Slices or models, wherever they were given."""
        return next(iter(self.modules.values())) if self.modules else Module(slices=self.slices, models=self.models)

    @property
    def joins(self) -> bool:
        """Whether vocabularies are brought to one."""
        return bool(self.tokenizer or self.tokenizer_source)

    @property
    def sources(self) -> tuple[Source, ...]:
        """Everything that goes in, the base aside."""
        return (*(source for one in self.body.slices or () for source in one.sources), *(self.body.models or ()))

    def named(self) -> tuple[str, ...]:
        """Every model that is named, the base first."""
        bases = [base for base in (self.base_model, *(one.base_model for one in self.body.slices or ())) if base]
        return tuple(dict.fromkeys([*bases, *(source.model for source in self.sources)]))


def read_config(path: Path) -> Config:
    """A mergekit file. Raises UserError with what is wrong in it and where."""
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'}); check the path.") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}; a merge begins with `merge_method: ...`")
    return parse(value, str(path))


def parse(value: Mapping[str, Any], where: str) -> Config:
    """A configuration from plain values. Raises UserError that names the field."""
    try:
        return Config.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{where}: {place + ': ' if place else ''}{first['msg'].removeprefix('Value error, ')}") from error


def evaluate(setting: Any, name: str, depth: float) -> Any:
    """A setting's value for a tensor; None where no filter fits.

    Args:
        name: of the tensor.
        depth: 0 at the first layer of a slice, 1 at its last.
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, Sequence) or isinstance(setting, str):
        return setting
    if not setting or any(isinstance(entry, Mapping) for entry in setting):
        for entry in setting:
            if not isinstance(entry, Mapping) or "value" not in entry:
                raise UserError(f"a setting is a list in which {entry!r} has no `value`; every entry is {{value: ..., filter: ...}}")
            if entry.get("filter") in (None, "*") or str(entry["filter"]) in name:
                return evaluate(entry["value"], name, depth)
        return None
    if all(isinstance(entry, int | float) for entry in setting):
        at = depth * (len(setting) - 1)
        low = int(at)
        return (1 - (at - low)) * setting[low] + (at - low) * setting[min(low + 1, len(setting) - 1)]
    return setting[int(depth * (len(setting) - 1))]
