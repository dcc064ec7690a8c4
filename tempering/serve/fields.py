"""What a request's body may say. A field that is unknown, or known and not offered here, is refused by name: an answer that silently left a wish out
would look like one that met it.

A field set to null counts as left out, as with OpenAI. Fields that are not offered are taken where their value asks for nothing (penalties of 0),
because some clients always send them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from tempering.index import closest
from tempering.serve.errors import ApiError

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "min_p": (0,),
    "modalities": (["text"],),
    "parallel_tool_calls": (False, True),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
}
"""Fields of the interface that are not offered -> values that ask for nothing."""
MAX_STOPS = 16
MAX_TOP = 20


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair is not text") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(_Strict):
    """How to stream."""

    include_usage: bool = False


class _Sampling(_Strict):
    """What both routes take."""

    model: str
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1)
    n: int = Field(1, ge=1, le=128)
    stop: tuple[Text, ...] = ()
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    return_tokens_as_token_ids: bool = False
    user: str = ""
    """An identifier of the client's user; nothing here depends on it."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """As `user`."""

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        given = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
        if not isinstance(given, tuple) or len(given) > MAX_STOPS or not all(isinstance(s, str) and s for s in given):
            raise ValueError(f"a string or at most {MAX_STOPS} strings are wanted, none of them empty")
        return given


class CompletionBody(_Sampling):
    """POST /v1/completions."""

    prompt: tuple[str | tuple[int, ...], ...]
    max_tokens: int = Field(16, ge=0)
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP)

    @field_validator("prompt", mode="before")
    @classmethod
    def _prompts(cls, value: Any) -> tuple[str | tuple[int, ...], ...]:
        if isinstance(value, str):
            return (_encodable(value),)
        if isinstance(value, list) and value:
            if all(isinstance(p, str) for p in value):
                return tuple(map(_encodable, value))
            if _is_ids(value):
                return (tuple(value),)
            if all(isinstance(p, list) and _is_ids(p) for p in value):
                return tuple(map(tuple, value))
        raise ValueError("a text, a list of texts, a list of token ids or a list of such lists is wanted, none of them empty")


def _is_ids(value: list[Any]) -> bool:
    return bool(value) and all(type(i) is int and i >= 0 for i in value)


class TextPart(_Strict):
    """One part of a message's content."""

    type: Literal["text"]
    text: Text


class ChatMessage(_Strict):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(_Sampling):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_TOP)


Body = TypeVar("Body", CompletionBody, ChatBody)


def parse(value: Any, kind: type[Body]) -> Body:
    """A decoded JSON body, checked.

    Raises:
        ApiError: 400, with the field's name.
    """
    if not isinstance(value, dict):
        raise ApiError(400, f"the body must be a JSON object, this is a {type(value).__name__}")
    given = {name: v for name, v in value.items() if v is not None}
    for name, harmless in NEUTRAL.items():
        if name in given and given.pop(name) not in harmless:
            raise ApiError(400, f"{name} is not offered by this server: leave it out", name, "unsupported_parameter")
    if unknown := sorted(set(given) - set(kind.model_fields)):
        raise ApiError(400, f"there is no field {unknown[0]!r}{closest(unknown[0], kind.model_fields)}", unknown[0], "unknown_parameter")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        # Of a union's members the one that got furthest says what is wrong.
        first = max(error.errors(include_url=False), key=lambda e: len(e["loc"]))
        # Locations also name members of unions, which are no fields.
        place = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in _NAMES or first["type"] == "extra_forbidden")
        said = "it is missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
        raise ApiError(400, f"{place}: {said}", place, "invalid_value") from None


_NAMES = {name for kind in (CompletionBody, ChatBody, ChatMessage, TextPart, StreamOptions) for name in kind.model_fields}
