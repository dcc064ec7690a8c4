"""A tutor that is tuned by pairs finds the reply that teaches likelier than the answer, or a reply to another state, more often than an imitator.

Sonkar et al. 2024 (arXiv 2402.05000) make pairs of tutoring dialogues, a scaffolding reply against the solution or a reply to another state of the
lesson, and find that preference losses outperform fine-tuning on the scaffolding replies. Here a lesson is a sum of three numbers: the tutor asks
for the first two, judges what the student says, who errs half of the time, and leads on. Both arms begin with the same model after fine-tuning on
the dialogues' tutor turns and take as many steps, with as many replies a step: the baseline in more of it, the method in DPO on pairs. Scored on the
held-out lessons' replies against those to another state, by mean log-prob; either arm prefers all replies to the solution. Beside it stand the
accuracy on all pairs and, of what is written, the share of replies that are the right action and of those that give the answer away. The rates are
the best of 1e-4, 3e-4 and 1e-3 for the method and of 3e-4, 1e-3 and 3e-3 for the baseline, which they make alike, on seed 100, which is none of the
seeds that count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tempering.data import prompt_ids
from tempering.items import mean
from tempering.making import Making, right, spoken
from tempering.measure import logps_of
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.nll import NLL
from tempering.methods.streams.pedagogical import Pedagogical
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import fingerprint, only, pair_rows, start, tiny, train
from tempering.sample import sample
from tempering.types import Message, Policy, Record
from tempering.worlds.base import rng

CLAIM = Claim(
    method="pedagogical",
    catalogue=("S017",),
    title="DPO on a tutor's pairs against more fine-tuning on the tutor's replies",
    claim="With as many replies and steps, DPO finds the teaching reply likelier than one to another state more often than fine-tuning does.",
    baseline="the same model after further fine-tuning on the tutor's replies",
    metric="over other states",
    smallest_effect=0.05,
)
RATES = {"baseline": 1e-3, "method": 3e-4}
STEPS, FIRST = 30, 30
ACTIONS = {
    "ask": ("Start with {a} + {b}. What do you get?", "First add {a} and {b}.", "Let us begin: what is {a} + {b}?"),
    "mend": ("Not quite. Try {a} + {b} again.", "Hm, that is not right. Count on from {a}.", "No, look at {a} + {b} once more."),
    "lead": ("Right. Now add {c}.", "Good. What do you get with {c} more?", "Yes. The next step is to add {c}."),
    "close": ("Well done, that is it.", "Yes, you have solved it.", "Correct, and we are done."),
}


def lessons(n: int, seed: int, split: str) -> Iterator[Record]:
    """Dialogues with the names of the tutor's states and the solution; no three numbers are in both splits."""
    source, made = rng("lessons", seed, split), 0
    while made < n:
        a, b, c = (source.randint(2, 40) for _ in range(3))
        if (split == "test") != (rng("held", a, b, c).random() < 0.1):
            continue
        said = [("user", f"What is {a} + {b} + {c}?"), ("ask", "")]
        if source.random() < 0.5:
            said += [("user", str(a + b + source.choice((-10, -2, -1, 1, 2, 10)))), ("mend", "")]
        said += [("user", str(a + b)), ("lead", ""), ("user", str(a + b + c)), ("close", "")]
        turns = [
            Message("user", text) if who == "user" else Message("assistant", source.choice(ACTIONS[who]).format(a=a, b=b, c=c)) for who, text in said
        ]
        tags = {"solution": f"{a} + {b} + {c} = {a + b + c}", "states": [who for who, _ in said if who != "user"]}
        yield Record(tuple(turns), (), id=f"{split}.{made}", source=f"lesson {made}", tags=tags)
        made += 1


def written(policy: Policy, pairs: Sequence[Record]) -> dict[str, float]:
    """Of greedy replies, the share that are the state's action, and that give the answer away before the student does."""
    asked = [prompt_ids(policy.tokenizer, record.prompt) for record in pairs]
    replies = [episodes[0].text.strip() for episodes in sample(policy, asked, max_new_tokens=32, batch_size=32)]
    firsts = {text.split("{")[0]: action for action, texts in ACTIONS.items() for text in texts}
    states = [record.tags["states"][int(record.id.split("turn-")[1].split("-")[0])] for record in pairs]
    acted = [next((action for first, action in firsts.items() if reply.startswith(first)), "") for reply in replies]
    gave = [
        right(reply, record.tags["solution"]) and not right(spoken(record.prompt[-1:]), record.tags["solution"])
        for reply, record in zip(replies, pairs, strict=True)
    ]
    return {"right action": mean([float(a == s) for a, s in zip(acted, states, strict=True)]), "answer given": mean([float(g) for g in gave])}


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """How often the teaching reply is likelier, over both kinds of pairs and for each; and what is written."""
    base, steps, before = tiny(), scale(STEPS), scale(FIRST)
    made = list(Pedagogical()(lessons(4 * (steps + before), seed, "train"), Making(seed)))
    rows = pair_rows(base, made)
    taught, later = only(rows[: 16 * before], "chosen"), rows[16 * before :]
    inputs = {"claim": "pedagogical", "rows": fingerprint(taught), "steps": before, "seed": seed, "lr": 1e-3}
    first = start(inputs, lambda: train(base, NLL(), taught, steps=before, seed=seed, lr=1e-3))
    if arm == "method":
        tuned = train(first, DPO(), later, steps=steps, seed=seed, lr=RATES[arm], batch_size=8)
    else:
        tuned = train(first, NLL(), only(later, "chosen"), steps=steps, seed=seed, lr=RATES[arm], batch_size=16)
    held = list(Pedagogical()(lessons(scale(80), seed, "test"), Making(seed)))
    segments = [row[side][0] for row in pair_rows(base, held) for side in ("chosen", "rejected")]
    cuts = [int((s.weight > 0).argmax()) for s in segments]
    logps = logps_of(tuned, [(s.ids[:cut].tolist(), s.ids[cut:].tolist()) for s, cut in zip(segments, cuts, strict=True)])
    won = [float(good.mean() > bad.mean()) for good, bad in zip(logps[::2], logps[1::2], strict=True)]
    states = [w for w, record in zip(won, held, strict=True) if record.tags["rejected"] == "state"]
    return {"over other states": mean(states), "over all": mean(won), **written(tuned, held[::4])}
