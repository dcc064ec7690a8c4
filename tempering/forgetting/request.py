"""One request to forget, from the model that knows to the verdict: the steps of `temper run forget`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.forgetting import audit, battery, benchmarks, doors, looks, neighbours, oracle, shadows, staged, until
from tempering.forgetting.alternates import going_rows
from tempering.forgetting.redact import redacted
from tempering.forgetting.verdict import Verdict, tell
from tempering.stages import content_of

if TYPE_CHECKING:
    from tempering.held import Rows
    from tempering.types import Row, Scores


def carry_out(run: Experiment, objective: Any) -> Report:
    """Forget, measure before and after, attack, and write down what came of it; what else it needs stands in the run's values.

    Raises:
        UserError: an unusable rule for when to stop, or data the method cannot use.
    """
    from tempering import models
    from tempering.data import forget_row, retain_row
    from tempering.data.streams import Shuffled, Together
    from tempering.forgetting.unlabelled import Prompts

    battery.check(run.values)
    if run.values["audit"] and Path(run.values["audit"]).exists():
        audit.verify(Path(run.values["audit"]))
    policy = run.load(run.values["base"] or run.values["model"], template=run.values["template"])
    doors.enter(run, policy)
    v = run.values
    how: dict[str, Any] = {"shape": v["shape"], "limit": v["limit"], "max_length": v["max_length"]}
    staying, held = run.rows(v["retain"], v["retain_test"], retain_row, roles=("retain", "retain-test"), **how)
    never = v["oracle"]
    ratios = shadows.probe(run, run.all_rows("forget", v["forget"], forget_row, **how), staying, how) if v["shadows"].shadow_models else None
    if v["base"]:
        knowing, made = _made(run, run.all_rows("forget", v["forget"], forget_row, **how), staying)
        never = never or made
        policy = run.load(knowing, template=v["template"])
    going = going_rows(run, policy, objective, v["forget"], **how)
    if v["scope"].kind != "lora" and any("reference.logp" in names for names in objective.needs.values()):
        # Adapters can be switched off; all weights would need a second model in memory.
        (going,) = run.cache_reference(policy, going)
    learned, kept, later = (Prompts(rows) if objective.unlabelled else rows for rows in (going, staying, held))
    run.check(objective, [{**learned[0], **kept[0]}])
    probes = (*battery.probes(run, held, decodes=objective.decodes), *([ratios] if ratios else []))
    if v["until"]:
        until.read(v["until"], probes, oracle=bool(never))
    hide = redacted if v["redact"] else lambda scores: scores
    before = run.measure("before", policy, held, probes=probes, hide=hide)
    reference = (
        run.measure("oracle", models.load(never, say=run.display.say), held, probes=probes, hide=hide) if never and not run.rehearses else None
    )
    stop = until.parse(v["until"], probes, before, reference, policy.tokenizer) if v["until"] and not run.rehearses else None
    training, seed = v["training"], int(v["seed"])
    wanted = [rows for rows in (learned, kept) if set(objective.needs) & set(rows[0])]
    streams = [Shuffled(rows, training.batch_size, seed + i) for i, rows in enumerate(wanted)]
    steps = training.steps or max(1, -(-round(training.epochs * len(going)) // training.batch_size))
    watched = battery.beside(learned, later)
    stream, rule = Together(*streams), (stop, until.EVERY) if stop else None
    if (every := v["looks"].look_every) and not run.rehearses:
        stream = looks.Counted(stream)
        rule = looks.watch(run, policy, held, never, stream, stop), every
    tuned = staged.fit(run, policy, objective, learned, kept, watched, (stream, steps), rule)
    after = run.measure("after", tuned, held, probes=probes, hide=hide)
    found = _write(run, before, after, reference, going, never)
    report = run.finish(tuned, before, after)
    doors.leave(run)
    if v["audit"]:
        _audit(run, report, before, after, reference, found)
    return report


def _made(run: Experiment, going: Rows, staying: Rows) -> tuple[str, str]:
    """Folders of the base fine-tuned on everything, and on what stays."""
    v, data = run.values, run.lock["data"]
    if v["model"] != "builtin:tiny":
        raise UserError(f"--base {v['base']} makes the model that is to forget, so --model {v['model']} would go unused; leave one of them out")
    if run.rehearses:
        return v["base"], v["base"]
    shared = {"base": content_of(v["base"]) or v["base"], "retain": data["retain"]["sha256"], "template": v["template"]}
    every = oracle.Chained((going, "forget"), (staying, "retain"))
    knowing = oracle.learned(run, "knowing", v["base"], every, v["learning"], {**shared, "forget": data["forget"]["sha256"]})
    alone = oracle.learned(run, "oracle", v["base"], oracle.Chained((staying, "retain")), v["learning"], shared)
    run.lock["knowing"] = knowing.name
    return str(knowing), str(alone)


def _write(run: Experiment, before: Scores, after: Scores, reference: Scores | None, going: Sequence[Row], never: str | None) -> Verdict | None:
    """forgetting.json, neighbours.json, benchmarks.json, lira.json, and what they say in short."""
    near = neighbours.bands(before, after, reference, battery.questions(going, run))
    run.folder.write("neighbours.json", [band.plain() for band in near])
    retraining = oracle.cost_of(never) if never else None
    numbers = [*benchmarks.write(run, before, after, reference)]
    if told := shadows.sentence(ratios := shadows.told(before, after, reference, run.values["shadows"].shadow_models)):
        run.folder.write(shadows.FILE, ratios)
        numbers.append(f"{told}.")
    cost = {"unlearning": run.cost, "retraining": retraining}
    found = tell(run, before, after, reference, numbers=numbers, cost=cost, redacted=run.values["redact"])
    if retraining and run.cost.get("seconds"):
        run.display.say(f"unlearning took {run.cost['seconds']:.0f} s of training; making the oracle took {retraining['seconds']:.0f} s")
    return found


def _audit(run: Experiment, report: Report, before: Scores, after: Scores, reference: Scores | None, found: Verdict | None) -> None:
    """Append this request to the log; its own hash is told, so that it can be noted elsewhere."""
    v = run.values
    record = {
        "run": str(run.folder.path.resolve()),
        "model": run.lock.get("model"),
        "method": v["method"].model_dump(mode="json"),
        "scope": v["scope"].model_dump(mode="json"),
        "data": {role: {"sha256": of["sha256"], "rows": of["rows"]} for role, of in run.lock["data"].items()},
        "before": audit.summary(before),
        "after": audit.summary(after),
        "oracle": audit.summary(reference) if reference else None,
        "attacks": [{"attack": leak.attack, "secrets": leak.n, "out": leak.after, "oracle": leak.oracle} for leak in found.leaks] if found else [],
        "verdict": found.sentence if found else "not attacked",
        "kept": report.ledger.keep.point if report.ledger.keep else None,
        "weights": content_of(str(run.folder.path / "model")),
    }
    head = audit.append(Path(v["audit"]), record)
    run.display.say(f"audit {v['audit']}: the last line's hash is {head}")
