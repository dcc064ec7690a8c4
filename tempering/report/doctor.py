"""The curve doctor: what a training curve means, in plain words, and what to do about it.

People lose days to curves that say clearly what is wrong to whoever has seen them before: a loss of exactly zero is not a perfect model but an empty
mask, both log-probs sinking in DPO is not a failing run but its known side effect. Each rule here looks for one such shape, names the numbers it saw
and gives the mend. A rule compares medians of windows and asks for more than the curve's own noise, because a doctor who finds something in every
healthy patient is not asked again: tests hold every rule against curves that must stay silent.

Pure Python over the rows of `metrics.jsonl`; nothing is imported that a command line would have to wait for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from tempering.report import curves
from tempering.report.curves import Curve, say

Severity = Literal["error", "warning", "note"]
_ORDER: tuple[Severity, ...] = ("error", "warning", "note")

ZERO = 1e-8
"""A cross-entropy below this is no loss at all: float32 cannot even represent 1 minus a probability that close to 1."""
LOW_START = 0.15
"""Nats per token. 0.15 means 86% on every single token before any training; untouched models start between 1 and 4 on text they have not seen."""


@dataclass(frozen=True)
class Finding:
    """One thing a curve says. `code` is stable, for programs; `sentence` has the numbers, `mend` what to do, `step` where to look (if anywhere)."""

    code: str
    severity: Severity
    sentence: str
    mend: str
    step: int | None = None


def diagnose(metrics: Sequence[Mapping[str, Any]], *, clip: float | None = None) -> list[Finding]:
    """What the curves of one training stage mean, worst first; an empty list for a healthy run.

    Args:
        metrics: rows of `metrics.jsonl`: {"step": 10, "loss": 1.2, "lr": 1e-4, "grad_norm": 0.7, "eval.loss": 1.1, "tokens_per_s": 800.0,
            "chosen_logp": ..., "rejected_logp": ..., "margin": ..., "accuracy": ...}, all but some optional. Losses in nats.
        clip: the largest gradient norm the run allowed (`training.clip`), if known.
    """
    patient = _Patient(metrics, clip)
    findings = [finding for rule in _RULES for finding in rule(patient)]
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


class _Patient:
    def __init__(self, metrics: Sequence[Mapping[str, Any]], clip: float | None) -> None:
        self.metrics = metrics
        self.clip = clip
        found = curves.names(metrics)
        self.preference = "margin" in found or "chosen_logp" in found
        # A policy-gradient loss is zero in the mean while on policy and falls for no good reason: its level says nothing.
        self.rewarded = any(name in found for name in ("reward", "advantage", "return"))
        self.loss = self.finite("loss")

    def finite(self, name: str) -> Curve:
        return curves.curve(self.metrics, name).finite

    def at(self, name: str, step: int) -> float | None:
        """The last value written of a metric up to a step."""
        seen = [value for at, value in zip(*_points(self.finite(name)), strict=True) if at <= step]
        return seen[-1] if seen else None


def _points(curve: Curve) -> tuple[tuple[int, ...], tuple[float, ...]]:
    return curve.steps, curve.values


def _lr(patient: _Patient) -> str:
    rates = patient.finite("lr")
    return f" (the learning rate peaked at {say(max(rates.values))})" if len(rates) else ""


# ------------------------------------------------------------------------------------------------------------------------------ numbers that stop


def _not_finite(patient: _Patient) -> Iterator[Finding]:
    watched = ("loss", "grad_norm", "nll", "margin", "chosen_logp", "rejected_logp", "eval.loss")
    broken = {name: curve for name in watched if len(curve := curves.curve(patient.metrics, name)) != len(curve.finite)}
    if not broken:
        return
    bad = {name: [step for step, value in zip(*_points(curve), strict=True) if not math.isfinite(value)] for name, curve in broken.items()}
    name = min(bad, key=lambda candidate: (bad[candidate][0], watched.index(candidate)))
    step, count, total = bad[name][0], len(bad[name]), len(broken[name])
    sentence = f"{name} stops being a number at step {step} ({count} of {total} points)."
    norms = patient.finite("grad_norm")
    before = [value for at, value in zip(*_points(norms), strict=True) if at < step]
    calm = median(before) if before else 0.0
    if set(bad) == {"eval.loss"}:
        mend = "Training is fine; the test rows have no scored token, or one of them overflows. Run `temper check` on the test file."
    elif step <= curves.curve(patient.metrics, name).steps[0]:
        sentence += " It is so from the first point on, before anything was learned."
        mend = "Look for NaN in the weights as loaded and in numeric columns of the data, and run once with precision fp32."
    elif len(before) >= 3 and calm > 0 and before[-1] > 5 * calm:
        sentence += f" Just before, the gradient norm grew from its usual {say(calm)} to {say(before[-1])}{_lr(patient)}."
        mend = "The steps are too large: divide the learning rate by 3 to 10, lengthen the warm-up, and keep the gradient clipped."
    elif name == "grad_norm":
        sentence += " The loss was still finite, so it broke in the backward pass."
        mend = "Run with precision fp32 to see whether it is an overflow; if so keep bf16 and lower the learning rate."
    else:
        rate = patient.at("lr", step)
        sentence += " Nothing announced it" + (f", at learning rate {say(rate)}." if rate is not None else ".")
        mend = f"Look at the rows of step {step} (very long, or empty after masking), and run that stretch with precision fp32."
    yield Finding("not_finite", "error", sentence, mend, step)


def _nothing_trained(patient: _Patient) -> Iterator[Finding]:
    loss, norms = patient.loss, patient.finite("grad_norm")
    still = len(norms) >= 2 and not any(norms.values)
    if len(loss) and not patient.rewarded and all(abs(value) < ZERO for value in loss.values[:5]) and (still or not len(norms)):
        yield Finding(
            "loss_zero",
            "error",
            f"The loss is exactly zero from step {loss.steps[0]} on: no token is scored, so nothing is trained.",
            "The loss mask is empty. Run `temper check` with this data and model: it shows which tokens are trained. Usual causes are a template "
            "whose assistant turns are not found and a length limit that cuts the answers off.",
            loss.steps[0],
        )
    elif still:
        yield Finding(
            "no_gradient",
            "error",
            f"The gradient norm is exactly zero at all {len(norms)} points, although there is a loss: no trainable weight takes part in it.",
            "Check that the scope names layers this model has, and that nothing is frozen or detached on the way to the loss.",
            norms.steps[0],
        )


# ----------------------------------------------------------------------------------------------------------------------------- shapes of the loss


def _flat(patient: _Patient) -> Iterator[Finding]:
    loss = patient.loss
    if patient.rewarded or len(loss) < 10 or abs(loss.start) < 0.05:
        return
    levels = loss.rolling()
    still = abs(loss.end - loss.start) < 0.01 * abs(loss.start) and max(levels) - min(levels) < max(0.02 * abs(loss.start), loss.wobble)
    if not still or any(finding.code == "no_gradient" for finding in _nothing_trained(patient)):
        return
    where = (
        " That is log 2, where a pair is not told apart: with a reference, the policy has not left it."
        if patient.preference and abs(loss.end - math.log(2)) < 0.01
        else ""
    )
    rates = patient.finite("lr")
    if len(rates) and max(rates.values) == 0:
        mend = "The learning rate is 0 at every point: set it, and check the schedule."
    else:
        mend = f"Raise the learning rate three- to tenfold{_lr(patient)}, or let more train: a larger rank, or scope full."
    sentence = f"The loss does not move: {loss.start:.3f} at the start, {loss.end:.3f} after {loss.steps[-1]} steps.{where}"
    yield Finding("loss_flat", "warning", sentence, mend)


def _rising(patient: _Patient) -> Iterator[Finding]:
    loss = patient.loss
    if patient.rewarded or len(loss) < 9:
        return
    levels = loss.rolling()
    best = min(range(len(levels)), key=levels.__getitem__)
    middle = loss.steps[best + loss.window // 2]
    mend = f"Divide the learning rate by 3 to 10{_lr(patient)}, or lengthen the warm-up"
    if loss.end - loss.start > max(0.05 * abs(loss.start), loss.wobble):
        sentence = f"The loss rises instead of falling: {say(loss.start)} at the start, {say(loss.end)} at the end (step {loss.steps[-1]})."
        yield Finding("loss_rising", "error", sentence, mend + "; if it rises even then, the labels or the sign of the loss are wrong.", middle)
    elif loss.end - levels[best] > max(0.1 * abs(levels[best]), loss.wobble):
        sentence = f"The loss turned: it fell to {say(levels[best])} around step {middle}, then rose to {say(loss.end)}."
        yield Finding("loss_rising", "warning", sentence, mend + f"; checkpoints near step {middle} are better than the last.", middle)


def _spikes(patient: _Patient) -> Iterator[Finding]:
    loss, reach = patient.loss, 4
    if patient.rewarded or len(loss) < 12:
        return
    around = [median(loss.values[max(0, i - reach) : i] + loss.values[i + 1 : i + 1 + reach]) for i in range(len(loss))]
    away = [value - level for value, level in zip(loss.values, around, strict=True)]
    noise = 1.4826 * median(abs(distance) for distance in away)
    # The first window is left out: a steep healthy start looks like a spike from the right.
    found = [i for i in range(reach, len(loss)) if away[i] > max(10 * noise, 0.5 * abs(around[i]), 0.1)]
    if not found:
        return
    worst = max(found, key=away.__getitem__)
    # The norm of the very step: norms written between two points of the loss belong to other batches.
    norm = next((value for at, value in zip(*_points(patient.finite("grad_norm")), strict=True) if at == loss.steps[worst]), None)
    times = "once" if len(found) == 1 else f"{len(found)} times"
    sentence = f"The loss spikes {times}; the highest is {say(loss.values[worst])} at step {loss.steps[worst]}, where {say(around[worst])} was usual"
    sentence += f" (gradient norm {say(norm)})." if norm is not None else "."
    mend = f"Look at the rows of step {loss.steps[worst]}: a very short answer, broken text or another language."
    if len(found) > 1:
        mend += " If they are sound, use a larger batch or a lower learning rate."
    yield Finding("loss_spikes", "note" if len(found) < 3 else "warning", sentence, mend, loss.steps[worst])


def _low_start(patient: _Patient) -> Iterator[Finding]:
    loss = patient.loss
    if patient.preference or patient.rewarded or not len(loss):
        return
    first = median(loss.values[:3])
    if ZERO <= first < LOW_START:
        share = math.exp(-first)
        sentence = f"The loss starts at {first:.3f} nats a token: the model already gives each trained token {share:.0%} before it learned anything."
        mend = (
            "Check that the answer is not in the prompt, that the data was not trained on before, and that the mask scores more than template "
            "tokens: `temper check` shows all three."
        )
        yield Finding("low_start", "warning", sentence, mend, loss.steps[0])


def _overfitting(patient: _Patient) -> Iterator[Finding]:
    held, loss = patient.finite("eval.loss"), patient.loss
    if len(held) < 3 or len(loss) < 2:
        return
    best = min(range(len(held)), key=held.values.__getitem__)
    after = held.values[best + 1 :]
    lowest, last, step = held.values[best], held.values[-1], held.steps[best]
    if len(after) < 2 or last < lowest + 0.02 * abs(lowest):
        return
    # The lowest of many noisy evaluations is low by luck: with enough of them, levels are compared instead of points.
    if len(held) >= 9 and held.end - min(held.rolling()) < max(0.02 * abs(lowest), held.wobble):
        return
    then = [value for at, value in zip(*_points(loss), strict=True) if at <= step][-3:] or list(loss.values[:1])
    now = median(loss.values[-3:])
    if now < median(then):
        sentence = (
            f"The model overfits from step {step} on: test loss was lowest there ({lowest:.3f}) and is {last:.3f} at the end, "
            f"while training loss went on falling from {median(then):.3f} to {now:.3f}."
        )
        mend = f"Keep the weights of step {step} (training.keep_best does), and train shorter, on more data, or with a smaller rank."
        yield Finding("overfitting", "warning", sentence, mend, step)


# ------------------------------------------------------------------------------------------------------------------------------------ preferences


def _both_falling(patient: _Patient) -> Iterator[Finding]:
    # Rewards are log-probs against the reference times beta: other prompts in every batch do not shake them, so they are the better witness.
    rewards = patient.finite("chosen_reward"), patient.finite("rejected_reward")
    known = min(len(rewards[0]), len(rewards[1])) >= 6
    chosen, rejected = rewards if known else (patient.finite("chosen_logp"), patient.finite("rejected_logp"))
    if min(len(chosen), len(rejected)) < 6:
        return
    scale = abs(rejected.end - chosen.end) if known else abs(chosen.start)
    drops = [curve.start - curve.end for curve in (chosen, rejected)]
    if all(drop > max(0.03 * scale, 0.01, curve.wobble) for drop, curve in zip(drops, (chosen, rejected), strict=True)):
        what = " against the reference (times beta)" if known else ""
        grows = " The margin grows only because the rejected ones fall faster." if drops[1] > drops[0] else ""
        sentence = (
            f"Both log-probs fall{what}: chosen from {say(chosen.start)} to {say(chosen.end)}, rejected from {say(rejected.start)} "
            f"to {say(rejected.end)}.{grows} The model finds the answers you chose less likely than before; what they lost went to answers "
            "in neither column."
        )
        mend = (
            "Usual for DPO on pairs that are much alike. Read the samples; if they got worse, add the NLL of the chosen answer to the loss, "
            "raise beta, lower the learning rate, or fine-tune on the chosen answers first."
        )
        yield Finding("both_logps_falling", "warning", sentence, mend)


def _saturated(patient: _Patient) -> Iterator[Finding]:
    accuracy = patient.finite("accuracy")
    if not patient.preference or len(accuracy) < 8:
        return
    early = len(accuracy) // 5
    if min(accuracy.values[early:]) >= 0.995:
        margins = patient.finite("margin")
        reached = f", with a margin of {say(margins.end)}" if len(margins) else ""
        sentence = f"The pairs are told apart perfectly from step {accuracy.steps[early]} on (accuracy {min(accuracy.values[early:]):.1%}){reached}."
        mend = (
            "Nothing is left to learn, or a give-away is: chosen and rejected may differ by length, format or a fixed phrase. Compare them with "
            "`temper check`; then train shorter, or on harder pairs."
        )
        yield Finding("margin_saturated", "warning", sentence, mend, accuracy.steps[early])


# ------------------------------------------------------------------------------------------------------------------------------------- rollouts


def _rollouts(patient: _Patient) -> Iterator[Finding]:
    """What a policy's own conversations say; silent where none were sampled."""
    reward, silent, entropy, length = (patient.finite(name) for name in ("reward", "silent_groups", "entropy", "length"))
    if min(len(reward), len(silent)) < 9:
        return
    gained = reward.end - reward.start
    moved = max(reward.wobble, 1e-9)
    if gained < -moved:
        sentence = f"The reward falls: {say(reward.start)} at the start, {say(reward.end)} at the end (step {reward.steps[-1]})."
        mend = f"Divide the learning rate by 3 to 10{_lr(patient)}, or take more conversations a step; then look whether the reward's sign is right."
        yield Finding("reward_falling", "error", sentence, mend)
    if silent.end > 0.8:
        done = gained > moved
        sentence = f"{silent.end:.0%} of the groups earn the same in every conversation (reward {say(reward.end)}), so they teach nothing."
        mend = (
            "The tasks are learned: stop, or take harder ones."
            if done
            else "Take tasks that succeed sometimes: easier, or harder, ones; more samples."
        )
        yield Finding(
            "groups_silent", "note" if done else "warning", sentence, f"{mend} --rollouts.dynamic replaces such groups at the price of sampling."
        )
    if len(entropy) >= 9 and entropy.end < 0.2 * entropy.start and gained <= moved:
        sentence = (
            f"The policy stopped to explore: entropy fell from {say(entropy.start)} to {say(entropy.end)} nats a token, and the reward did not rise."
        )
        mend = "Lower the learning rate, hold it to the reference (--algorithm.kl), or clip less upwards (--clip-high)."
        yield Finding("entropy_collapsed", "warning", sentence, mend)
    if len(length) >= 9 and length.end > 1.5 * length.start and length.end - length.start > length.wobble and gained <= moved:
        sentence = f"Answers grow without being better: {say(length.start)} tokens at the start, {say(length.end)} at the end."
        yield Finding(
            "length_drifts", "warning", sentence, "Take --algorithm dr_grpo or dapo, whose losses do not pay for length, or price it (--overlong)."
        )
    for name, bound, what, mend in _BOUNDS:
        found = patient.finite(name)
        if len(found) >= 9 and found.end > bound:
            yield Finding(f"{name}_high", "warning", what.format(say(found.end) if name == "mismatch" else f"{found.end:.0%}"), mend)


