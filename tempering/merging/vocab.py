"""Models of different vocabularies: one tokenizer for the result, and every model's embedding and head brought to its rows before they are merged.

The result's tokenizer is the base's, another model's, or the base's with every token that any model knows ("union"). A row that a model lacks is the
base's, else the mean over the models that have it; a rule for a token says otherwise. These are the rules of mergekit's `tokenizer_source` and
`tokenizer`.

V rows of the result, E width of an embedding.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tempering.errors import UserError
from tempering.merging.config import Config, Tokenizer, TokenRule, model_name
from tempering.merging.plan import Plan
from tempering.merging.read import Weights


@dataclass(frozen=True)
class Vocabulary:
    """The result's tokens, and which row of each model they are."""

    tokenizer: Any
    size: int
    """V."""
    used: int
    """Rows that stand for a token; those after are filling."""
    ids: Mapping[str, Tensor]
    """Model -> its row of every row of the result, -1 where it has none; int64 [V]."""
    rules: Mapping[int, tuple[tuple[str, int] | None, bool]]
    """Row -> ((model, its row) or None for zeros, whether that holds for models that have the token too)."""
    base: str
    """The model whose rows go before a mean; "" for none."""

    def spread(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Model -> its rows in the result's order [V, E], from its own rows."""
        own = {model: torch.where(self.ids[model] < len(tensor), self.ids[model], -1) for model, tensor in tensors.items()}
        has = {model: ids_V >= 0 for model, ids_V in own.items()}
        width = next(iter(tensors.values())).shape[1]
        instead_VE = torch.zeros(self.size, width)
        for model, tensor in tensors.items():
            instead_VE[has[model]] += tensor[own[model][has[model]]].float()
        instead_VE /= torch.stack([*has.values()]).sum(0).clamp(min=1)[:, None]
        if self.base in tensors:
            instead_VE[has[self.base]] = tensors[self.base][own[self.base][has[self.base]]].float()
        found = {}
        for model, tensor in tensors.items():
            found[model] = instead_VE.to(tensor.dtype, copy=True)
            found[model][has[model]] = tensor[own[model][has[model]]]
        for row, (source, force) in self.rules.items():
            for model in tensors:
                if force or not has[model][row]:
                    found[model][row] = 0 if source is None else tensors[source[0]][source[1]]
        for rows_VE in found.values():
            if self.used < self.size:
                rows_VE[self.used :] = rows_VE[: self.used].mean(0)
        return found


def vocabulary(config: Config, plan: Plan, models: Mapping[str, Weights]) -> Vocabulary | None:
    """The result's vocabulary; None where the configuration asks for none.

    Raises UserError for a rule about a model or token that is not there.
    """
    from tempering.models.tokens import read_tokenizer

    asked = config.tokenizer or (Tokenizer(source=config.tokenizer_source) if config.tokenizer_source else None)
    if asked is None:
        return None
    known = {model: read_tokenizer(weights.tokenizer) for model, weights in models.items()}
    made = copy.deepcopy(known[plan.lead] if asked.source in ("base", "union") else _source(asked.source, known))
    if asked.source == "union":
        _unite(made, [known[plan.lead], *known.values()])
    made.add_tokens([token for token in asked.tokens or () if token not in made.get_vocab()])
    tokens = made.get_vocab()
    used = max(tokens.values()) + 1
    size = used + -used % (asked.pad_to_multiple_of or 1)
    ids = {}
    for model, tokenizer in known.items():
        own = tokenizer.get_vocab()
        ids[model] = torch.full((size,), -1, dtype=torch.int64)
        for token, row in tokens.items():
            ids[model][row] = own.get(token, -1)
    rules = {
        tokens[token]: (_rule(token, rule, known, tokens), rule.force) for token, rule in (asked.tokens or {}).items() if rule.source is not None
    }
    return Vocabulary(made, size, used, ids, rules, config.base_model or "")


def _source(name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise UserError(f"the tokenizer of {name} is asked for, which is no model of this merge; it has {', '.join(known)}")
    return known[name]


def _unite(made: Any, tokenizers: Sequence[Any]) -> None:
    """Adds every token that is not there: plain ones first, then those that were added to a tokenizer, with their settings."""
    for tokenizer in tokenizers:
        added = {token.content for token in tokenizer.added_tokens_decoder.values()}
        there = made.get_vocab()
        made.add_tokens(
            [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1]) if token not in there and token not in added]
        )
    for tokenizer in tokenizers:
        there = made.get_vocab()
        made.add_tokens([token for token in tokenizer.added_tokens_decoder.values() if token.content not in there])


def _rule(token: str, rule: TokenRule, known: Mapping[str, Any], tokens: Mapping[str, int]) -> tuple[str, int] | None:
    source = rule.source
    if isinstance(source, Mapping) and source.get("kind") == "zero":
        return None
    model = model_name(source["model"] if isinstance(source, Mapping) and "kind" in source else source)
    own = _source(model, known).get_vocab()
    if isinstance(source, Mapping) and source.get("token_id") is not None:
        return model, int(source["token_id"])
    wanted = source.get("token", token) if isinstance(source, Mapping) else token
    if wanted not in own:
        raise UserError(f"tokenizer.tokens.{token}: {model} has no token {wanted!r}")
    return model, own[wanted]
