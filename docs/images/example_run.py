"""A made-up run folder that looks like a real one: for the picture in the README, for looking at the report while working on it, and for its tests.

The numbers are drawn, the texts are written for this purpose, the ledger and its gates are worked out by the real code.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tempering import gates
from tempering.ledger import compare
from tempering.types import ItemScore, ProbeScores, Scores

HASHES = {
    "train": "9c1f6a0b3d5e88a27f41c6d2e0b9a4538d7c1e6f20a3b4c5d6e7f8091a2b3c4d",
    "test": "2e7d4b19c8f05a6371e2d3c4b5a69788f90112233445566778899aabbccddeef",
    "weights": "5b8e0c1d2f3a49687a9b8c7d6e5f40312a1b0c9d8e7f6051423324150617f8e9",
}
Problem = Callable[[int], tuple[str, int, tuple[int, int, int]]]
PEOPLE = ("Mara", "Jonas", "Ines", "Tomasz", "Aiko", "Rafael", "Lena", "Samir")
THINGS = ("apples", "stamps", "marbles", "pencils", "postcards", "buttons")


def word_problem(i: int) -> tuple[str, int, tuple[int, int, int]]:
    rng = random.Random(i)
    a, b, c = rng.randint(12, 60), rng.randint(5, 30), rng.randint(2, 11)
    who, other, what = rng.choice(PEOPLE), rng.choice(PEOPLE), rng.choice(THINGS)
    return f"{who} has {a} {what}. {other} brings {b} more, and {c} are lost on the way. How many {what} are there now?", a + b - c, (a, b, c)


def scores(seed: int, after: bool) -> Scores:
    """Item-level scores: a target that is learned, a keep side that mostly stays, and one keep probe that suffers."""
    probes = [
        _binary("word problems", "target", 200, 0.18, (0.42, 0.05), after, seed, word_problem),
        _loss("held-out loss", "target", 120, 2.31, -0.42, after, seed),
        _binary("general questions", "keep", 160, 0.46, (0.05, 0.04), after, seed),
        _binary("instruction format", "keep", 120, 0.39, (0.02, 0.19), after, seed),
        _binary("refusals", "keep", 80, 0.61, (0.03, 0.03), after, seed),
        _loss("plain text", "keep", 150, 3.12, 0.012, after, seed),
    ]
    return Scores("smollm2-135m + LoRA" if after else "builtin:smollm2-135m", tuple(probes), seconds=58.0, peak_memory_gib=2.4)


def _binary(
    name: str, side: str, n: int, base: float, flips: tuple[float, float], after: bool, seed: int, problem: Problem | None = None
) -> ProbeScores:
    items = []
    for i in range(n):
        rng = random.Random(f"{seed} {name} {i}")
        right, win, lose = rng.random() < base, rng.random() < flips[0], rng.random() < flips[1]
        now = (right and not lose) or (not right and win) if after else right
        if problem is None:
            prompt, expected, wrong = f"{name.capitalize()}, item {i}: which of the four answers is right?", "ABCD"[i % 4], "ABCD"[(i + 1) % 4]
            output = f"The answer is {expected if now else wrong}." if after else (expected if now else wrong)
        else:
            prompt, answer, (a, b, c) = problem(i)
            expected = str(answer)
            total = answer if now else answer + rng.choice((-10, -1, 1, c))
            output = f"{a} + {b} = {a + b}. {a + b} - {c} = {total}. The answer is {total}." if after else f"There are {total} in all."
        items.append(ItemScore(f"{name.split()[0]}-{i:03d}", float(now), prompt, output, expected))
    return ProbeScores(name, "accuracy", "binary", True, tuple(items), side)  # pyright: ignore[reportArgumentType]


def _loss(name: str, side: str, n: int, base: float, shift: float, after: bool, seed: int) -> ProbeScores:
    items = []
    for i in range(n):
        rng = random.Random(f"{seed} {name} {i}")
        nll, change = rng.gauss(base, 0.5), rng.gauss(shift, 0.09)
        items.append(ItemScore(f"{name.split()[0]}-{i:03d}", nll + change * after, f"{name}, paragraph {i}"))
    perplexity = math.exp(sum(item.score for item in items) / n)
    return ProbeScores(name, "nll per token", "continuous", False, tuple(items), side, {"perplexity": perplexity})  # pyright: ignore[reportArgumentType]


def metrics(seed: int, steps: int = 180) -> list[dict[str, float | int | None]]:
    rng, rows = random.Random(seed), []
    for i in range(1, steps + 1):
        x = i / steps
        level = 1.02 + 1.3 * math.exp(-5 * x) - 0.12 * x
        rows.append({
            "step": i, "loss": level + rng.gauss(0, 0.07), "lr": 2e-4 * min(1.0, i / 6) * (1 - x * 0.98), "grad_norm": 0.35 + 0.5 * math.exp(-8 * x)
            + abs(rng.gauss(0, 0.06)), "tokens": 1850 * i, "tokens_per_s": rng.gauss(905, 25) if i > 1 else 310.0,
        })  # fmt: skip
        if i % 20 == 0:
            rows[-1]["eval.loss"] = level + 0.05 + 0.16 * max(0.0, x - 0.6) + rng.gauss(0, 0.004)
    return rows


def samples(count: int = 7) -> list[dict[str, str]]:
    found = []
    for i in range(1000, 1000 + count):
        prompt, answer, (a, b, c) = word_problem(i)
        before = f"The answer is {a + b}." if i % 2 else f"{a} + {b} = {a + b}, so there are {a + b} in all. The answer is {a + b}."
        after = f"{a} + {b} = {a + b}. {a + b} - {c} = {answer}. The answer is {answer}."
        found.append({"prompt": prompt, "before": before, "after": after, "expected": str(answer)})
    return found


def write(folder: Path, seed: int = 4) -> Path:
    """Writes the run folder and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    command = "temper run sft --data word_problems.jsonl --scope lora --budget.gate 'keep >= 0.9' --budget.gate 'gain >= 0.1'"
    config = {
        "recipe": "sft",
        "values": {
            "model": "builtin:smollm2-135m", "data": "word_problems.jsonl", "shape": "auto", "train_on": "assistant", "max_length": 1024,
            "scope": {"kind": "lora", "r": 16, "alpha": 32.0}, "optimizer": {"name": "adamw", "lr": 2e-4},
            "training": {"batch_size": 16, "clip": 1.0}, "budget": {"gate": ["keep >= 0.9", "gain >= 0.1"]}, "seed": 0,
        },
    }  # fmt: skip
    lock = {
        "data": {
            "train": {"source": "word_problems.jsonl", "sha256": HASHES["train"], "rows": 2880},
            "test": {"sha256": HASHES["test"], "rows": 200},
        },
        "versions": {"tempering": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.0"},
        "machine": {"platform": "Linux", "python": "3.11.2", "cpus": 2, "threads": 2},
        "git": "3f9c2d71a0be",
        "model": {"source": "builtin:smollm2-135m", "parameters": 134515008, "sha256": HASHES["weights"]},
    }
    cost, kl = {"tokens": 333_000.0, "seconds": 372.0, "peak_memory_gib": 3.1}, {"kl_per_token": 0.118, "low": 0.101, "high": 0.137, "tokens": 9200.0}
    ledger = compare(scores(seed, False), scores(seed, True), cost=cost, kl=kl)
    ledger = replace(ledger, gates=tuple(gates.check(ledger, ["keep >= 0.9", "gain >= 0.1"])))
    status = {
        "state": "done",
        "message": ledger.sentence(),
        "started": "2026-11-21T09:14:05+00:00",
        "ended": "2026-11-21T09:22:31+00:00",
        "command": command,
    }
    for name, value in (("config", config), ("lock", lock), ("samples", samples()), ("status", status)):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=1), encoding="utf-8")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics(seed)), encoding="utf-8")
    ledger.write(folder / "ledger.json")
    return folder
