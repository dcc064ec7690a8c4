"""How time and memory grow: with the length of a sequence, and with the size of the vocabulary.

A Llama of SmolLM2's widths with few layers and random weights trains on random tokens. Along the first axis a step has 4,096 tokens, cut into
sequences of 256 to 4,096; the linear layers' time per token should not change, and attention's share is stated. Along the second the vocabulary grows
from 8 thousand to 131 thousand; what a step needs beyond the weights and their states should not change. The plain loop's memory, with its whole
logits of a micro-batch, stands beside it.

    python -m benchmarks.growth vocabulary    # one axis
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import children, harness, precision
from benchmarks.harness import Target
from benchmarks.machine import describe

TOKENS, LAYERS, STEPS, SCORED, ROUNDS = 4096, 6, 3, 0.5, 3
LENGTHS = (256, 1024, 4096)
VOCABULARIES = (8192, 32768, 131072)
LINEAR_WITHIN, MEMORY_WITHIN = 0.10, 0.10


def train(length: int, vocabulary: int, seed: int, tokens: int = TOKENS, steps: int = STEPS) -> dict[str, Any]:
    """In a child: our engine for a few steps on random sequences, with the memory that is not the weights'."""
    return _run(length, vocabulary, seed, tokens, steps, profile=False)


def profile(length: int, vocabulary: int, seed: int, tokens: int = TOKENS, steps: int = STEPS) -> dict[str, Any]:
    """In a child: the same under the profiler, with processor seconds by group over all steps but the first."""
    return _run(length, vocabulary, seed, tokens, steps, profile=True)


def _model(vocabulary: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3, "num_hidden_layers": LAYERS}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=vocabulary, max_position_embeddings=8192, tie_word_embeddings=True))


