"""Shadow models for LiRA (`probes/lira.py`), trained for real: `temper run forget --shadow-models 16`.

The rows in question are those that are to go and as many that no model was taught (`--holdout`). Each shadow model learns like the model that
forgets, with the same base, settings and retain rows, but a random half of the rows in question in place of the forget rows; every one of these rows
is in exactly half of the shadow models. So what is asked is: is a row to this model what it is to one that learned it, or to one that did not?

Nothing is forgotten in the shadow models. An attacker who also knows how was forgotten, and does that to shadow models too (Hayes et al. 2024,
arXiv:2403.01218), finds more; that costs a forgetting for each shadow model and row, and is not done here.

Of a shadow model only its losses on the rows are kept, in the store under its content: numbers without words. A run that was stopped goes on with the
shadow model at which it was, at its newest checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tempering.config import Value
from tempering.distributed import word
from tempering.errors import UserError
from tempering.forgetting.benchmarks import UNSEEN
from tempering.forgetting.oracle import Chained, learn
from tempering.held import Rows
from tempering.home import kept_folder, store_dir, write_atomic
from tempering.stages import content_key, content_of

if TYPE_CHECKING:
    import numpy as np

    from tempering.experiment import Experiment
    from tempering.methods.probes.lira import LiRA
    from tempering.types import Row, Scores

PROBE, FILE = "forget_lira", "lira.json"
FEWEST = 8
"""Rows of each kind, below which an AUC says nothing."""


class Shadows(Value):
    """Models like the one that forgets, trained to tell what it was trained on (LiRA)."""

    shadow_models: int = Field(default=0, ge=0)
    """How many are trained; 0: no such attack. 4 at least, the paper takes 64 to 256; each takes as long as making the model that forgets."""
    shadow_base: str | None = None
    """What they start from, where `base` does not say it: what the model that forgets was fine-tuned from, with the settings of `learning`."""


@dataclass(frozen=True)
class Asked:
    """What all shadow models share."""

    base: str
    rows: Sequence[Row]
    """The rows in question, under the part "forget": those that are to go, then the others."""
    members: int
    staying: Sequence[Row]
    inputs: Mapping[str, Any]
    """What names the content of all that."""


def halves(models: int, rows: int, seed: int) -> np.ndarray:
    """[S, N] which rows a shadow model learns: each row is in half of the models (the smaller half of an odd number), drawn row by row."""
    import numpy as np

    order = np.random.Generator(np.random.PCG64([seed, models, rows])).random((models, rows)).argsort(0)
    return order.argsort(0) < models // 2


def probe(run: Experiment, going: Rows, staying: Sequence[Row], how: Mapping[str, Any]) -> LiRA | None:
    """The attack, once the shadow models are trained; None where none are asked for.

    Args:
        going: the forget rows as they were learned.
        staying: the retain rows as they were learned.
        how: how rows are read.

    Raises:
        UserError: too few models or rows, no rows that were never learned, or nothing that says what the model was fine-tuned from.
    """
    from tempering.methods.probes.lira import LiRA

    v = run.values
    models, seed = v["shadows"].shadow_models, int(v["seed"])
    if not models or run.rehearses:
        return None
    asked = _asked(run, going, staying, how)
    was_in = halves(models, len(asked.rows), seed)
    losses = [_losses(run, asked, number, was_in) for number in range(models)]
    return LiRA(name=PROBE, rows=asked.rows, part="forget", members=asked.members, shadows=losses, was_in=was_in.tolist())


def _asked(run: Experiment, going: Rows, staying: Sequence[Row], how: Mapping[str, Any]) -> Asked:
    from tempering.data import forget_row
    from tempering.models.places import find
    from tempering.models.tokens import read_tokenizer

    v = run.values
    models, base, flag = v["shadows"].shadow_models, v["base"] or v["shadows"].shadow_base, "--shadow-models"
    unseen = v["holdout"] or UNSEEN.get(v["forget"])
    if v["base"] and v["shadows"].shadow_base:
        raise UserError(
            f"--shadow-base {v['shadows'].shadow_base}: --base {v['base']} says already what the model is made from; leave one of them out"
        )
    if word.several():
        raise UserError(
            f"{flag} {models}: shadow models are trained by one process; run this without --processes, other runs take them from the store"
        )
    if models < 4:
        raise UserError(f"{flag} {models}: at least 4 are needed, so that two models saw each row and two did not")
    if base is None:
        raise UserError(
            f"{flag} {models}: they are trained like the model that forgets; say from what with --base MODEL, or --shadow-base MODEL beside --model"
        )
    if unseen is None:
        raise UserError(
            f"{flag} {models}: rows of the same kind that no model learned are needed beside the forget rows; name them with --holdout FILE"
        )
    if read_tokenizer(find(base, run.display.say).folder).get_vocab() != run.tokenizer.get_vocab():
        raise UserError(f"--shadow-base {base}: it has other tokens than the model that forgets, which cannot have been made from it")
    others = run.all_rows("holdout", unseen, forget_row, **how)
    # As many of the one kind as of the other, so that a shadow model learns as many rows as the model that forgets.
    size = min(len(going), len(others))
    if size < FEWEST:
        raise UserError(f"{flag} {models}: {len(going)} forget rows and {len(others)} rows of {unseen}; at least {FEWEST} of each are needed")
    taken = Rows(others.table, [others.indices[i * len(others) // size] for i in range(size)])
    rows = [*(dict(going[i]) for i in range(len(going))), *(dict(taken[i]) for i in range(size))]
    data, start = run.lock["data"], run.tokenizer.backend_tokenizer.to_str()
    inputs = {"base": content_of(base) or base, "template": v["template"], "learning": v["learning"].model_dump(), "how": dict(how), "tokens": start}
    inputs |= {role: data[role]["sha256"] for role in ("forget", "retain", "holdout")}
    inputs |= {"models": models, "seed": int(v["seed"]), "precision": v["training"].precision, "rows": [len(going), size, len(staying)]}
    return Asked(base, rows, len(going), staying, inputs)


def _losses(run: Experiment, asked: Asked, number: int, was_in: np.ndarray) -> list[float]:
    """The losses of one shadow model on the rows in question; trained once for the same content."""
    from tempering.methods.probes.lira import row_losses

    folder = store_dir("shadows") / content_key({**asked.inputs, "number": number})[:32]
    name, seed = f"shadow model {number + 1} of {len(was_in)}", int(run.values["seed"]) + 1 + number
    if not folder.is_dir():
        own = [row for row, inside in zip(asked.rows, was_in[number], strict=True) if inside]
        rows = Chained((own, "forget"), (asked.staying, "retain"))
        with kept_folder(folder) as place:
            made, cost = learn(run, name, asked.base, rows, run.values["learning"], seed, place)
            found = {"losses": row_losses(made, asked.rows, "forget"), "cost": cost}
            shutil.rmtree(place / "checkpoints", ignore_errors=True)
            write_atomic(place / "shadow.json", json.dumps(found))
    return json.loads((folder / "shadow.json").read_text())["losses"]


def told(before: Scores, after: Scores, oracle: Scores | None, models: int) -> dict[str, Any]:
    """What the attack found, as JSON can hold it: for each model and form AUC and true-positive rate with 95% intervals; {} where it was not run.

    The intervals are over rows, the rate's at the threshold as it is.
    """
    from tempering.stats import auc_interval, share_interval

    found: dict[str, Any] = {}
    for name, scores in (("before", before), ("after", after), ("oracle", oracle)):
        for p in scores.probes if scores else ():
            if p.probe.split(".")[0] != PROBE:
                continue
            members = sum(item.extra["member"] > 0 for item in p.items)
            others = len(p.items) - members
            rate = p.summary["tpr_at_1_fpr"]
            form = p.probe.removeprefix(PROBE).lstrip(".") or "online"
            numbers = {"auc": auc_interval(p.summary["auc"], members, others), "tpr_at_1_fpr": share_interval(round(rate * members), members)}
            found |= {"shadow_models": models, "members": members, "others": others}
            found.setdefault(name, {})[form] = {key: asdict(value) for key, value in numbers.items()}
    return found


def sentence(found: Mapping[str, Any]) -> str:
    """One line of what `told` found; "" where it is empty."""
    if not found:
        return ""
    parts = []
    for name in ("before", "after", "oracle"):
        if name in found:
            auc, rate = (found[name]["online"][key] for key in ("auc", "tpr_at_1_fpr"))
            hits = f"{100 * rate['point']:.0f}% [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}] of the rows at 1% false positives"
            parts.append(f"{name} AUC {auc['point']:.2f} [{auc['low']:.2f}, {auc['high']:.2f}], {hits}")
    few = "" if found["others"] >= 100 else f" ({found['others']} unseen rows: 1% of them is none)"
    return f"LiRA with {found['shadow_models']} shadow models, can the forget rows be told from unseen ones: " + "; ".join(parts) + few
