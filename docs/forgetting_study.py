"""The study of docs/forgetting.md: SmolLM2-135M learns TOFU's authors by heart, and a tenth of them is to go again.

    python docs/forgetting_study.py rows FOLDER      # the slices as files
    python docs/forgetting_study.py learn FOLDER     # the model that knows and the one that never saw
    python docs/forgetting_study.py forget FOLDER    # every method and scope, or the first N; what is done is not done again
    python docs/forgetting_study.py attack FOLDER NPO-lora ...     # the whole battery on the models that these runs left
    python docs/forgetting_study.py memory FOLDER 0  # the peak of a training without measuring: run 0 of twelve
    python docs/forgetting_study.py collect FOLDER   # the numbers of all that is there, and no word of the data, into docs/forgetting_study.json
    python docs/forgetting_study.py write            # the page's tables and picture from that file

Data are read in place from `../shared/data/tofu`: rows of `forget10` and of TOFU's retain rows with answers of at most 100 characters, because the
study was made on one processor core. Of the rows that stay, some that have false answers beside them are kept back: the models have learned them, and
no retain term is shown them.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tempering.items import mean

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data" / "tofu"
PAGE, RESULT, PICTURE = (Path(__file__).parent / name for name in ("forgetting.md", "forgetting_study.json", "images/forgetting.svg"))
BASE = "builtin:smollm2-135m"
LEARNING = {"learn_epochs": 4.0, "learn_lr": 4e-4, "learn_batch_size": 4}
WAYS = {"GradDiff": ("gradient_ascent", {"retain_loss": "nll"}), "NPO": ("npo", {"retain_loss": "nll"}), "SimNPO": ("simnpo", {"retain_loss": "nll"})}
WAYS |= {"IDK-DPO": ("idk_dpo", {"retain_loss": "nll"}), "UNDIAL": ("undial", {"retain_loss": "nll"}), "RMU": ("rmu", {"layer": 7})}
"""What a method is called in the table -> its name and settings."""
RATES = {"lora": 1e-3, "full": 1e-4}
"""Chosen before anything was run, the same for all methods: an earlier look at this model had GradDiff forget half at 1e-4 with all weights, and
adapters usually take ten times that."""
SCOPES = {"lora": "LoRA", "full": "all weights"}
STEPS, ROWS = 12, 4
RELEARNED = 5
"""Steps for which a copy is taught again; the battery's own 20 would take longer than everything else."""
LOOKED = 4
"""Steps after which peak memory is read."""
FILES = {"forget": "forget", "forget_test": "forget-reworded", "retain": "retain", "retain_test": "kept"}
GOING, STAYING, KEPT, LONGEST = 12, 108, 12, 100
"""Rows that go and that stay, how many of these are kept back, and the characters of the longest answer."""


def lines(name: str) -> list[dict[str, Any]]:
    """The rows of one file whose answers are short."""
    rows = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if len(row["answer"]) <= LONGEST]


