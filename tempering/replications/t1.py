"""With more samples to each prompt T1 learns more from as many steps.

Hou et al. 2025 (T1, arXiv 2501.11651) sample many answers (64) to each prompt at a high temperature, drop prompts that are all right or wrong, and
report that more samples to a prompt, at equal steps, end higher. Here the policy is one that was shown two ways to answer a sum (`_reinforced.py`); a
step takes 4 sums, and an arm is how many answers are sampled to each: 4, or 16. All else is T1's in both arms: leave-one-out advantages, temperature
1.2, an entropy bonus, an anchor that follows the policy, a penalty of 1 for answers that are cut off or repeat themselves. Four times as much is
sampled and learned from by the method, as in the paper. Scored on held-out sums, by the likeliest answer; beside it stands what is right if thinking
is cut off after 8 or 16 tokens and an answer forced (a worked sum has about 20 to 30). The rate is the one that suited RLOO in this world before;
there was no pilot.
"""

from __future__ import annotations

import copy

from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.objectives.t1 import T1
from tempering.methods.probes.thinking_budget import ThinkingBudget
from tempering.methods.scopes.full import Full
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, score, train
from tempering.replications._reinforced import CONSTANT, SUMS, TASKS, TOKENS, begun, right
from tempering.rollouts.anchored import Anchored, Following
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.types import Role

CLAIM = Claim(
    method="t1",
    catalogue=("S132",),
    title="T1 with 16 samples to a prompt against 4, at equal steps",
    claim="After as many optimizer steps, more held-out sums are right when 16 answers to each sum were sampled than when 4 were.",
    baseline="T1 with 4 answers to each sum",
    metric="held-out accuracy",
    smallest_effect=0.05,
)
SAMPLES = {"baseline": 4, "method": 16}
LR, STEPS, FOLLOWS = 2e-4, 32, 0.05


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Share of held-out sums whose likeliest answer is right; beside it before, and by budget of thinking."""
    start = begun(seed, scale)
    settings = Rollouts(samples=SAMPLES[arm], temperature=1.2, drop=True, spoilt=1.0, anchor=FOLLOWS)
    training = TRAINING.model_copy(update={"batch_size": 4})
    tasks = SUMS.tasks("train", TASKS)
    acted = Conversations(start.tokenizer, SUMS, tasks, LeaveOneOut(), settings, training=training, max_new_tokens=TOKENS, seed=seed)
    anchor = {"reference": Role(copy.deepcopy(start.model), Following(Full()))}
    stream = Anchored(acted, settings.anchor)
    tuned = train(start, T1(), stream, steps=scale(STEPS), seed=seed, lr=LR, schedule=CONSTANT, roles=anchor)

    def forced(budget: int) -> float:
        return score(tuned, ThinkingBudget(environment=SUMS, budget=budget, cue=". Answer:", n=scale(200)))

    return {CLAIM.metric: right(tuned, scale), "start": right(start, scale), "after 8": forced(8), "after 16": forced(16)}