def _rows(length: int, vocabulary: int, seed: int, tokens: int) -> list[tuple[Any, Any]]:
    """(ids, mask) of random sequences; the second half of each is scored."""
    import numpy as np

    rng = np.random.default_rng(seed)
    mask = (np.arange(length) >= length * (1 - SCORED)).astype(np.float32)
    return [(rng.integers(0, vocabulary, length, dtype=np.int32), mask) for _ in range(tokens // length)]


def _run(length: int, vocabulary: int, seed: int, tokens: int, steps: int, profile: bool) -> dict[str, Any]:
    from benchmarks import ours
    from benchmarks.child import Meter

    meter = Meter()
    import torch
    import transformers  # noqa: F401

    from benchmarks.profile_step import seconds_by_group

    meter.imported()
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) if profile else None
    model = _model(vocabulary)
    rows = _rows(length, vocabulary, seed, tokens)

    def on_step(step: int) -> None:
        if profiler is not None and step == 1:
            profiler.start()
        elif profiler is not None and step == steps:
            profiler.stop()

    ours.train_on(model, rows, steps, micro_tokens=tokens, meter=meter, seed=seed, on_step=on_step)
    states = 4 * 4 * sum(p.numel() for p in model.parameters())
    report = meter.report(tokens=[tokens] * steps, states_bytes=states)
    if profiler is not None:
        report["groups"] = seconds_by_group(profiler.events(), vocabulary)
    return report


def plain(length: int, vocabulary: int, seed: int, tokens: int = TOKENS, steps: int = STEPS) -> dict[str, Any]:
    """In a child: transformers' own loss on the same sequences, the logits of all tokens at once."""
    from benchmarks.child import Meter

    meter = Meter()
    import torch
    import transformers  # noqa: F401

    meter.imported()
    model = _model(vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    rows = _rows(length, vocabulary, seed, tokens)
    ids = torch.stack([torch.from_numpy(ids).long() for ids, _ in rows])
    labels = torch.where(torch.stack([torch.from_numpy(mask) for _, mask in rows]) > 0, ids, -100)
    meter.start()
    for _ in range(steps):
        with precision.autocast():
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        meter.step()
    return meter.report(tokens=[tokens] * steps, states_bytes=4 * 4 * sum(p.numel() for p in model.parameters()))


def beyond_weights(report: Mapping[str, Any]) -> float:
    """GiB at the peak above the imports and the weights with their gradients and two Adam states."""
    return (report["peak_bytes"] - report["imports_bytes"] - report["states_bytes"]) / 2**30


def linear_per_token(report: Mapping[str, Any]) -> float:
    """Microseconds of processor time that the blocks' linear layers take for a token."""
    return 1e6 * report["groups"]["linear"] / sum(report["tokens"][1:])


def attention_share(report: Mapping[str, Any]) -> float:
    """Attention's part of the processor time of a step."""
    return report["groups"].get("attention", 0.0) / sum(report["groups"].values())


def measure(
    *, rounds: int | None = None, quick: bool = False, say: Callable[[str], None] = print, axes: Sequence[str] = ("length", "vocabulary")
) -> list[dict[str, Any]]:
    """Along the axes; the shortest sequence and the smallest vocabulary are what the others are compared with."""
    rounds = rounds or (1 if quick else ROUNDS)
    lengths, vocabularies = ((256, 1024), (8192, 32768)) if quick else (LENGTHS, VOCABULARIES)
    size = {"tokens": 1024 if quick else TOKENS}
    command = f"python -m benchmarks growth --rounds {rounds}{precision.flag()}" + (" --quick" if quick else "")
    about = {"command": command, "machine": describe()}
    found = _lengths(lengths, rounds, size, about, say) if "length" in axes else []
    return found + (_vocabularies(vocabularies, rounds, size, about, say) if "vocabulary" in axes else [])


def _lengths(
    lengths: tuple[int, ...], rounds: int, size: Mapping[str, int], about: Mapping[str, Any], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Time and memory for each length of a sequence, against the shortest."""
    found: list[dict[str, Any]] = []
    profiles: dict[int, list[dict[str, Any]]] = {length: [] for length in lengths}
    bare: dict[int, list[dict[str, Any]]] = {length: [] for length in lengths}
    for seed in range(rounds):
        for length in lengths:
            arguments = {"length": length, "vocabulary": 49152, "seed": seed, **size}
            profiles[length].append(children.call("benchmarks.growth:profile", arguments))
            bare[length].append(children.call("benchmarks.growth:train", arguments))
            now = profiles[length][-1]
            say(f"round {seed + 1}: {length} tokens: linear {linear_per_token(now):.1f} us a token, attention {attention_share(now):.0%}")
    first = lengths[0]
    for length in lengths[1:]:
        base = f"ours at {first} tokens a sequence"
        linear = [linear_per_token(r) for r in profiles[length]], [linear_per_token(r) for r in profiles[first]]
        shares = {"attention_share": round(sum(map(attention_share, profiles[length])) / rounds, 4)}
        target = Target(least=1 - LINEAR_WITHIN, most=1 + LINEAR_WITHIN)
        phase = f"linear layers, {length} tokens a sequence"
        found.append(harness.row("growth", "speed", *linear, peer_name=base, unit="us/token", target=target, phase=phase, **shares, **about))
        steady = [harness.steady(r) for r in bare[length]], [harness.steady(r) for r in bare[first]]
        found.append(
            harness.row("growth", "speed", *steady, peer_name=base, unit="tokens/s", phase=f"whole step, {length} tokens", **shares, **about)
        )
        memory = [beyond_weights(r) for r in bare[length]], [beyond_weights(r) for r in bare[first]]
        found.append(harness.row("growth", "memory", *memory, peer_name=base, unit="GiB", phase=f"beyond weights, {length} tokens", **about))
    return found


def _vocabularies(
    vocabularies: tuple[int, ...], rounds: int, size: Mapping[str, int], about: Mapping[str, Any], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Memory beyond the weights for each vocabulary, ours against ours at the smallest, and against the plain loop at the same size."""
    ours: dict[int, list[float]] = {v: [] for v in vocabularies}
    theirs: dict[int, list[float]] = {v: [] for v in vocabularies}
    for seed in range(rounds):
        for vocabulary in vocabularies:
            arguments = {"length": 512, "vocabulary": vocabulary, "seed": seed, **size}
            ours[vocabulary].append(beyond_weights(children.call("benchmarks.growth:train", arguments)))
            theirs[vocabulary].append(beyond_weights(children.call("benchmarks.growth:plain", arguments)))
            say(f"round {seed + 1}: vocabulary {vocabulary}: {ours[vocabulary][-1]:.2f} GiB beyond the weights, plain {theirs[vocabulary][-1]:.2f}")
    first, found = vocabularies[0], []
    for vocabulary in vocabularies:
        phase, plain_name = f"beyond weights, vocabulary {vocabulary}", "plain loop, whole logits"
        found.append(harness.row("growth", "memory", ours[vocabulary], theirs[vocabulary], peer_name=plain_name, unit="GiB", phase=phase, **about))
        if vocabulary != first:
            base, flat = f"ours at a vocabulary of {first}", Target(most=1 + MEMORY_WITHIN)
            row = harness.row("growth", "memory", ours[vocabulary], ours[first], peer_name=base, unit="GiB", phase=phase, target=flat, **about)
            found.append(row)
    return found


def main() -> None:
    """Along one axis; what is stored of the other stays. Memory may be measured beside other work, time may not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=main.__doc__)
    parser.add_argument("axis", choices=("length", "vocabulary"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    rows = measure(rounds=args.rounds, axes=(args.axis,))
    harness.show(rows)
    name = precision.stem("growth")
    path = harness.RESULTS / f"{name}.json"
    before = json.loads(path.read_text()) if path.exists() else []
    about = (lambda row: "vocabulary" in row["phase"]) if args.axis == "vocabulary" else (lambda row: "vocabulary" not in row["phase"])
    print(harness.store(name, [*(row for row in before if not about(row)), *rows]))


if __name__ == "__main__":
    main()