def prepare(folder: Path) -> None:
    """The slices as files of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    going, false, more = (lines(name) for name in ("forget10_perturbed", "retain_perturbed", "retain90"))
    asked = {row["question"] for row in false}
    staying = [*false, *(row for row in more if row["question"] not in asked)][:STAYING]
    kept = [row for row in staying if "perturbed_answer" in row]
    kept = kept[:: len(kept) // KEPT][:KEPT]
    rows = {
        "forget": going[:GOING],
        "forget-reworded": [{"question": row["paraphrased_question"], "answer": row["answer"]} for row in going[:GOING]],
        "learned": staying,
        "retain": [row for row in staying if row not in kept],
        "kept": kept,
        "holdout": lines("holdout10")[:GOING],
    }
    for name, some in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
        print(f"{name}: {len(some)} rows")


def learn(folder: Path) -> None:
    """Both fine-tunes: `temper run` makes them, and a step of forgetting that nobody looks at."""
    from tempering.cli import main

    flags = f"--forget {folder}/forget.jsonl --retain {folder}/learned.jsonl --retain-test {folder}/kept.jsonl --base {BASE} --out {folder}/learn"
    settings = " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in LEARNING.items())
    light = "--attacks none --keep none --steps 1 --batch-size 1 --lr 1e-6 --max-test 8 --precision fp32"
    if not (folder / "learn").is_dir():
        sys.exit(main(["run", "gradient_ascent", *flags.split(), *settings.split(), *light.split()]))


def legs() -> list[tuple[str, str]]:
    """(scope, name of a method) in the order in which they are run."""
    return [(scope, name) for scope in RATES for name in WAYS]


def values(folder: Path, scope: str, name: str) -> tuple[Any, dict[str, Any]]:
    """The recipe and its arguments for one run."""
    from tempering import choices, index
    from tempering.cli.values import Signature
    from tempering.forgetting import tune

    recipe = index.load(index.recipe_of_family("forget"))
    signature = Signature(recipe, "forget")
    shared: dict[str, Any] = {**models(), **{key: f"{folder / file}.jsonl" for key, file in FILES.items()}}
    shared |= {"steps": STEPS, "batch_size": ROWS, "max_test": GOING, "attack_limit": GOING, "keep": "none", "precision": "fp32"}
    # What the whole battery costs was seen in the first run; of the others `attack` tries it on some.
    shared["attacks"] = "asking" if (scope, name) == legs()[0] else "plain"
    kind, settings = WAYS[name]
    resolved = signature.resolve(signature.from_python({**shared, "scope": scope}))
    return recipe, tune.at(resolved, choices.choice(kind)(**settings), RATES[scope])


def models() -> dict[str, str]:
    """What `learn` made."""
    from tempering.home import store_dir

    return {name: str(next(store_dir("learned").glob(f"{made}-*"))) for name, made in (("model", "knowing"), ("oracle", "oracle"))}


def place_of(folder: Path, scope: str, name: str) -> Path:
    """Where a run goes."""
    return folder / "runs" / f"{name}-{scope}"


def named(key: str) -> tuple[str, str]:
    """Scope and name of a run by its key, as in NPO-lora."""
    name, _, scope = key.rpartition("-")
    return scope, name


def forget(folder: Path, most: int | None = None) -> None:
    """Every way, a run each; the start and the oracle are measured in the first under the same attacks."""
    from tempering.execution import leg
    from tempering.forgetting import trade, tune

    first: dict[str, Path] = {}
    for scope, name in legs()[:most]:
        recipe, arguments = values(folder, scope, name)
        place = place_of(folder, scope, name)
        tune.measured_before(first.get(arguments["attacks"]), place, trade.SAME)
        leg(recipe, arguments, place, "docs/forgetting_study.py")
        first.setdefault(arguments["attacks"], place)
        print(name, scope, json.loads((place / "forgetting.json").read_text())["sentence"], flush=True)


def attack(folder: Path, *keys: str) -> None:
    """The whole battery and TOFU's numbers, of models that runs left, of "start" and of "oracle"; a file each, with what is not there yet."""
    from dataclasses import replace

    from pydantic import TypeAdapter

    from tempering import models as loading
    from tempering import types
    from tempering.data import read
    from tempering.forgetting import battery, tofu
    from tempering.forgetting.targets import secrets
    from tempering.home import write_atomic
    from tempering.measure import measure
    from tempering.methods.probes.relearned import Relearned

    as_scores = TypeAdapter(types.Scores)
    of, known = (secrets(read(f"{folder / name}.jsonl"), GOING) for name in ("forget", "retain"))
    probes = battery.attack_probes(of, (), "all", known=known, start=models()["model"], few=GOING)
    probes = [p.model_copy(update={"steps": (RELEARNED,)}) if isinstance(p, Relearned) else p for p in probes]
    going, kept = (tofu.facts(read(f"{folder / name}.jsonl"), GOING) for name in ("forget", "kept"))
    probes += [*tofu.probes(going, "forget", "target"), *tofu.probes(kept, "retain", "keep")]
    made = {"start": models()["model"], "oracle": models()["oracle"]}
    for key in keys:
        path, model = folder / "attacked" / f"{key}.json", made.get(key) or str(place_of(folder, *named(key)) / "model")
        measured = {p.probe for p in scores_of(folder, key).probes}
        if missing := [p for p in probes if p.name not in measured]:
            scores = measure(loading.load(model, say=lambda _: None), missing)
            before = as_scores.validate_json(path.read_bytes()).probes if path.exists() else ()
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, as_scores.dump_json(replace(scores, probes=(*before, *scores.probes))).decode())
        print(key, {p.probe: sum(item.score < 1 for item in p.items) for p in scores_of(folder, key).probes}, flush=True)


