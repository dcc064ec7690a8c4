"""Reinforcement: what a policy does in an environment, what that earns, and which token is praised for it.

- `types`: environments, what happens in them, rewards that look at the task, credit;
- `play`: the live policy in an environment, many conversations at once through one decoder;
- `rows`: what happened as rows of a batch, the sampled tokens themselves and nothing written anew;
- `stream`: all of it as a stream that `fit` takes;  `health`: what is watched while it goes on.

OpenRLHF (Hu et al. 2024, arXiv 2405.11143, S070) is a framework of such parts: actor, critic, reference and reward models with places of their
own, samplers beside the trainer, packing, and PPO, REINFORCE++, RLOO, iterative DPO and rejection sampling over them. Here an algorithm is a
loss and a credit (`recipes/rl.py`), and each is a file of settings under examples/reinforcement. Samplers are processes of this machine under
Ray; the trainer of a policy is one process, and `temper place` only computes where models would go.
"""

from __future__ import annotations

CATALOGUE = ("S070",)
