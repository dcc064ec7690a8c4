"""Measuring: probes on a policy, log-probs of given continuations, the exact divergence from a reference, and the default keep battery.

One engine scores everything that is given rather than sampled (choices, preferences, held text, divergences). Continuations of the same prompt share
one pass over it through the KV cache; a single continuation is one pass without a cache. Rows are sorted by length and padded, attention masks and
position ids keep samples apart, and the vocabulary projection runs on scored positions only, in chunks, so that [tokens, vocabulary] is never held.

Shapes: G prompts, R rows, S tokens of a row that go through the model, C scored positions of one chunk, V vocabulary.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tempering.errors import UserError
from tempering.items import mean
from tempering.remembered import ask_together, remembered, remembering
from tempering.sample import PAD, apply_decode, evaluating, max_positions, models_of, pad_left
from tempering.types import Policy, Probe, ProbeScores, Scores

Pair = tuple[Sequence[int], Sequence[int]]
"""(prompt ids, continuation ids)."""

CHUNK_ELEMENTS = 2**25
"""Elements of one [C, V] tensor of logits (128 MiB in float32)."""


# ------------------------------------------------------------------------------------------------------------------ scoring given continuations


@dataclass
class _Group:
    """Continuations behind one prompt. `prefix` goes through the model once; the last len(target) of a suffix's tokens predict the target."""

    prefix: tuple[int, ...]
    suffixes: list[tuple[int, ...]] = field(default_factory=list)
    targets: list[tuple[int, ...]] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)

    @property
    def longest(self) -> int:
        return max(len(s) for s in self.suffixes)


def _groups(pairs: Sequence[Pair]) -> list[_Group]:
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for i, (prompt, continuation) in enumerate(pairs):
        if len(prompt) == 0:
            raise UserError(f"pair {i} has an empty prompt: the first token needs something before it, for example the bos token")
        if len(continuation):
            by_prompt.setdefault(tuple(prompt), []).append(i)
    groups = []
    for prompt, indices in by_prompt.items():
        # a prompt that only one continuation follows gains nothing from the cache
        cut = len(prompt) - 1 if len(indices) > 1 else 0
        group = _Group(prompt[:cut], indices=indices, targets=[tuple(pairs[i][1]) for i in indices])
        group.suffixes = [(*prompt[cut:], *target[:-1]) for target in group.targets]
        groups.append(group)
    return groups


def _batches(groups: list[_Group], batch_tokens: int) -> Iterator[list[_Group]]:
    """Groups of the same kind (with or without a prefix), of like length, at most `batch_tokens` padded tokens together (or a single group)."""
    batch: list[_Group] = []
    for group in sorted(groups, key=lambda g: (bool(g.prefix), -g.longest, -len(g.prefix), g.indices)):
        wider = [*batch, group]
        rows = sum(len(g.suffixes) for g in wider)
        tokens = rows * max(g.longest for g in wider) + len(wider) * max(len(g.prefix) for g in wider)
        if batch and (tokens > batch_tokens or bool(group.prefix) != bool(batch[0].prefix)):
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch


class _Rows:
    """One padded batch: what goes in, and which (row, position) is scored against which target token."""

    def __init__(self, groups: list[_Group], device: torch.device) -> None:
        rows = [
            (g, suffix, target, index)
            for g, group in enumerate(groups)
            for suffix, target, index in zip(group.suffixes, group.targets, group.indices, strict=True)
        ]
        self.indices = [index for *_, index in rows]
        self.lengths = [len(target) for _, _, target, _ in rows]
        self.prompts = [groups[g].prefix + suffix for g, suffix, _, _ in rows]
        width = max(len(suffix) for _, suffix, _, _ in rows)
        self.prefix_GP = pad_left([g.prefix for g in groups], device)
        self.group_R = torch.tensor([g for g, *_ in rows], device=device)
        self.ids_RS = torch.tensor([[*suffix, *[PAD] * (width - len(suffix))] for _, suffix, _, _ in rows], device=device)
        self.at_N2 = torch.tensor([(r, len(s) - len(t) + k) for r, (_, s, t, _) in enumerate(rows) for k in range(len(t))], device=device)
        self.target_N = torch.tensor([token for _, _, target, _ in rows for token in target], device=device)

    def tokens_before(self, at_C2: Tensor) -> Tensor:
        """For decodes: the tokens up to and including each position, padded on the left, [C, L]."""
        ends = [(r, len(self.prompts[r]) - int((self.ids_RS[r] != PAD).sum()) + p + 1) for r, p in at_C2.tolist()]
        return pad_left([self.prompts[r][:end] for r, end in ends], at_C2.device)


