"""One expert of a mixture forgets at less cost than all of them.

Zhuang et al. 2024 (UOE, later SEUF, arXiv 2411.18797) train only the expert that the forget rows go through most, with an anchor on its router, and
keep more than by training the whole mixture. Here the mixture is a model of two blocks with four experts each, of which a token goes to one, that
learned questions about twenty people from nothing; ten of them are to go. Both arms are GradDiff; the method trains the chosen expert and its
router. What is compared is the best difference between what stays and what goes in the taught wordings, at one of 15 looks that each arm chooses.
No other rates were tried here; seed 11, which does not count, gave 0.68 for the baseline and 0.49 for the method.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from tempering.config import Schedule
from tempering.data.forgetting import forget_row, retain_row
from tempering.data.streams import Shuffled, Together
from tempering.forgetting.experts import OneExpert, scores
from tempering.items import mean
from tempering.methods.objectives.gradient_ascent import GradientAscent
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.seuf import SEUF
from tempering.proof import small
from tempering.proof.claims import Claim, Scale
from tempering.replications._trade import METRIC
from tempering.signals import engine_for
from tempering.types import Policy
from tempering.worlds.people import People

CLAIM = Claim(
    method="seuf",
    catalogue=("S185",),
    title="Unlearning in one expert of a mixture (SEUF) against unlearning in all weights",
    claim="What stays and what goes come further apart when one expert and its router train alone.",
    baseline="the same ascent and retain term (GradDiff) in all weights",
    metric="best difference of accuracies",
    smallest_effect=0.05,
)
RATES = {"method": 3e-3, "baseline": 1e-3}
STEPS, LEARNING = 800, 3e-3
CIRCLES = tuple(itertools.combinations(range(4), 2))
"""Which two of the four circles of five go."""


def mixture(scale: Scale) -> Policy:
    """The model that learned twenty people; the same for all seeds."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    base = small.tiny()
    rows = small.sft_rows(base, People(20).records("train"))

    def make() -> Policy:
        known: Any = base.model.config
        config = MixtralConfig(
            vocab_size=known.vocab_size, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
            num_local_experts=4, num_experts_per_tok=1, max_position_embeddings=256, initializer_range=0.1, tie_word_embeddings=True,
            bos_token_id=known.bos_token_id, eos_token_id=known.eos_token_id, pad_token_id=known.pad_token_id,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = MixtralForCausalLM(config).eval()
        return small.train(Policy(model, base.tokenizer, name="mixture"), NLL(), rows, steps=scale(STEPS), seed=0, lr=LEARNING)

    return small.start({"mixture": small.fingerprint(rows), "steps": scale(STEPS), "lr": LEARNING}, make)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The best difference, and what it is made of."""
    start, goes = mixture(scale), CIRCLES[seed % len(CIRCLES)]
    worlds = [[People(5, start=5 * i) for i in range(4) if (i in goes) is wanted] for wanted in (True, False)]
    gone = [row for world in worlds[0] for r in world.records("train") if (row := forget_row(r, start.tokenizer))]
    left = [row for world in worlds[1] for r in world.records("train") if (row := retain_row(r, start.tokenizer))]
    loss, scope = GradientAscent(retain_loss="nll"), None
    if arm == "method":
        of_LE = scores(start.model, gone, engine_for(small.TRAINING))
        layer = int(of_LE.amax(1).argmax())
        loss, scope = replace(SEUF(), layer=layer, expert=int(of_LE[layer].argmax())), OneExpert(layer, int(of_LE[layer].argmax()))
    seen: list[dict[str, float]] = []

    def look(step: int, policy: Policy) -> None:
        if step % 4 == 0:
            out, kept = (mean([small.score(policy, world.probe("train", scale(60))) for world in of]) for of in worlds)
            seen.append({METRIC: kept - out, "accuracy on those who stay": kept, "accuracy on those who go": out, "step": float(step)})

    how = {"steps": scale(60, 4), "seed": seed, "lr": RATES[arm], "schedule": Schedule(name="constant"), "scope": scope, "look": look}
    small.train(start, loss, Together(Shuffled(gone, 16, seed), Shuffled(left, 16, seed)), **how)
    return max(seen, key=lambda one: one[METRIC])
