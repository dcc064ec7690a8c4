"""`temper race A B C --budget 2000000tokens`: methods of one family under the same tokens, tuning, data and seeds; one table and one picture."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from tempering.cli.show import say, table
from tempering.errors import Interrupted, UserError

if TYPE_CHECKING:
    from tempering.race.course import Course, Done


def race(
    *methods: str,
    budget: str = "200ktokens",
    model: str = "builtin:tiny",
    data: str = "world:preferences",
    test: str | None = None,
    held: float = 0.1,
    gain: Literal["accuracy", "margin"] = "accuracy",
    shape: str = "auto",
    rates: str = "1e-5,3e-5,1e-4,3e-4",
    seeds: int = 3,
    keep: Literal["default", "quick", "none"] = "quick",
    set_: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    out: Path | None = None,
    quick: bool = False,
) -> int:
    """Race methods of one family (their losses' names) under equal tokens: a table and a picture of gain against kept.

    Every method gets one tuning run for each learning rate, chosen on validation rows, then every seed at its own rate. Runs that are done are kept:
    the same command with the same --out goes on where it was, and one with another method runs that method only.

    Args:
        methods: objectives of one family, for example dpo ipo simpo; the others are compared with the first.
        budget: tokens that each run sees, for example 2000000tokens, 2M or 200k.
        model: hub id, folder, .gguf file or builtin name.
        data: file, folder, hub id, builtin:demo-pairs, or world:preferences (new data for every seed; world:preferences:0.2 sets its label noise).
        test: test rows; by default some of the prompts (`--held`). Validation rows are always cut from the data.
        held: share of the prompts of each side that is cut from the data, at most 300; more than a tenth where there are few.
        gain: what chooses rates and is compared: how often the better answer of a held pair is the likelier one per token, or by how much
            (margin: finer where there are few pairs; but it also grows when a model only becomes surer).
        shape: how to read the rows.
        rates: learning rates to try, the same for all methods; a single one is not tuned.
        seeds: how many paired seeds; intervals are over them from two on, else over the test items.
        keep: the battery of what the model knew before.
        set_: another value of the recipe for all methods, NAME=VALUE, for example scope=full or training.batch_size=8; may be repeated.
        out: the race's folder; runs/race-... by default, the same for the same command.
        quick: two rates, one seed and two steps, to see that it runs; not a result.
    """
    from tempering.race import course as running
    from tempering.race import page, plan
    from tempering.race.picture import picture
    from tempering.race.result import result

    family, names = plan.family_of(methods)
    tokens, tried = plan.tokens_of(budget), parse_rates(rates)
    if seeds < 1:
        raise UserError(f"--seeds: expected 1 or more, got {seeds}")
    if not 0 < held < 0.5:
        raise UserError(f"--held: expected a share between 0 and 0.5, got {held:g}")
    values = _values(family, model, set_ or [])
    if quick:
        values["training"] = values["training"].model_copy(update={"batch_size": min(4, values["training"].batch_size)})
    tried, counted = (tried[:2], range(1)) if quick else (tried, range(seeds))
    asked = plan.Plan(names, tokens, tried, tuple(counted), data, test, values, shape, None, keep, held, gain)
    folder = out or Path("runs") / f"race-{'-'.join(names[:4])}-{_key(asked)}"
    began = time.monotonic()
    files = plan.prepare(asked, family, folder / "data")
    course = running.Course(asked, family, files, folder)
    if quick:
        course.steps = min(2, course.steps)
    tuning = len(names) * len(asked.rates) if len(asked.rates) > 1 else 0
    say(f"race {folder}: {len(names)} methods, {course.steps} steps ({course.steps * course.tokens_per_step:,.0f} tokens) a run, "
        f"{tuning} tuning runs and {len(names) * len(asked.seeds)} runs that count")  # fmt: skip
    done: list[Done] = []
    try:
        for leg in running.run(course, say):
            done.append(leg)
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(f"stopped with {len(done)} runs done; the same command goes on from there") from None
    if data.startswith("world:"):
        say("  gold reward of what the models themselves write ...")
    golds = {d.folder: _gold(d, course) for d in done if not d.leg.tuning} if data.startswith("world:") else {}
    found = result(asked, family, course.steps, done, golds=golds, quick=quick, seconds=time.monotonic() - began)
    from tempering.home import write_atomic

    write_atomic(folder / "race.json", found.to_json())
    write_atomic(folder / "race.svg", str(picture(found, alone=True)) + "\n")
    write_atomic(folder / "race.html", page.render(found))
    say()
    headings = page.headings(found)
    table(headings, [page.cells(found, lane) for lane in found.lanes], right=range(1, len(headings)), wrap=range(len(headings)))
    for note in page.notes(found):
        say(note)
    say(f"race {folder / 'race.html'}")
    return 0


def parse_rates(text: str) -> tuple[float, ...]:
    """ "1e-5,1e-4" as numbers, ascending.

    Raises:
        UserError: not that.
    """
    try:
        rates = tuple(sorted(float(part) for part in text.split(",")))
    except ValueError:
        raise UserError(f"--rates: expected learning rates with commas, for example 1e-5,1e-4, got {text!r}") from None
    if not all(0 < rate < 10 for rate in rates) or len(set(rates)) < len(rates):
        raise UserError(f"--rates: expected different numbers above 0, got {text!r}")
    return rates


def _values(family: str, model: str, given: list[str]) -> dict[str, Any]:
    """The recipe's arguments but for what a race sets itself."""
    from tempering import index
    from tempering.cli.values import Signature

    recipe = index.recipe_of_family(family)
    pairs = [text.partition("=") for text in given]
    if bad := next((text for text, (name, sign, _) in zip(given, pairs, strict=True) if not name or not sign), None):
        raise UserError(f"--set {bad}: expected NAME=VALUE, for example --set scope=full")
    own = ("data", "test", "loss", "seed", "optimizer.lr", "lr", "budget", "limit", "shape", "training.steps", "steps")
    if taken := next((name for name, _, _ in pairs if name in own or name.startswith(("loss.", "budget."))), None):
        raise UserError(f"--set {taken}=...: a race sets this itself; use its own flags")
    signature = Signature(index.load(recipe), recipe.name)
    values: dict[str, Any] = signature.resolve(signature.from_python({"model": model, **{name: value for name, _, value in pairs}}))
    return values


def _key(asked: Any) -> str:
    import hashlib

    return hashlib.sha256(repr(asked).encode()).hexdigest()[:8]


def _gold(done: Done, course: Course) -> float:
    """Mean gold reward of what the tuned model writes to the test requests of its seed's world; kept beside the run."""
    import json

    from tempering import models
    from tempering.home import write_atomic
    from tempering.measure import measure
    from tempering.race.plan import world_of

    file = done.folder / "gold.json"
    if not file.is_file():
        probe = world_of(course.plan.data, done.leg.seed).reward_probe("test", 60)
        (scores,) = measure(models.load(str(done.folder / "model"), say=lambda _: None), [probe]).probes
        write_atomic(file, json.dumps({"gold": sum(item.score for item in scores.items) / len(scores.items)}))
    return float(json.loads(file.read_text(encoding="utf-8"))["gold"])