def _states(model: nn.Module, rows: _Rows) -> tuple[Tensor, Callable[[Tensor], Tensor] | None]:
    """([R, S, hidden] and the head that turns them into logits) or ([R, S, V] logits and None, where a model cannot be split)."""
    from tempering.models import body_and_head

    split = body_and_head(model)
    head = None if split is None else split.head

    def run(ids: Tensor, mask: Tensor, positions: Tensor, **more: Any) -> Tensor:
        inputs = {"input_ids": ids.clamp(min=0), "position_ids": positions, "attention_mask": mask}
        return model(**inputs, **more).logits if split is None else split.body(**inputs, **more)

    mask_RS = (rows.ids_RS != PAD).long()
    positions_RS = (mask_RS.cumsum(1) - 1).clamp(min=0)
    if rows.prefix_GP.shape[1] == 0:
        return run(rows.ids_RS, mask_RS, positions_RS, use_cache=False), head
    config: Any = model.config
    cache = DynamicCache(config=config)
    before_GP = (rows.prefix_GP != PAD).long()
    last_only = {"logits_to_keep": 1} if split is None else {}
    run(rows.prefix_GP, before_GP, (before_GP.cumsum(1) - 1).clamp(min=0), past_key_values=cache, use_cache=True, **last_only)
    cache.batch_select_indices(rows.group_R)
    before_RP = before_GP[rows.group_R]
    positions_RS = positions_RS + before_RP.sum(1, keepdim=True)
    return run(rows.ids_RS, torch.cat([before_RP, mask_RS], 1), positions_RS, past_key_values=cache, use_cache=True), head


class _Side:
    """One distribution over next tokens: a policy with its decode chain, or a reference that lives inside a context (an adapter switched off)."""

    def __init__(self, policy: Policy, opened: Callable[[], AbstractContextManager[nn.Module]] | None = None) -> None:
        self.policy = policy
        self.opened = {role: partial(nullcontext, model) for role, model in models_of(policy).items()} if opened is None else {"policy": opened}

    def run(self, rows: _Rows) -> None:
        self.rows, self.states = rows, {}
        for role, opened in self.opened.items():
            with opened() as model:
                self.states[role] = _states(model, rows)

    def logps(self, at_C2: Tensor) -> Tensor:
        """float32 [C, V]"""
        logits = {}
        for role, (states, head) in self.states.items():
            picked = states[at_C2[:, 0], at_C2[:, 1]]
            with self.opened[role]():
                logits[role] = (head(picked) if head is not None else picked).float()
        if not self.policy.decode:
            return logits["policy"].log_softmax(-1)
        return apply_decode(self.policy, self.rows.tokens_before(at_C2), logits).float().log_softmax(-1)


def _scored(
    sides: Sequence[_Side], pairs: Sequence[Pair], batch_tokens: int, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[_Rows, Iterator[Any]]]:
    """Per batch: its rows, and chunks of (positions, [log-probs [C, V] of each side], targets [C])."""
    device = next(sides[0].policy.model.parameters()).device
    model: Any = sides[0].policy.model
    groups, done = _groups(pairs), 0
    for batch in _batches(groups, batch_tokens):
        rows = _Rows(batch, device)
        for side in sides:
            side.run(rows)

        def chunks(rows: _Rows = rows) -> Iterator[tuple[list[Tensor], Tensor]]:
            size = max(1, CHUNK_ELEMENTS // model.config.get_text_config().vocab_size)
            for at_C2, target_C in zip(rows.at_N2.split(size), rows.target_N.split(size), strict=True):
                yield [side.logps(at_C2) for side in sides], target_C

        yield rows, chunks()
        done += len(rows.indices)
        if progress is not None:
            progress(done, len(pairs))


def score_pairs(
    policy: Policy, pairs: Sequence[Pair], *, batch_tokens: int = 2048, progress: Callable[[int, int], None] | None = None
) -> list[tuple[Tensor, Tensor]]:
    """For each pair (log-prob of every continuation token, float32 [len]; whether it was the most likely token, bool [len]), on the CPU.

    Raises:
        UserError: an empty prompt, or a pair longer than the model's positions.
    """
    _check_lengths(policy, pairs)
    if (kept := remembered(policy)) is not None:
        whole = [(tuple(map(int, prompt)), tuple(map(int, continuation))) for prompt, continuation in pairs]
        return kept.scored(whole, lambda new: _score_pairs(policy, new, batch_tokens, progress))
    return _score_pairs(policy, pairs, batch_tokens, progress)


def _score_pairs(
    policy: Policy, pairs: Sequence[Pair], batch_tokens: int, progress: Callable[[int, int], None] | None
) -> list[tuple[Tensor, Tensor]]:
    found: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0, dtype=torch.bool)) for _ in pairs]
    with evaluating(*models_of(policy).values()):
        for rows, chunks in _scored([_Side(policy)], pairs, batch_tokens, progress):
            logps, tops = [], []
            for (logp_CV,), target_C in chunks:
                logps.append(logp_CV.gather(1, target_C[:, None])[:, 0].cpu())
                tops.append((logp_CV.argmax(-1) == target_C).cpu())
            for index, logp, top in zip(rows.indices, torch.cat(logps).split(rows.lengths), torch.cat(tops).split(rows.lengths), strict=True):
                found[index] = (logp, top)
    return found


