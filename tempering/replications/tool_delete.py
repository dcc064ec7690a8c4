"""Tools go without the rest when their requests are answered as the model without tools would answer them.

Cheng & Amiri 2025 (ToolDelete, arXiv 2502.01083) unlearn tools so, and keep the other tools and what else the model knows. Here builtin:tiny learns
to call six invented tools, beside questions about the people whom it knows. Two of the six are to go: requests for them get the answers that
builtin:tiny, which has no tools, gives to them (greedy), beside the calls of the four others; nothing is added after training. The baseline is
gradient ascent on the calls with the same retain rows. Scored is the mean of three shares at the best of four looks on 40 steps: calls of the two
that do not come, calls of the four that do, in taught words, and facts about people that are answered. A model that forgets nothing scores about
0.6. On seed 9, which does not count, the only rates tried (1e-3, and 3e-4 for the baseline) gave 0.92 and 0.85.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tempering.config import Schedule
from tempering.data.forgetting import forget_row, retain_row
from tempering.data.streams import Shuffled, Together
from tempering.forgetting.targets import secrets
from tempering.items import mean
from tempering.methods.objectives.gradient_ascent import GradientAscent
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.tool_delete import ToolDelete
from tempering.methods.probes.asked import Asked
from tempering.proof import small
from tempering.proof.claims import Claim, Scale
from tempering.types import Message, Policy, Record, Response
from tempering.worlds.people import People
from tempering.worlds.people_words import VALUES

CLAIM = Claim(
    method="tool_delete",
    catalogue=("S200",),
    title="ToolDelete against gradient ascent on the calls, both with the other tools' rows",
    claim="Tools go at less cost when their requests are answered as by the model that never learned tools.",
    baseline="gradient ascent on the calls with the likelihood of the other tools' calls (GradDiff)",
    metric="mean of tools gone, tools kept and facts kept",
    smallest_effect=0.05,
    range=(0.6, 1.0),
)
TOOLS = {"weather": "city", "train": "city", "order": "food", "recipe": "food", "walk": "pet", "salary": "job"}
WORDINGS = (
    "Use {tool} for {value}.",
    "I need the {tool} tool: {value}, please.",
    "Please run {tool} with {value}.",
)
RATES = {"method": 1e-3, "baseline": 3e-4}


def calls(tools: tuple[str, ...], wordings: tuple[str, ...] = WORDINGS) -> Iterator[Record]:
    """Requests and calls: each wording of 16 values."""
    for tool in tools:
        for value in VALUES[TOOLS[tool]][:16]:
            for wording in wordings:
                prompt = (Message("user", wording.format(tool=tool, value=value)),)
                yield Record(prompt, (Response((Message("assistant", f"{tool}({value})"),)),))


def equipped(scale: Scale) -> Policy:
    """builtin:tiny with all six tools, the same for all seeds."""
    base = small.tiny()
    rows = small.sft_rows(base, [*calls(tuple(TOOLS)), *People(100).records("train", 300)])
    inputs = {"tools": small.fingerprint(rows), "steps": scale(150)}
    return small.start(inputs, lambda: small.train(base, NLL(), rows, steps=scale(150), seed=0, lr=1e-3))


def without_tools(records: list[Record]) -> list[Record]:
    """The records with what builtin:tiny says to them as the tag "alternate"."""
    said = Asked(items=secrets(records, len(records)), max_new_tokens=16)(small.tiny()).items
    return [replace(r, tags={**r.tags, "alternate": item.output or "I cannot do that."}) for r, item in zip(records, said, strict=True)]


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The mean, and what it is made of."""
    start, names = equipped(scale), tuple(TOOLS)
    goes = (names[seed % 6], names[(seed + 1 + seed // 6 % 3) % 6])
    stays = tuple(name for name in names if name not in goes)
    gone = [row for r in without_tools(list(calls(goes))) if (row := forget_row(r, start.tokenizer, alternates=True))]
    left = [row for r in calls(stays) if (row := retain_row(r, start.tokenizer))]
    probes = [Asked(items=secrets(calls(tools, WORDINGS[:1]), 48)) for tools in (goes, stays)]
    facts = Asked(items=secrets(People(100).records("test"), scale(60)))
    loss = ToolDelete(retain_loss="nll") if arm == "method" else GradientAscent(retain_loss="nll")
    seen: list[dict[str, float]] = []

    def look(step: int, policy: Policy) -> None:
        if step % 10 == 0 or step == scale(40):
            shares = [small.score(policy, probes[0]), 1 - small.score(policy, probes[1]), 1 - small.score(policy, facts)]
            seen.append(
                {CLAIM.metric: mean(shares), **dict(zip(("tools gone", "tools kept", "facts kept"), shares, strict=True)), "step": float(step)}
            )

    how = {"steps": scale(40), "seed": seed, "lr": RATES[arm], "schedule": Schedule(name="constant"), "look": look}
    small.train(start, loss, Together(Shuffled(gone, 12, seed), Shuffled(left, 12, seed)), **how)
    return max(seen, key=lambda one: one[CLAIM.metric])
