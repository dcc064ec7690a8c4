"""After forgetting, the layers still hold what the model no longer says.

Lynch et al. 2024 (arXiv 2402.16835, test 7) read forgotten answers from the hidden states of a model that had forgotten, by linear probes, above
chance. Here NPO takes ten known people from builtin:tiny until few of their facts are said. A linear map from states to answers is fitted on people
who stay, and tells the right answers about the forgotten from wrong ones. The baseline asks the same model, by the same map, about ten strangers whom
it never met: what is read of them is chance and what the names give away. The training was chosen on seed 9, on which the probe was tried once, and
which is none of those that count. What is still said stands beside.
"""

from __future__ import annotations

from tempering.methods.probes.asked import Asked
from tempering.methods.probes.linear_probe import LinearProbe
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score
from tempering.replications._early import forgotten
from tempering.replications._forgetting import asked, ten
from tempering.worlds.people import People

CLAIM = Claim(
    method="linear_probe",
    catalogue=("S027",),
    title="A linear probe on forgotten people against strangers",
    claim="Of a model that forgot, a linear probe reads more about the forgotten people than about people whom it never met.",
    baseline="the same probe of the same model on strangers",
    metric="right answers told from wrong ones",
    smallest_effect=0.1,
)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The share of answers read from the layers, and that of those said."""
    people = ten(seed) if arm == "method" else People(10, start=20_000 + 10 * seed)
    items, policy = asked(people, scale(140)), forgotten(seed, scale)
    found = [1 - score(policy, attack) for attack in (LinearProbe(items=items, known=asked(ten(seed + 5), scale(140))), Asked(items=items))]
    return {"right answers told from wrong ones": found[0], "answers said": found[1]}
