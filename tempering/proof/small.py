"""What claims are made of: small models, rows, a short training run, a score. All through the public core, on the CPU, in float32.

    start = tiny()
    rows = pair_rows(start, world.records("train", scale(800)))
    tuned = train(start, DPO(), rows, steps=scale(150), seed=seed, lr=3e-4)
    return score(tuned, world.probe("test", scale(200)))

Defaults here are part of the results: a change of them is a change of the core's numerics (`proof.digest.CORE_NUMERICS`).
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tempering.ahead import Meta
from tempering.config import Optimizer, Schedule, Training
from tempering.data import pair_row, sft_row, unpaired_row
from tempering.data.streams import Shuffled
from tempering.errors import UserError
from tempering.fit import fit
from tempering.home import atomic_folder, store_dir
from tempering.items import mean
from tempering.measure import logps_of, measure
from tempering.proof.digest import CORE_NUMERICS
from tempering.types import Objective, Policy, Probe, Record, Role, Row, Segment, Stream
from tempering.worlds.base import World, record, rng

TRAINING = Training(precision="fp32", save_every=0, micro_tokens=8192)


def tiny() -> Policy:
    """A new copy of builtin:tiny: 1.26 million weights that know a hundred people, sums, and how to reply."""
    from tempering import models

    return models.load("builtin:tiny", say=_quiet)


def scratch(seed: int = 0, **sizes: Any) -> Policy:
    """A random model with builtin:tiny's tokenizer and, unless `sizes` say otherwise, its shape.

    Args:
        sizes: of its LlamaConfig, for example `num_hidden_layers=2, hidden_size=64`.
    """
    import torch
    from transformers import LlamaForCausalLM

    base = tiny()
    config: Any = copy.deepcopy(base.model.config)
    config.initializer_range = 0.1
    for name, value in sizes.items():
        setattr(config, name, value)
    if "hidden_size" in sizes:
        config.head_dim = config.hidden_size // config.num_attention_heads
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Policy(LlamaForCausalLM(config).eval(), base.tokenizer, name="scratch")


def start(inputs: Mapping[str, Any], make: Callable[[], Policy]) -> Policy:
    """A model that several arms begin with: made once, kept in the store, and loaded for every later arm.

    Args:
        inputs: JSON-able; everything it depends on: the seed, the rows (`fingerprint`), steps, settings.
        make: trains it.
    """
    from tempering import models

    key = hashlib.sha256(json.dumps([dict(inputs), CORE_NUMERICS], sort_keys=True).encode()).hexdigest()
    folder = store_dir("starts") / key[:32]
    if not folder.exists():
        made = make()
        with atomic_folder(folder, existing="keep") as part:
            models.save(made, part / "model")
    return models.load(str(folder / "model"), say=_quiet)


def fingerprint(rows: Iterable[Row]) -> str:
    """A digest of rows: their tokens, weights and extras, by part."""
    digest = hashlib.sha256()
    for row in rows:
        for part, segments in sorted(row.items()):
            for segment in segments:
                digest.update(part.encode() + segment.ids.tobytes() + segment.weight.tobytes() + repr(sorted(segment.extras.items())).encode())
    return digest.hexdigest()


def sft_rows(policy: Policy, records: Iterable[Record], **how: Any) -> list[Row]:
    """Rows {"train": ...} of the records' (best) answers; `how` goes to `data.sft_row`, for example `train_on="all"`."""
    return _rows(sft_row(record, policy.tokenizer, **how) for record in records)


def pair_rows(policy: Policy, records: Iterable[Record]) -> list[Row]:
    """Rows {"chosen": ..., "rejected": ...}."""
    return _rows(pair_row(record, policy.tokenizer) for record in records)


def unpaired_rows(policy: Policy, records: Iterable[Record]) -> list[Row]:
    """Rows {"train": ...} with the extra "label"."""
    return _rows(unpaired_row(record, policy.tokenizer) for record in records)


