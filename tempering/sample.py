"""Sampling: prompts (token ids) in, episodes (the very tokens, their behaviour log-probs, the text) out.

A small batched decoder over Hugging Face causal models: one KV cache per role, prompts padded on the left, requests sorted by length into batches,
finished rows dropped from the batch. Randomness is Gumbel noise keyed by (seed, request key, sample, position), never by the batch: in float32 the
tokens do not depend on which requests run together, in which order, or in batches of what size.

The decode chain of the policy (`types.Decode`) sees the tokens so far and the next-token logits of every role it asks for. Left padding is shown
to it as token -1, so that a decode which looks at tokens can tell padding from text.

Shapes: R rows of a batch, L tokens so far (padding included), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tempering.errors import UserError
from tempering.models.tokens import end_of_turn
from tempering.types import Episode, Policy

PAD = -1
"""What a decode sees in place of left padding."""


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """No gradient and eval mode inside; every submodule's own mode is put back after (frozen parts may have been in eval mode on purpose)."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def models_of(policy: Policy) -> dict[str, nn.Module]:
    """The models that the decode chain needs, by role; "policy" is first. Raises `UserError` when the policy lacks a role a decode asks for."""
    models: dict[str, nn.Module] = {"policy": policy.model}
    for decode in policy.decode:
        for role in decode.roles:
            if role != "policy" and role not in policy.roles:
                have = ", ".join(sorted(policy.roles)) or "none"
                raise UserError(f"{type(decode).__name__} asks for the logits of role '{role}', the policy has {have}: pass it in Policy(roles=...)")
            if role != "policy":
                models[role] = policy.roles[role]
    return models


def apply_decode(policy: Policy, tokens_RL: Tensor, logits: Mapping[str, Tensor]) -> Tensor:
    """Runs the chain: role -> [R, V] float32 logits in, the policy's final logits [R, V] out. Each decode sees its predecessor's as "policy"."""
    if any(x.shape != logits["policy"].shape for x in logits.values()):
        sizes = ", ".join(f"{role} {x.shape[-1]}" for role, x in logits.items())
        raise UserError(f"the decode chain mixes vocabularies of different sizes ({sizes}): use models that share a tokenizer")
    out = logits["policy"]
    for decode in policy.decode:
        out = decode(tokens_RL, {**logits, "policy": out})
    return out


def stop_ids(policy: Policy) -> frozenset[int]:
    """Ids that end a turn: the tokenizer's eos, the generation config's, and what the chat template writes after an assistant's answer."""
    found: set[int] = set()
    config_ids = getattr(getattr(policy.model, "generation_config", None), "eos_token_id", None)
    found.update(config_ids if isinstance(config_ids, (list, tuple)) else [config_ids] if config_ids is not None else [])
    tokenizer = policy.tokenizer
    if tokenizer is not None and tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    turn_end = end_of_turn(tokenizer)[0] if tokenizer is not None else None
    if turn_end is not None:
        found.add(turn_end)
    return frozenset(found)


def gumbel_noise(seed: int, key: int, sample: int, position: int, size: int) -> np.ndarray:
    """Standard Gumbel noise [size] that is a function of its arguments alone (counter-based Philox generator).

    In float64 on purpose: float32 exponentials are exactly zero about once in 10^7 draws, and over a vocabulary of 50,000 tokens that would pick
    an arbitrary token every few hundred positions.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, key, sample, position])))
    return -np.log(np.maximum(generator.standard_exponential(size), 1e-300))


def behaviour_logps(logits_RV: Tensor, *, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Log-probs [R, V] that tokens are drawn from: temperature, then top-k, then nucleus. Temperature 0 (greedy) gives those of temperature 1."""
    logits_RV = logits_RV.float() / (temperature or 1.0)
    if 0 < top_k < logits_RV.shape[-1]:
        logits_RV = logits_RV.masked_fill(logits_RV < logits_RV.topk(top_k).values[:, -1:], -torch.inf)
    if top_p < 1.0:
        sorted_RV, order_RV = logits_RV.sort(descending=True, stable=True)
        probs_RV = sorted_RV.softmax(-1)
        before_RV = probs_RV.cumsum(-1) - probs_RV
        logits_RV = logits_RV.masked_fill((before_RV >= top_p).scatter(1, order_RV, before_RV >= top_p), -torch.inf)
    return logits_RV.log_softmax(-1)


