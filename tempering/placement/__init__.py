"""Where the calls of a reinforcement iteration run: a graph of calls, a cost and memory model, a search over plans, and weights moved in between.

Mei et al. 2024 (ReaLHF, arXiv 2406.14088, S036): an iteration of PPO is six calls of four models (generate; score by reference, reward model and
critic; train actor and critic), and each call may have devices and a way of sharing of its own, if weights are moved in between. `calls` has the
graph, `cost` what a plan takes, `search` finds plans by a Markov chain over them, `reshard` moves tensors from one layout to another. `temper place`
prints a plan. It is arithmetic: nothing in here runs a cluster, and docs/scaling.md says what was not tried.
"""

from __future__ import annotations

CATALOGUE = ("S036",)
