"""Learning to pass for demonstrations brings replies nearer to their style, though the policy's loss never sees one.

Yu et al. 2023 (RLGAF, arXiv 2305.06176) train a discriminator to tell demonstrations from samples of the policy, pay the policy for passing, and
repeat; the result is compared with the start and with fine-tuning on the same demonstrations. Here the style is the gold reward's (on the topic,
courteous, short): 100 demonstrations that have all of it, builtin:tiny as the start, three rounds of 20 steps of the discriminator and 12 steps of
RLOO with 4 samples to each of 8 prompts, held to the start at 0.02 a nat. Scored is the gold reward of sampled replies to held-out requests, against
the start; what fine-tuning on the demonstrations makes of as many steps stands beside. Rates are those of reward models (1e-3) and of RLOO (2e-4).
After one pilot, on seed 9 (1.16 before, 2.63 after, 2.70 fine-tuned), nothing was changed.
"""

from __future__ import annotations

import copy

import torch

from tempering.making import answer, user
from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.objectives.bradley_terry import BradleyTerry
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.rloo import RLOO
from tempering.methods.rewards.reward_model import RewardModel
from tempering.models import with_outputs
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, pair_rows, sft_rows, tiny, train
from tempering.recipes.rlgaf import Passing, against_samples
from tempering.replications._reinforced import CONSTANT
from tempering.replications._replies import TOKENS, gold
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.types import Policy, Record, Role
from tempering.worlds.preferences import Preferences

CLAIM = Claim(
    method="rlgaf",
    catalogue=("S126",),
    title="RLGAF against the model that it starts from",
    claim="After learning to pass for demonstrations, sampled replies to new requests are nearer to their style than the start model's.",
    baseline="the start model",
    metric="gold reward",
    smallest_effect=0.2,
    range=(-1.0, 3.0),
)
SHOWN, ROUNDS, JUDGE, STEPS = 100, 3, 20, 12


def demonstrations(world: Preferences, n: int) -> list[Record]:
    """Requests with replies of the highest gold reward."""
    best = world.gold.topic + world.gold.courtesy
    found = (Record((user(i["prompt"]),), (answer(i["answer"]),), id=i["id"]) for i in world.items("train", 20 * n) if i["gold"][0] == best)
    return list({record.prompt: record for record in found}.values())[:n]


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Gold reward of samples; beside the start's, that after fine-tuning."""
    base = tiny()
    shown, held, steps = demonstrations(Preferences(seed=seed), SHOWN), scale(100), scale(STEPS)
    if arm == "baseline":
        tuned = train(base, NLL(), sft_rows(base, shown), steps=ROUNDS * steps, seed=seed, lr=2e-4, batch_size=8)
        return {CLAIM.metric: gold(base, seed, held), "fine-tuned": gold(tuned, seed, held)}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy, judge = base, with_outputs(Policy(copy.deepcopy(base.model), base.tokenizer), 1)
    training, settings = TRAINING.model_copy(update={"batch_size": 8}), Rollouts(samples=4, kl_cost=0.02)
    for number in range(1, ROUNDS + 1):
        pairs = pair_rows(base, against_samples(policy, shown, TOKENS, seed + number))
        judge = train(judge, BradleyTerry(), pairs, steps=scale(JUDGE), seed=seed + number, lr=1e-3)
        env, how = Passing(judges=RewardModel(judge)), {"training": training, "max_new_tokens": TOKENS, "seed": seed + 1000 * number}
        stream = Conversations(base.tokenizer, env, shown, LeaveOneOut(), settings, **how)  # type: ignore[arg-type]
        reference = {"reference": Role(copy.deepcopy(base.model))}
        policy = train(policy, RLOO(), stream, steps=steps, seed=seed, lr=2e-4, schedule=CONSTANT, roles=reference)
    return {CLAIM.metric: gold(policy, seed, held)}