@dataclass
class _Request:
    """One row to decode: prompt `index`, sample number `sample`; `key` names its noise."""

    index: int
    key: int
    sample: int
    prompt: tuple[int, ...]
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    finished: bool = False


def sample(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    n: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stop: Sequence[str] = (),
    seed: int = 0,
    batch_size: int = 16,
    keys: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Episode]]:
    """Continues every prompt `n` times; returns one list of `n` episodes per prompt, in the order of the prompts.

    An episode's ids include the stop token or the tokens of the stop string; its text does not. Its log-probs are those of the distribution the
    tokens were drawn from, after the decode chain, temperature, top-k and top-p (natural log); with temperature 0 those at temperature 1.

    Args:
        prompts: token ids, each at least one token.
        temperature: 0 is greedy.
        top_p: nucleus mass kept (Holtzman et al. 2020); 1 keeps all. top_k: 0 keeps all.
        stop: strings that end an episode when they appear in the sampled text.
        keys: names the noise of each prompt (default: its position), so that a prompt's samples stay the same in another list.
        progress: called as (finished episodes, all episodes).
    Raises:
        UserError: an empty, too long or out-of-vocabulary prompt; an option out of range; a role that a decode asks for is missing.
    """
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    _check_options(n=n, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, batch_size=batch_size, stop=stop)
    if keys is not None and len(keys) != len(prompts):
        raise UserError(f"{len(keys)} keys for {len(prompts)} prompts: give one key per prompt")
    models = models_of(policy)
    _check_prompts(models, prompts, max_new_tokens)
    rows = [_Request(i, keys[i] if keys is not None else i, j, tuple(int(t) for t in prompt)) for i, prompt in enumerate(prompts) for j in range(n)]
    ends, done = stop_ids(policy), 0
    by_length = sorted(rows, key=lambda row: (-len(row.prompt), row.index, row.sample))
    with evaluating(*models.values()):
        for start in range(0, len(by_length), batch_size):
            for finished in _decode(
                policy, models, by_length[start : start + batch_size], max_new_tokens, temperature, top_p, top_k, stop, ends, seed
            ):
                done += finished
                if progress is not None:
                    progress(done, len(rows))
    episodes = [_episode(policy.tokenizer, row, stop, ends) for row in rows]
    return [episodes[i * n : (i + 1) * n] for i in range(len(prompts))]


def _decode(
    policy: Policy,
    models: Mapping[str, nn.Module],
    rows: list[_Request],
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
    stop: tuple[str, ...],
    ends: frozenset[int],
    seed: int,
) -> Iterator[int]:
    """Decodes one batch in place; yields how many rows ended at each step at which some did."""
    device = next(policy.model.parameters()).device
    tokens_RL = pad_left([row.prompt for row in rows], device)
    caches = {role: DynamicCache(config=config_of(model)) for role, model in models.items()}
    step_ids_RK = tokens_RL
    for step in range(max_new_tokens):
        mask_RL = (tokens_RL != PAD).long()
        positions_RK = (mask_RL.cumsum(1) - 1).clamp(min=0)[:, -step_ids_RK.shape[1] :]
        inputs = {"input_ids": step_ids_RK.clamp(min=0), "attention_mask": mask_RL, "position_ids": positions_RK}
        logits = {
            role: model(**inputs, past_key_values=caches[role], use_cache=True, logits_to_keep=1).logits[:, -1].float()
            for role, model in models.items()
        }
        logp_RV = behaviour_logps(apply_decode(policy, tokens_RL, logits), temperature=temperature, top_k=top_k, top_p=top_p)
        score_RV = logp_RV
        if temperature > 0:
            noise = np.stack([gumbel_noise(seed, row.key, row.sample, step, logp_RV.shape[1]) for row in rows])
            score_RV = logp_RV + torch.from_numpy(noise).to(device, torch.float32)
        chosen_R1 = score_RV.argmax(-1, keepdim=True)
        chosen_logps = logp_RV.gather(1, chosen_R1)[:, 0].tolist()
        for row, token, logp in zip(rows, chosen_R1[:, 0].tolist(), chosen_logps, strict=True):
            row.ids.append(token)
            row.logps.append(logp)
            row.finished = token in ends or _stopped(policy.tokenizer, row.ids, stop)
        alive = [i for i, row in enumerate(rows) if not row.finished]
        if step + 1 == max_new_tokens or not alive:
            yield len(rows)
            return
        tokens_RL, step_ids_RK = torch.cat([tokens_RL, chosen_R1], 1), chosen_R1
        if len(alive) < len(rows):
            yield len(rows) - len(alive)
            keep = torch.tensor(alive, device=device)
            rows, tokens_RL, step_ids_RK = [rows[i] for i in alive], tokens_RL[keep], step_ids_RK[keep]
            for cache in caches.values():
                cache.batch_select_indices(keep)