def scores_of(folder: Path, key: str) -> Any:
    """Everything that was measured of a model: in its run, and by `attack`."""
    from dataclasses import replace

    from pydantic import TypeAdapter

    from tempering import types

    runs = [place_of(folder, scope, name) for scope, name in legs()]
    name = {"start": "before", "oracle": "oracle"}.get(key, "after")
    paths = [runs[0] / f"{name}.scores.json" if key in ("start", "oracle") else place_of(folder, *named(key)) / "after.scores.json"]
    paths += [path for path in [folder / "attacked" / f"{key}.json"] if path.exists()]
    first, *more = (TypeAdapter(types.Scores).validate_json(path.read_bytes()) for path in paths)
    return replace(first, probes=(*first.probes, *(p for scores in more for p in scores.probes)))


def memory(folder: Path, number: int) -> None:
    """Peak memory of a run's training, without what is measured before and after it: written as soon as it has trained."""
    import resource
    import shutil

    from tempering.execution import leg
    from tempering.experiment import Experiment
    from tempering.home import write_atomic

    scope, name = legs()[number]
    recipe, arguments = values(folder, scope, name)
    arguments["training"] = arguments["training"].model_copy(update={"steps": LOOKED})
    train = Experiment.fit

    def trained(run: Any, *given: Any, **how: Any) -> Any:
        train(run, *given, **how)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        path = folder / "memory.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        write_atomic(path, json.dumps(found | {f"{name}-{scope}": peak}, indent=1))
        print(name, scope, f"{peak:.3f} GiB", flush=True)
        sys.exit(0)

    Experiment.fit, Experiment.measure = trained, lambda *given, **how: None  # type: ignore[assignment, method-assign]
    place = folder / "memory" / f"{name}-{scope}"
    shutil.rmtree(place, ignore_errors=True)
    leg(recipe, arguments, place, "docs/forgetting_study.py")


def collect(folder: Path) -> None:
    """The numbers of all that is there."""
    from tempering.forgetting import benchmarks, verdict
    from tempering.home import write_atomic

    runs = {f"{name}-{scope}": place_of(folder, scope, name) for scope, name in legs()}
    order = [f"{name}-{scope}" for name in WAYS for scope in SCOPES]
    done = [key for key in order if (runs[key] / "after.scores.json").exists()]
    every = {key: scores_of(folder, key) for key in ("start", "oracle", *done)}
    start, oracle = every["start"], every["oracle"]
    peaks = json.loads(path.read_text()) if (path := folder / "memory.json").exists() else {}
    found: dict[str, Any] = {}
    for key, scores in every.items():
        kinds = {"out": verdict.METRIC, "beside": verdict.BESIDE}
        one: dict[str, Any] = {kind: {p.probe: _out(p) for p in scores.probes if p.metric == metric} for kind, metric in kinds.items()}
        one |= benchmarks.benchmarks(start, scores, oracle)["after"] | ({"peak_gib": peaks[key]} if key in peaks else {})
        found[key] = one
        # The loss of each kept row, less what it was: how likely a token is against before.
        change = [a.score - b.score for a, b in zip(_probe(scores, "retain_loss"), _probe(start, "retain_loss"), strict=True)]
        middle, low, high = interval(change)
        one["kept"] = [math.exp(-x) for x in (middle, high, low)]
        one["right"] = [sum(item.score == 1 for item in _probe(scores, "retain_answer")), GOING]
        if key in runs:
            one["seconds"] = json.loads((runs[key] / "forgetting.json").read_text())["cost"]["unlearning"]["seconds"]
    write_atomic(RESULT, json.dumps(found, indent=1) + "\n")


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """A mean and its t interval."""
    from scipy import stats

    middle = mean(values)
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(set(values)) > 1 else 0.0
    return middle, middle - half, middle + half


def _out(scores: Any) -> list[int]:
    """[secrets that came out, secrets asked for]"""
    return [sum(item.score < 1 for item in scores.items), len(scores.items)]


def _probe(scores: Any, name: str) -> Any:
    return next(p.items for p in scores.probes if p.probe == name)


