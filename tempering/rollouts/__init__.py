"""Reinforcement: what a policy does in an environment, what that earns, and which token is praised for it.

- `types`: environments, what happens in them, rewards that look at the task, credit;
- `play`: the live policy in an environment, many conversations at once through one decoder;
- `rows`: what happened as rows of a batch, the sampled tokens themselves and nothing written anew;
- `stream`: all of it as a stream that `fit` takes;  `health`: what is watched while it goes on.
"""
