"""What several runs of one program share of the model they start from: its weights, read once, and its scores before training, measured once.

A run gets a copy of the loaded model, so it starts from the same bits as one that read the files. Scores lie in the store under the hash of all that
they depend on (weights, probes, held rows, code), so a program that goes on after it was stopped does not measure them again.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from tempering.held import Rows
from tempering.home import store_dir, write_atomic
from tempering.stages import content_key, content_of
from tempering.types import Policy, Probe, Scores


class Start:
    """Start models by what loads them, and what they score."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], Policy] = {}

    def load(self, spec: str, *, quantise: Any = "none", later: bool = False, say: Callable[[str], None] = print) -> Policy:
        """As `models.load`, but the files are read once; each call gives a model of its own. Only plain weights are copied."""
        from tempering import models

        if quantise != "none" or later:
            return models.load(spec, quantise=quantise, later=later, say=say)
        key = (spec, content_of(spec))
        if key not in self._models:
            self._models[key] = models.load(spec, say=say)
        kept = self._models[key]
        return replace(kept, model=copy.deepcopy(kept.model))

    def scores(self, policy: Policy, probes: Sequence[Probe], measured: Callable[[], Scores]) -> Scores:
        """What an untrained model scores: from the store where it was measured before, else `measured()`, which is then kept.

        Args:
            policy: as `load` gave it, perhaps with another chat template.
            probes: all that `measured` measures.
        """
        from tempering import keep, models

        origin, asked = models.provenance(policy.model), None
        with suppress(TypeError):
            asked = json.dumps([[type(probe).__name__, probe] for probe in probes], default=_plain)
        if origin is None or origin.new_tokens or asked is None:
            return measured()
        chat, tokens = getattr(policy.tokenizer, "chat_template", None), policy.tokenizer.backend_tokenizer.to_str()
        items = content_of(str(Path(keep.__file__).parent))
        weights, source = origin.base_sha256(), content_of(origin.source) or origin.source
        inputs = {"weights": weights, "source": source, "chat": chat, "tokens": tokens, "items": items}
        path = store_dir("scores") / f"{content_key({**inputs, 'probes': asked})}.json"
        adapter = TypeAdapter(Scores)
        if not path.is_file():
            write_atomic(path, adapter.dump_json(measured()).decode())
        return adapter.validate_json(path.read_bytes())


def _plain(value: Any) -> Any:
    """A part of a probe as something that JSON has.

    Raises:
        TypeError: nobody knows what it depends on.
    """
    if isinstance(value, Rows):
        return [value.fingerprint, list(value.indices)]
    if isinstance(value, BaseModel):
        given = {name: getattr(value, name) for name in type(value).model_fields}
        # A list of items may be a file.
        return [type(value).__name__, given, {name: content_of(text) for name, text in given.items() if isinstance(text, str)}]
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, {field.name: getattr(value, field.name) for field in fields(value)}]
    if isinstance(value, Path):
        return [str(value), content_of(str(value))]
    raise TypeError(type(value).__name__)