def write() -> None:
    """The tables and the picture."""
    from tempering.report.scatter import Axis, Mark, scatter
    from tempering.stats import share_interval

    found = json.loads(RESULT.read_text())
    names = {key: title(key) for key in found}
    text = PAGE.read_text(encoding="utf-8")
    for name, table in (("methods", outcomes(found, names)), ("attacks", attacks(found, names))):
        begin, end = f"<!-- table: {name} -->\n", "\n<!-- end of table -->"
        assert begin in text and end in text, f"{PAGE} has no place for the table {name}"
        before, _, rest = text.partition(begin)
        text = before + begin + "\n".join(table) + end + rest.partition(end)[2]
    PAGE.write_text(text, encoding="utf-8")
    marks = []
    for key, one in found.items():
        attack = strongest(one)
        out, of = one["out"][attack]
        share = share_interval(of - out, of)
        point, low, high = (min(1.0, end) for end in one["kept"])
        said = f"{names[key]}: {out} of {of} out ({attack}), a kept token {point:.0%} as likely"
        marks.append(Mark(names[key], (share.point, share.low, share.high), (point, low, high), said, key in ("start", "oracle")))
    x, y = (Axis(told, lambda v: f"{v:.0%}", 1.0) for told in ("secrets that stay in under the strongest attack", "a kept token is as likely"))
    label = "Kept against secrets that stay in. " + "; ".join(m.said for m in marks)
    PICTURE.write_text(scatter(marks, x, y, label, alone=True) + "\n", encoding="utf-8")


def title(key: str) -> str:
    """What a model is called."""
    name, _, scope = key.rpartition("-")
    return {"start": "tuned model", "oracle": "oracle"}.get(key) or f"{name}, {SCOPES[scope]}"


def strongest(one: dict[str, Any]) -> str:
    """The attack of those that count that gets the largest share out."""
    return max(one["out"], key=lambda attack: one["out"][attack][0] / one["out"][attack][1])


def outcomes(found: dict[str, Any], names: dict[str, str]) -> list[str]:
    """The table of what every run was asked, and of what was kept."""
    heads = ("", "asked plainly", "in TOFU's other words", "a kept token is as likely", "kept answers, word for word", "training", "peak")
    table = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for key, one in found.items():
        kept = "{:.0%} [{:.0%}, {:.0%}]".format(*one["kept"]) if key != "start" else ""
        cells = [
            names[key],
            *("{} of {}".format(*one["out"][attack]) for attack in ("asked", "asked in other words")),
            kept,
            "{} of {}".format(*one["right"]),
        ]
        cells += [f"{one['seconds']:.0f} s" if "seconds" in one else "", f"{one['peak_gib']:.2f} GiB" if "peak_gib" in one else ""]
        table.append(f"| {' | '.join(cells)} |")
    return table


def attacks(found: dict[str, Any], names: dict[str, str]) -> list[str]:
    """The table of the whole battery: what was tried on every model."""
    table = [f"| attack | of | {' | '.join(names[key] for key in found)} |", "|---" * (len(found) + 2) + "|"]
    for kind, said in (("out", ""), ("beside", ", beside")):
        first, *others = (one[kind] for one in found.values())
        for attack in (attack for attack in first if all(attack in other for other in others)):
            table.append(f"| {attack}{said} | {first[attack][1]} | {' | '.join(str(one[kind][attack][0]) for one in found.values())} |")
    worst = ["{:.0%}".format(one["out"][attack][0] / one["out"][attack][1]) for one in found.values() for attack in [strongest(one)]]
    utility = [f"{one['model_utility']:.3f}" for one in found.values()]
    quality = [f"{one['forget_quality']['p_value']:.2g}" for one in found.values()]
    table += [f"| **the strongest that counts** | | {' | '.join(worst)} |", f"| TOFU's model utility | | {' | '.join(utility)} |"]
    return [*table, f"| its forget quality, p | | {' | '.join(quality)} |"]


if __name__ == "__main__":
    commands: dict[str, Any] = {
        "rows": prepare,
        "learn": learn,
        "forget": forget,
        "attack": attack,
        "memory": memory,
        "collect": collect,
        "write": write,
    }
    commands[sys.argv[1]](*map(Path, sys.argv[2:3]), *(int(text) if text.isdigit() else text for text in sys.argv[3:]))