_BOUNDS = (
    (
        "unfinished",
        0.25,
        "{} of the answers end by their budget of tokens, not by themselves.",
        "Raise --max-new-tokens, or price length (--overlong).",
    ),
    (
        "ratio_far",
        0.05,
        "{} of the tokens moved by a factor of two or more before they were learned from.",
        "Fewer --updates and --epochs, or a lower --lr.",
    ),
    (
        "mismatch",
        0.05,
        "Sampler and trainer differ by {} nats a token.",
        "Keep --rollouts.old trainer, and --training.precision fp32 where it is fast enough.",
    ),
)
"""Metric, what is too much of it, the sentence, the mend."""


# ---------------------------------------------------------------------------------------------------------------------------------- how it moves


def _clipped(patient: _Patient) -> Iterator[Finding]:
    norms = patient.finite("grad_norm")
    if patient.clip is None or len(norms) < 10:
        return
    # A norm that was written after clipping sits on the bound instead of above it.
    over = sum(value >= patient.clip * (1 - 1e-6) for value in norms.values)
    usual = median(norms.values)
    if over >= 0.95 * len(norms) and (usual > 2 * patient.clip or usual <= patient.clip * (1 + 1e-6)):
        severity: Severity = "warning" if usual > 10 * patient.clip else "note"
        sentence = f"The gradient is clipped at {over} of {len(norms)} points: its norm is usually {say(usual)}, the bound {say(patient.clip)}."
        mend = (
            f"Every step has the same length, so the bound acts as a learning rate: set clip near {say(2 * usual)}, "
            "or keep it and read the learning rate accordingly."
        )
        yield Finding("always_clipped", severity, sentence, mend)


def _slowing(patient: _Patient) -> Iterator[Finding]:
    speed = patient.finite("tokens_per_s")
    if len(speed) < 9:
        return
    third = len(speed) // 3
    # The first point pays for warming up: caches, compilation, the first read of the data.
    early, late = median(speed.values[1 : 1 + third]), median(speed.values[-third:])
    if late < 0.5 * early:
        turn = next(step for step, value in zip(*_points(speed), strict=True) if value < 0.7 * early and step > speed.steps[1])
        sentence = f"The run got slower: {say(early)} tokens a second at first, {say(late)} at the end; it begins near step {turn}."
        mend = "Look for another process on the machine, memory that swaps (`temper doctor`), a hot processor, or rows that get longer."
        yield Finding("slowing_down", "warning", sentence, mend, turn)


_RULES: tuple[Callable[[_Patient], Iterator[Finding]], ...] = (
    _not_finite, _nothing_trained, _rising, _overfitting, _flat, _low_start, _both_falling, _saturated, _rollouts, _spikes, _clipped,
    _slowing,
)  # fmt: skip