def pad_left(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Tensor:
    """Rows of ids to [R, L] int64, padded on the left with `PAD`."""
    length = max(len(row) for row in rows)
    return torch.tensor([[PAD] * (length - len(row)) + list(row) for row in rows], device=device)


def _stopped(tokenizer: Any, ids: list[int], stop: tuple[str, ...]) -> bool:
    if not stop or tokenizer is None:
        return False
    # a token holds at least one byte, so this tail holds every stop string that the last token could have completed
    tail = tokenizer.decode(ids[-(max(len(s.encode()) for s in stop) + 4) :], skip_special_tokens=True)
    return any(s in tail for s in stop)


def _episode(tokenizer: Any, row: _Request, stop: tuple[str, ...], ends: frozenset[int]) -> Episode:
    body = row.ids[:-1] if row.ids and row.ids[-1] in ends else row.ids
    text = tokenizer.decode(body, skip_special_tokens=True) if tokenizer is not None else ""
    cuts = [text.find(s) for s in stop if s in text]
    return Episode(row.prompt, tuple(row.ids), tuple(row.logps), text[: min(cuts)] if cuts else text, row.finished)


def _check_options(**options: Any) -> None:
    rules: dict[str, tuple[bool, str]] = {
        "n": (options["n"] >= 1, "at least 1"),
        "max_new_tokens": (options["max_new_tokens"] >= 1, "at least 1"),
        "temperature": (0 <= options["temperature"] < float("inf"), "0 (greedy) or more"),
        "top_p": (0 < options["top_p"] <= 1, "above 0 and at most 1"),
        "top_k": (options["top_k"] >= 0, "0 (off) or more"),
        "seed": (options["seed"] >= 0, "0 or more"),
        "batch_size": (options["batch_size"] >= 1, "at least 1"),
        "stop": (all(options["stop"]), "strings that are not empty"),
    }
    for name, (holds, wanted) in rules.items():
        if not holds:
            raise UserError(f"sampling option {name}={options[name]!r}: must be {wanted}")


def config_of(model: nn.Module) -> Any:
    """The model's transformers config; torch types every attribute of a module as a tensor or a module."""
    return model.config


def max_positions(models: Mapping[str, nn.Module]) -> int | None:
    """The smallest number of positions that the models' configs state; None where none does."""
    limits = [getattr(config_of(model).get_text_config(), "max_position_embeddings", None) for model in models.values()]
    return min((limit for limit in limits if limit), default=None)


def _check_prompts(models: Mapping[str, nn.Module], prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    limit = max_positions(models)
    vocabulary = min(config_of(model).get_text_config().vocab_size for model in models.values())
    for i, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise UserError(f"prompt {i} has no tokens: give at least one, for example the tokenizer's bos token")
        if limit is not None and len(prompt) + max_new_tokens > limit:
            raise UserError(
                f"prompt {i} has {len(prompt)} tokens and {max_new_tokens} new ones are asked for, the model has {limit} positions: "
                "shorten the prompt or lower max_new_tokens"
            )
        if min(prompt) < 0 or max(prompt) >= vocabulary:
            raise UserError(f"prompt {i} has token id {min(prompt) if min(prompt) < 0 else max(prompt)}, the model knows 0 to {vocabulary - 1}")
