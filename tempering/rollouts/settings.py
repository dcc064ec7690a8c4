"""How a policy is let act between updates, as a value of a recipe's signature. No torch here."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tempering.config import Value


class Rollouts(Value):
    """What is sampled, how often the policy learns from it, and what is taken from its reward."""

    samples: int = Field(default=8, gt=0)
    """Conversations about each task: a group."""
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling. At another than 1, old log-probs are the trainer's: losses speak of the model as it is."""
    concurrent: int = Field(default=64, gt=0)
    """Conversations in flight at the same time."""
    updates: int = Field(default=1, gt=0)
    """Optimizer steps that a round of sampling is divided among; each takes as many tasks as the batch size says."""
    epochs: int = Field(default=1, gt=0)
    """How often each conversation is learned from."""
    old: Literal["sampler", "trainer"] = "sampler"
    """Whose log-probs ratios are taken to: the sampler's own, or the trainer's before the first update of a round, for one more forward pass. They
    are the same to rounding in float32; in bfloat16 they differ by what "mismatch" shows."""
    kl_cost: float = Field(default=0.0, ge=0)
    """What a nat of log-ratio to the reference costs at each token, taken from the reward before credit."""
    kl_target: float = Field(default=0.0, ge=0)
    """Nats from the reference that a conversation should be away: the cost is raised or lowered by at most a fifth of the sampled share of 10,000
    conversations each round (Ziegler et al. 2019, arXiv 1909.08593, section 2.2); 0 leaves it as it is."""
    dynamic: bool = False
    """Leave out groups that all earned the same and sample other tasks in their place (DAPO, arXiv 2503.14476, section 3.2)."""
    tries: int = Field(default=4, gt=0)
    """Most times that a round is sampled for; what is still missing then is filled with groups that teach nothing."""
    overlong: float = Field(default=0.0, ge=0, le=1)
    """Share of the token budget, its end, over which an answer loses up to 1 for its length (DAPO, section 3.4); 0 never."""
    drop: bool = False
    """Learn nothing from groups that all earned the same, whatever else the loss asks of their tokens, and sample no others in their place (T1)."""
    spoilt: float = Field(default=0.0, ge=0)
    """What a conversation loses for a turn that its budget cut off, that repeats itself or that is no text (T1: 1; `rollouts/spoilt.py`)."""
    anchor: float = Field(default=0.0, ge=0, le=1)
    """How far the reference goes to the policy before each step (the dynamic anchor of T1); 0 leaves it at the start, 1 makes it the policy."""
    staleness: int = Field(default=0, ge=0)
    """Rounds by which the weights that sample are behind those that learn; 1 or more lets samplers work while the policy trains."""
    partial: int = Field(default=0, ge=0)
    """Tasks that are open beyond those that a round needs. A round ends with enough whole groups, and what is open goes on in the next, under the
    weights of then: nobody waits for the longest answer (partial rollouts: Kimi k1.5, arXiv 2501.12599). Each token keeps the log-prob that it was
    drawn with. 0 waits for all."""
    samplers: int = Field(default=0, ge=0)
    """Processes that sample beside the trainer, under Ray (extra "ray"); 0 samples in the trainer. It changes no result."""
    samplers_at: str = ""
    """A Ray cluster that samplers run on (ray://host:port, or host:port on one of its machines), and which needs tempering; "" is this machine. It
    changes no result either."""
    engine: Literal["own", "vllm"] = "own"
    """What decodes for samplers: our own decoder, or vLLM, whose noise is another (`rollouts/engine.py`)."""
    correction: float = Field(default=0.0, ge=0)
    """Above 0, advantages are multiplied by how much likelier the trainer makes a token than its sampler did, at most this much (the truncated weight
    of Espeholt et al. 2018, arXiv 1802.01561, for each token by itself); ratios are then taken to the trainer's log-probs."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.partial and self.dynamic:
            raise ValueError("partial and dynamic: silent groups are replaced within a round, which partial ends early; switch one of them off")
        if self.samplers_at and not self.samplers:
            raise ValueError("samplers_at: says where samplers run, and there are none; say how many with samplers")
        if self.engine != "own" and not self.samplers:
            raise ValueError("engine: vllm decodes in processes beside the trainer, and there are none; say how many with samplers")
        return self