def logps_of(policy: Policy, pairs: Sequence[Pair], *, batch_tokens: int = 2048, progress: Callable[[int, int], None] | None = None) -> list[Tensor]:
    """Log-prob (natural log, float32, CPU) of every token of each continuation, given its prompt and the tokens before it, after the decode chain."""
    return [logp for logp, _ in score_pairs(policy, pairs, batch_tokens=batch_tokens, progress=progress)]


def logps_and_moments(policy: Policy, pairs: Sequence[Pair], *, batch_tokens: int = 2048) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each pair, of every continuation token: its log-prob, and mean and standard deviation of log p over the vocabulary at that place, under the
    model itself; float32 [len] each, on the CPU. Forbidden tokens (probability 0) count for nothing."""
    _check_lengths(policy, pairs)
    found: list[tuple[Tensor, Tensor, Tensor]] = [(torch.empty(0), torch.empty(0), torch.empty(0)) for _ in pairs]
    with evaluating(*models_of(policy).values()):
        for rows, chunks in _scored([_Side(policy)], pairs, batch_tokens, None):
            numbers = []
            for (logp_CV,), target_C in chunks:
                p_CV, finite_CV = logp_CV.exp(), logp_CV.masked_fill(logp_CV.isneginf(), 0.0)
                mean_C = (p_CV * finite_CV).sum(-1)
                # around the mean: as a difference of squares a peaked distribution would lose all its digits
                var_C = (p_CV * (finite_CV - mean_C[:, None]) ** 2).sum(-1)
                numbers.append(torch.stack([logp_CV.gather(1, target_C[:, None])[:, 0], mean_C, var_C.sqrt()]).cpu())
            for index, numbers_3T in zip(rows.indices, torch.cat(numbers, 1).split(rows.lengths, 1), strict=True):
                found[index] = (numbers_3T[0], numbers_3T[1], numbers_3T[2])
    return found


def _check_lengths(policy: Policy, pairs: Sequence[Pair]) -> None:
    limit = max_positions(models_of(policy))
    for i, (prompt, continuation) in enumerate(pairs):
        if limit is not None and len(prompt) + len(continuation) > limit + 1:
            raise UserError(f"pair {i} has {len(prompt)} + {len(continuation)} tokens, the model has {limit} positions: shorten it")


# ------------------------------------------------------------------------------------------------------------------ divergence from a reference


def kls_of(policy: Policy, reference: nn.Module | Policy | None, pairs: Sequence[Pair], *, batch_tokens: int = 2048) -> list[Tensor]:
    """For each pair KL(policy || reference) over the whole vocabulary at every continuation token, float64, on the CPU.

    Raises:
        UserError: no handle to switch off where there is no reference, or different vocabularies.
    """
    if reference is None and policy.handle is None:
        raise UserError("there is no reference to take the divergence from: pass a model, or a policy whose handle can be switched off")
    _check_lengths(policy, pairs)
    if isinstance(reference, Policy):
        other = _Side(reference)
    else:
        handle: Any = policy.handle
        other = _Side(Policy(policy.model, policy.tokenizer), handle.off if reference is None else partial(nullcontext, reference))
    found = [torch.empty(0, dtype=torch.float64) for _ in pairs]
    extra = [reference] if isinstance(reference, nn.Module) else list(models_of(reference).values()) if reference is not None else []
    with evaluating(*models_of(policy).values(), *extra):
        for rows, chunks in _scored([_Side(policy), other], pairs, batch_tokens, None):
            kl = []
            for (ours_CV, theirs_CV), _ in chunks:
                if ours_CV.shape != theirs_CV.shape:
                    raise UserError(
                        f"the policy has {ours_CV.shape[1]} tokens in its vocabulary, the reference {theirs_CV.shape[1]}: they must be the same"
                    )
                # 0 * log(0 / q) is 0: a decode may forbid tokens
                kl.append(torch.where(ours_CV.isneginf(), 0.0, ours_CV.exp() * (ours_CV - theirs_CV)).sum(-1).double().cpu())
            for index, kl_T in zip(rows.indices, torch.cat(kl).split(rows.lengths), strict=True):
                found[index] = kl_T
    return found


def kl_from(
    policy: Policy, reference: nn.Module | Policy | None, texts: Sequence[str | Sequence[int]], *, batch_tokens: int = 2048, level: float = 0.95
) -> dict[str, float]:
    """KL(policy || reference) per token, over the whole vocabulary, on held texts: no sampling, no truncation.

    Every token of a text but the first counts. The mean is the ratio (sum of KL) / (sum of tokens); its interval is a t interval over texts, from
    the linearised ratio (Cochran 1977, section 6.3), since tokens of one text are not independent.

    Args:
        reference: a model or policy with the same vocabulary; None takes the policy's own model with its handle switched off.
        texts: strings, or token ids.
    Returns:
        {"kl_per_token", "low", "high": nats; "tokens": number of scored positions}
    Raises:
        UserError: fewer than two texts with two tokens or more, no handle to switch off, or different vocabularies.
    """
    from scipy import stats

    ids = [list(policy.tokenizer(text)["input_ids"]) if isinstance(text, str) else list(text) for text in texts]
    pairs = [(row[:1], row[1:]) for row in ids if len(row) > 1]
    if len(pairs) < 2:
        raise UserError(f"{len(pairs)} texts of two tokens or more: at least two are needed for an interval")
    found = kls_of(policy, reference, pairs, batch_tokens=batch_tokens)
    sums, counts = [float(kl_T.sum()) for kl_T in found], [len(kl_T) for kl_T in found]
    tokens, size = sum(counts), len(pairs)
    ratio = sum(sums) / tokens
    spread = sum((s - ratio * n) ** 2 for s, n in zip(sums, counts, strict=True)) / (size - 1)
    half = float(stats.t.ppf(0.5 + level / 2, size - 1)) * (spread / size) ** 0.5 / (tokens / size)
    return {"kl_per_token": ratio, "low": max(0.0, ratio - half), "high": ratio + half, "tokens": tokens}


# ------------------------------------------------------------------------------------------------------------------------------ running probes


def measure(
    policy: Policy, probes: Sequence[Probe], *, say: Callable[[str], None] | None = None, progress: Callable[[str, int, int], None] | None = None
) -> Scores:
    """Runs every probe on the policy, in eval mode and without gradient; modes are put back after.

    A probe may offer `derived(scores)`: further scores that cost nothing more to have, such as the calibration of a multiple-choice probe.

    Args:
        say: told one line per finished probe: the score, its headroom, the seconds.
        progress: called as (probe name, probes finished, all probes) before each probe and at the end.
    Raises:
        UserError: two probes share a name.
    """
    names = [probe.name for probe in probes]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two probes are called '{name}': give one of them another name")
    start, found = time.perf_counter(), []
    with evaluating(*models_of(policy).values()), remembering(policy):
        ask_together(policy, probes, progress)
        for i, probe in enumerate(probes):
            if progress is not None:
                progress(probe.name, i, len(probes))
            began = time.perf_counter()
            scores = probe(policy)
            derived = getattr(probe, "derived", lambda _: ())(scores)
            found += [scores, *derived]
            if say is not None:
                say(f"{headroom(scores)}  ({time.perf_counter() - began:.1f} s)")
                for more in derived:
                    say(headroom(more))
    if progress is not None:
        progress("", len(probes), len(probes))
    return Scores(policy.name, tuple(found), time.perf_counter() - start, peak_memory_gib())


def headroom(scores: ProbeScores) -> str:
    """One line: the probe's mean and, for binary probes, how far it can still fall and rise."""
    value = mean([item.score for item in scores.items])
    line = f"{scores.probe:<24} {scores.metric} {value:.3f} over {len(scores.items)} items"
    if scores.kind != "binary":
        return line
    line += f", room to lose {value:.2f} and to gain {1 - value:.2f}"
    if value > 0.85:
        line += ": too near the ceiling to show a gain"
    elif value < 0.15 and scores.side == "keep":
        line += ": too near the floor to show a loss"
    return line


def peak_memory_gib() -> float:
    """Peak memory of this process since it started, and of the GPU where there is one: the larger."""
    # kilobytes on Linux, bytes on macOS
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if torch.cuda.is_available():
        peak = max(peak, torch.cuda.max_memory_allocated())
    return peak / 2**30


def keep_battery(policy: Policy | None = None, *, quick: bool = False, shared: str | Path | None = None) -> tuple[Probe, ...]:
    """What a model should still be able to do after training; see `tempering.keep` for the lists and measured base scores.

    Args:
        policy: chooses the battery: world probes for `builtin:tiny`, the general one for all others.
        quick: a third of the items.
        shared: folder with real data slices, measured as well; default: the environment variable TEMPERING_SHARED, or none.
    """
    from tempering.keep import battery

    return battery(policy, quick=quick, shared=shared)
