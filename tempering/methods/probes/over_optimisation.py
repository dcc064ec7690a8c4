"""Over-optimisation: what a gold reward makes of the answer that a proxy finds best among n of the model's own.

Gao et al. 2022, arXiv 2210.10760: under enough pressure a proxy goes on rising while the gold reward turns. One pool of answers a prompt gives the
whole curve without bias (`tempering.best_of`). An item's score is the gold reward at the largest n; the summary has the curve by n, where it is
highest ("peak"), and how far it falls after that ("drop"). Its divergence is log n - (n - 1) / n, whatever the model.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tempering.items import Item, ProbeValue, read_items
from tempering.types import ItemScore, Policy, ProbeScores, Reward


class OverOptimisationItem(Item):
    """A prompt."""

    prompt: str


class OverOptimisation(ProbeValue):
    """Gold reward of the proxy's best of n."""

    kind: Literal["over_optimisation"] = "over_optimisation"
    name: str = "over_optimisation"
    items: str | tuple[OverOptimisationItem, ...]
    """A JSON-lines file, or items ({"prompt"})."""
    proxy: Any
    """What selects: a folder of a reward model, several of them with commas between (their worst score counts), of an ensemble, or any
    reward."""
    gold: Any
    """What judges: a folder of a reward model, or any reward."""
    n: int = Field(default=64, ge=1)
    """Answers to each prompt."""
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    seed: int = 0

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.best_of import best_of, curve, pools, scored

        items = read_items(self.items, OverOptimisationItem, self.limit)
        prompts = [item.prompt for item in items]
        drawn = pools(policy, prompts, self.n, max_new_tokens=self.max_new_tokens, temperature=self.temperature, seed=self.seed)
        answers = [[episode.text for episode in pool] for pool in drawn]
        proxy_PN, gold_PN = (scored(_reward(given), prompts, answers) for given in (self.proxy, self.gold))
        found = []
        for item, pool, proxy_N, gold_N in zip(items, answers, proxy_PN, gold_PN, strict=True):
            extra = {"gold_mean": float(gold_N.mean()), "gold_most": float(gold_N.max())}
            found.append(ItemScore(item.id, best_of(proxy_N, gold_N, self.n), item.prompt, pool[int(proxy_N.argmax())], extra=extra))
        line = curve(proxy_PN, gold_PN)
        summary = {f"gold_{n}": value for n, value in zip(line.n, line.gold, strict=True)} | {"kl": line.kl[-1]}
        summary |= {"peak": float(line.peak), "drop": line.drop.point}
        return ProbeScores(self.name, f"gold reward of the best of {self.n}", "continuous", True, tuple(found), self.side, summary, line.words())


def _reward(given: Any) -> Reward:
    from tempering.methods.rewards._saved import named

    return named(given) if isinstance(given, str) else given
