"""`temper place`: where the calls of a reinforcement iteration would run on a cluster, and what that would take; arithmetic, nothing is run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from tempering.cli.show import say, table
from tempering.errors import UserError

if TYPE_CHECKING:
    from tempering.distributed.arithmetic import Shape
    from tempering.placement.calls import Cluster, Iteration
    from tempering.placement.search import Found

GIB = 2**30


def place(
    *,
    actor: str = "8b",
    critic: str = "8b",
    algorithm: Literal["ppo", "grpo"] = "ppo",
    nodes: int = 1,
    gpus: int = 8,
    memory: float = 80.0,
    tflops: float = 989.4,
    read: float = 3350.0,
    beside: float = 450.0,
    link: float = 50.0,
    busy: float = 0.4,
    batch: int = 512,
    prompt: int = 1024,
    new: int = 1024,
    updates: int = 8,
    search: Literal["chain", "exhaustive"] = "chain",
    tries: int = 20_000,
    seed: int = 0,
    json_: bool = False,
) -> int:
    """Plan which GPUs each call of an RL iteration has, how they share it, and when it runs (ReaLHF); nothing is run.

    The figures of a GPU are an H100 SXM's by its data sheet. Seconds are arithmetic (tempering/placement/cost.py), to compare plans with, not to
    promise.

    Args:
        actor: shape of actor and reference: 1b, 8b or 70b (Llama 3), or a model on this machine.
        critic: shape of reward model and critic.
        algorithm: with a critic, or without.
        nodes: machines.
        gpus: of each machine.
        memory: GB of each GPU.
        tflops: of each GPU in bfloat16.
        read: GB a second that a GPU reads from its memory.
        beside: GB a second that a GPU sends inside of a machine.
        link: GB a second that a GPU sends to another machine.
        busy: share of tflops that matrix products reach.
        batch: answers of one iteration.
        prompt: tokens of each prompt.
        new: tokens of each answer.
        updates: optimizer steps that the batch is divided among.
        search: a Markov chain over plans, or all of them (small spaces only).
        tries: plans that the chain looks at.
        seed: of the chain.
        json_: print one JSON object instead of a table.
    """
    from tempering.placement import calls
    from tempering.placement import search as searching

    if tries < 1:
        raise UserError(f"--tries {tries}: the chain must look at one plan at least")
    iteration = getattr(calls, algorithm)(shape_of(actor, "actor"), shape_of(critic, "critic"), batch=batch, prompt=prompt, new=new, updates=updates)
    cluster = calls.Cluster(nodes, gpus, memory * 1e9, tflops * 1e12, read * 1e9, beside * 1e9, link * 1e9, busy)
    if search == "exhaustive" and (size := searching.count(iteration, cluster)) > MOST:
        raise UserError(f"--search exhaustive: there are {size:.3g} plans, and at most {MOST:,} are looked at; leave --search at chain")
    found = searching.exhaustive(iteration, cluster) if search == "exhaustive" else searching.chain(iteration, cluster, steps=tries, seed=seed)
    same = searching.symmetric(iteration, cluster)
    say(json.dumps(told(found, same), indent=2)) if json_ else show(found, same, iteration, cluster)
    return 0


MOST = 2_000_000
"""Plans that `exhaustive` looks at."""


def shape_of(spec: str, what: str) -> Shape:
    """The shape of a named size, or of a model on this machine.

    Raises:
        UserError: it is neither, or not shaped like a Llama.
    """
    from tempering.distributed.arithmetic import Shape
    from tempering.placement.calls import SIZES

    if spec.lower() in SIZES:
        return SIZES[spec.lower()]
    from transformers import AutoConfig

    from tempering.models.places import find

    folder = find(spec, lambda _: None, fetch=False).folder
    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).get_text_config()
    try:
        heads = config.num_attention_heads
        keys = getattr(config, "num_key_value_heads", None) or heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        sizes = config.num_hidden_layers, config.hidden_size, config.intermediate_size, keys * width, config.vocab_size
    except AttributeError as error:
        raise UserError(f"--{what} {spec}: its configuration is not shaped like a Llama ({error}); name one of {', '.join(SIZES)}") from None
    return Shape(*sizes, tied=bool(config.tie_word_embeddings))


def told(found: Found, same: Found | None) -> dict[str, Any]:
    """A plan as JSON."""
    e = found.estimate
    return {
        "calls": [{**asdict(event), **asdict(found.plan[event.call])} for event in e.events],
        "seconds": e.seconds,
        "critical": e.critical,
        "serial": e.serial,
        "symmetric": same.estimate.seconds if same else None,
        "peak": list(e.peak),
        "tried": found.tried,
    }


def show(found: Found, same: Found | None, iteration: Iteration, cluster: Cluster) -> None:
    """Print a plan."""
    e, rows = found.estimate, []
    for event in sorted(e.events, key=lambda event: event.begin):
        of = found.plan[event.call]
        shared = (of.data, of.tensor, of.stages, of.micro)
        rows.append((event.call, f"{of.first}-{of.devices[-1]}", *shared, f"{event.begin:.1f}", f"{event.moving:.2f}", f"{event.working:.1f}"))
    title = f"{cluster.devices} GPUs, {iteration.batch} answers of {iteration.prompt} + {iteration.new} tokens, {iteration.updates} updates"
    head = ("call", "GPUs", "data", "tensor", "stages", "micro", "begins, s", "weights move, s", "works, s")
    table(head, rows, title=title, right=tuple(range(2, len(head))))
    say()
    ways = "no plan with all GPUs and one way of sharing for all calls fits"
    if same is not None:
        ways = f"the best plan with all GPUs and one way of sharing for all calls takes {same.estimate.seconds:.1f} s"
    say(f"an iteration takes {e.seconds:.1f} s; its longest chain of calls {e.critical:.1f} s, all calls one after another {e.serial:.1f} s; {ways}")
    say(f"the fullest GPU holds {max(e.peak) / GIB:.1f} of {cluster.memory / GIB:.1f} GiB; the {found.tried:,}th plan that was looked at")
    say("arithmetic with figures of data sheets: good for comparing plans, no promise of seconds")
