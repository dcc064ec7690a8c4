"""The study of docs/forgetting.md: SmolLM2-135M learns TOFU's authors by heart, and a tenth of them is to go again.

    python docs/forgetting_study.py rows FOLDER      # the slices as files
    python docs/forgetting_study.py learn FOLDER     # the model that knows and the one that never saw
    python docs/forgetting_study.py forget FOLDER    # every method and scope, or the first N; what is done is not done again
    python docs/forgetting_study.py weights FOLDER   # the attacks that change weights, on the models of those runs, likewise
    python docs/forgetting_study.py memory FOLDER 0  # the peak of a training without measuring: leg 0
    python docs/forgetting_study.py collect FOLDER   # the numbers of all that is there, and no word of the data, into docs/forgetting_study.json
    python docs/forgetting_study.py write            # the page's tables and picture from that file

Data are read in place from `../shared/data/tofu`: rows of `forget10` and of TOFU's retain rows with answers of at most 100 characters, because the
study was made on one processor core. Of the rows that stay, some that have false answers beside them are kept back: the models have learned them, and
no retain term is shown them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data" / "tofu"
BASE = "builtin:smollm2-135m"
LEARNING = {"learn_epochs": 4.0, "learn_lr": 4e-4, "learn_batch_size": 4}
WAYS = {"GradDiff": ("gradient_ascent", {"retain_loss": "nll"}), "NPO": ("npo", {"retain_loss": "nll"}), "SimNPO": ("simnpo", {"retain_loss": "nll"})}
WAYS |= {"IDK-DPO": ("idk_dpo", {"retain_loss": "nll"}), "UNDIAL": ("undial", {"retain_loss": "nll"}), "RMU": ("rmu", {"layer": 7})}
"""What a method is called in the table -> its name and settings."""
RATES = {"lora": 1e-3, "full": 1e-4}
"""Chosen before anything was run: what usually trains this model, and a tenth of it where all weights move."""
STEPS, ROWS = 12, 4
ATTACKS = "asking"
RELEARNED = 5
"""Steps for which a copy is taught again; the battery's own 20 would take longer than everything else."""
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
    return [(scope, name) for name in WAYS for scope in RATES]


def values(folder: Path, scope: str, name: str) -> tuple[Any, dict[str, Any]]:
    """The recipe and its arguments for one run."""
    from tempering import choices, index
    from tempering.cli.values import Signature
    from tempering.forgetting import tune

    recipe = index.load(index.recipe_of_family("forget"))
    signature = Signature(recipe, "forget")
    shared: dict[str, Any] = {**models(), **{key: f"{folder / file}.jsonl" for key, file in FILES.items()}}
    shared |= {"steps": STEPS, "batch_size": ROWS, "max_test": GOING, "attack_limit": GOING, "keep": "none", "precision": "fp32", "attacks": ATTACKS}
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


def forget(folder: Path, most: int | None = None) -> None:
    """Every way, a run each; the start and the oracle are measured in the first."""
    from tempering.execution import leg
    from tempering.forgetting import trade, tune

    first = None
    for scope, name in legs()[:most]:
        recipe, arguments = values(folder, scope, name)
        place = place_of(folder, scope, name)
        tune.measured_before(first, place, trade.SAME)
        leg(recipe, arguments, place, "docs/forgetting_study.py")
        first = first or place
        print(name, scope, json.loads((place / "forgetting.json").read_text())["sentence"], flush=True)


def weights(folder: Path, most: int | None = None) -> None:
    """Rounding, relearning and merging back: of the start, the oracle and every run, a file each."""
    from pydantic import TypeAdapter

    from tempering import models as loading
    from tempering import types
    from tempering.data import read
    from tempering.forgetting import battery
    from tempering.forgetting.targets import secrets
    from tempering.home import write_atomic
    from tempering.measure import measure
    from tempering.methods.probes.merged_back import MergedBack
    from tempering.methods.probes.relearned import Relearned

    of, known = (secrets(read(f"{folder / name}.jsonl"), GOING) for name in ("forget", "retain"))
    some = {"items": of, **battery.room(of)}
    probes = [
        p
        for p in battery.attack_probes(of, (), "all", known=known, start=models()["model"], few=GOING)
        if isinstance(p, Relearned) or p.name.startswith("quantised")
    ]
    probes = [p.model_copy(update={"steps": (RELEARNED,)}) if isinstance(p, Relearned) else p for p in probes]
    probes.append(MergedBack(start=models()["model"], **some))
    places = {"start": models()["model"], "oracle": models()["oracle"]}
    places |= {f"{name}-{scope}": str(place_of(folder, scope, name) / "model") for scope, name in legs()}
    for key, model in list(places.items())[:most]:
        path = folder / "weights" / f"{key}.json"
        if not path.exists() and Path(model).is_dir():
            path.parent.mkdir(exist_ok=True)
            scores = measure(loading.load(model, say=lambda _: None), probes)
            write_atomic(path, TypeAdapter(types.Scores).dump_json(scores).decode())
            print(key, {p.probe: sum(item.score < 1 for item in p.items) for p in scores.probes}, flush=True)


def memory(folder: Path, number: int) -> None:
    """Peak memory of a run's training, without what is measured before and after it: written as soon as it has trained."""
    import resource
    import shutil

    from tempering.execution import leg
    from tempering.experiment import Experiment
    from tempering.home import write_atomic

    scope, name = legs()[number]
    recipe, arguments = values(folder, scope, name)
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


if __name__ == "__main__":
    commands: dict[str, Any] = {"rows": prepare, "learn": learn, "forget": forget, "weights": weights, "memory": memory}
    commands[sys.argv[1]](Path(sys.argv[2]), *map(int, sys.argv[3:]))