def noisy(world: World, share: float, seed: int, split: str = "train") -> list[Record]:
    """Records of a world of short answers, of which about `share` carry the answer of another item of their kind; drawn by `seed` and item."""
    items = list(world.items(split))
    answers: dict[str, list[str]] = {}
    for item in items:
        answers.setdefault(item["kind"], []).append(item["answer"])
    made = []
    for item in items:
        source = rng("noisy", seed, item["id"])
        others = [answer for answer in answers[item["kind"]] if answer != item["answer"]]
        wrong = others and source.random() < share
        made.append(record(world.name, {**item, "answer": source.choice(others)} if wrong else item))
    return made


def only(rows: Sequence[Row], part: str, to: str = "train") -> list[Row]:
    """One part of rows under another name: `only(pairs, "chosen")` is what SFT on the chosen answers trains on."""
    return [{to: row[part]} for row in rows]


def _rows(made: Iterable[Row | None]) -> list[Row]:
    rows = [row for row in made if row is not None]
    if not rows:
        raise UserError("the records gave no rows to train on; take more of them")
    return rows


def train(
    policy: Policy,
    objective: Objective,
    rows: Sequence[Row] | Stream,
    *,
    steps: int,
    seed: int,
    lr: float,
    batch_size: int = 16,
    scope: Any = None,
    optimizer: Optimizer | None = None,
    schedule: Schedule | None = None,
    roles: Mapping[str, Role] | None = None,
    look: Callable[[int, Policy], None] | None = None,
    ahead: tuple[float, Objective] | Meta | None = None,
) -> Policy:
    """A tuned copy of `policy`; the one given stays as it is. The order of rows and everything drawn follow from `seed`.

    Args:
        rows: shuffled by the seed, or a stream of one's own.
        scope: which weights move, a `Scope`; default all.
        optimizer: default AdamW with `lr`.
        schedule: default a warm-up over 3% of the steps, then linearly to 0.
        roles: further models of the run by name.
        look: called after every step with its number and the model as it is by then, to measure it on the way.
        ahead: a step before each step, as for `fit.fit`.
    """
    from tempering.methods.scopes.full import Full
    from tempering.sample import evaluating

    model = copy.deepcopy(policy.model)
    moves: Any = Full() if scope is None else scope
    stream = Shuffled(rows, batch_size, seed) if isinstance(rows, Sequence) else rows

    def seen(metrics: Mapping[str, Any]) -> None:
        if look is not None:
            with evaluating(model):
                look(int(metrics["step"]), Policy(model, policy.tokenizer, name=policy.name))

    fitted = fit(
        {"policy": Role(model, moves), **(roles or {})},
        objective,
        stream,
        steps=steps,
        optimizer=optimizer or Optimizer(lr=lr),
        schedule=schedule or Schedule(),
        training=TRAINING,
        seed=seed,
        say=_quiet,
        on_metrics=seen,
        ahead=ahead,
    )
    live = fitted.roles["policy"]
    return Policy(live.model, policy.tokenizer, name=policy.name, handle=live.handle, decode=policy.decode, roles=policy.roles)


def score(policy: Policy, probe: Probe) -> float:
    """The mean of a probe's items: accuracy, pair accuracy, gold reward of samples, ...; every world offers its own (`world.probe("test", 200)`)."""
    (found,) = [p for p in measure(policy, [probe]).probes if p.probe == probe.name]
    return mean([item.score for item in found.items])


def loss(policy: Policy, rows: Sequence[Row], part: str = "train") -> float:
    """Cross-entropy per scored token (nats) of held rows; each segment's scored tokens must stand at its end."""
    segments = [segment for row in rows for segment in row[part]]
    pairs = [_split(segment) for segment in segments]
    return -sum(float(logp.sum()) for logp in logps_of(policy, pairs)) / sum(len(continuation) for _, continuation in pairs)


def _split(segment: Segment) -> tuple[list[int], list[int]]:
    first = int((segment.weight > 0).argmax())
    return segment.ids[:first].tolist(), segment.ids[first:].tolist()


def _quiet(sentence: str) -> None:
    """Says nothing: progress is shown by arm and seed."""
