"""The study of docs/merging.md: SmolLM2-135M tuned on maths and on chat, merged eight ways, and what each way keeps and loses.

    python docs/merging_study.py run FOLDER      # train, merge, measure; what is there already is not made again
    python docs/merging_study.py write           # the page's table and picture from docs/merging_study.json

Data are read in place from `../shared/data` (GSM8K, UltraFeedback, SVAMP); of GSM8K the test rows are measured on and never trained on.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"
BASE = "builtin:smollm2-135m"
TRAIN, HELD = {"maths": 400, "chat": 225}, 60
MEASURED, LOOKED_AT = 12, 8
"""Held rows of each kind that every model is measured on; rows that `fisher` looks at."""
PAGE, RESULT, PICTURE = (Path(__file__).parent / name for name in ("merging.md", "merging_study.json", "images/merging.svg"))
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear, half each": ("linear", {}),
    "slerp, t 0.5": ("slerp", {"t": 0.5}),
    "task arithmetic": ("task_arithmetic", {}),
    "TIES, density 0.5": ("ties", {"density": 0.5}),
    "DARE, density 0.5": ("dare_linear", {"density": 0.5}),
    "breadcrumbs, density 0.9": ("breadcrumbs", {"density": 0.9, "gamma": 0.01}),
    "model stock": ("model_stock", {}),
    "Fisher": ("fisher", {}),
}
"""What a row of the table is called -> method and its settings."""


def lines(name: str) -> Iterator[Any]:
    """The rows of one file of the shared data."""
    path = DATA / name
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as opened:
        yield from map(json.loads, opened)


def maths(name: str, count: int) -> list[Any]:
    """Problems of GSM8K with their solutions, without the calculator's marks."""
    found = [(row["question"], re.sub(r"<<.*?>>", "", row["answer"])) for row in lines(f"gsm8k/{name}")]
    return [_talk(*pair) for pair in found[:count]]


def chat(first: int, count: int) -> list[Any]:
    """Requests and preferred replies of UltraFeedback, those of less than 2,000 characters together."""
    found = [(row["prompt"], row["chosen"]) for row in lines("ultrafeedback/train_clean.jsonl.gz")]
    return [_talk(*pair) for pair in found if sum(map(len, pair)) < 2000][first : first + count]


def _talk(user: str, assistant: str) -> Any:
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]}


def prepare(folder: Path) -> None:
    """The slices as files of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"maths": maths("train.jsonl.gz", TRAIN["maths"]), "maths-held": maths("test.jsonl", HELD)}
    rows |= {"chat": chat(0, TRAIN["chat"]), "chat-held": chat(TRAIN["chat"], HELD)}
    rows["svamp"] = [
        {"id": row["ID"], "prompt": f"{row['Body'].strip().rstrip('.')}. {row['Question']}", "answer": f"{row['Answer']:g}"}
        for row in list(lines("svamp/svamp.jsonl"))[::10]
    ]
    for name, some in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
        print(f"{name}: {len(some)} rows")


def train(folder: Path) -> None:
    """Both fine-tunes: all weights, one pass."""
    from tempering.cli import main

    for name in TRAIN:
        if not (folder / name / "model").is_dir():
            flags = f"--scope full --lr 5e-5 --batch-size 8 --precision fp32 --max-length 512 --keep none --out {folder / name}"
            code = main(["run", "sft", "--model", BASE, "--data", f"{folder / name}.jsonl", "--test", f"{folder / name}-held.jsonl", *flags.split()])
            if code:
                sys.exit(code)


def losses(spec: str, folder: Path) -> dict[str, float]:
    """Cross-entropy per scored token on the first held rows of each kind."""
    from tempering.data import read, sft_row
    from tempering.held import target_probes
    from tempering.measure import measure
    from tempering.models import load

    policy, found = load(spec), {}
    for name in TRAIN:
        rows = [row for record in read(str(folder / f"{name}-held.jsonl")) if (row := sft_row(record, policy.tokenizer, max_length=512)) is not None]
        (scores,) = [probe for probe in measure(policy, target_probes(rows[:MEASURED], MEASURED)).probes if "loss" in probe.summary]
        found[name] = scores.summary["loss"]
    return found


def compare(folder: Path) -> None:
    """Every merge, made, measured and thrown away; what this folder holds already is not measured again. All of it goes to RESULT."""
    import shutil

    from tempering.home import write_atomic
    from tempering.merging.config import parse
    from tempering.merging.run import merge

    partial = folder / "losses.json"
    found = json.loads(partial.read_text()) if partial.is_file() else {}
    parents = {name: str(folder / name / "model") for name in TRAIN}
    for name, rows in ((name, folder / f"{name}-held.jsonl") for name in TRAIN):
        (folder / f"{name}-look.jsonl").write_text("".join((folder / f"{name}.jsonl").read_text().splitlines(keepends=True)[:LOOKED_AT]))
        assert rows.is_file(), f"{rows} is missing: run without `compare` first"
    for name in ("before", *parents, *WAYS):
        if name in found:
            continue
        spec, out = {"before": BASE, **parents}.get(name), folder / "merged"
        if spec is None:
            method, settings = WAYS[name]
            spec, looks = str(out), method == "fisher"
            models = [{"model": path, "calibrate": str(folder / f"{kind}-look.jsonl") if looks else None} for kind, path in parents.items()]
            base = None if looks or method in ("linear", "slerp") else BASE
            config = {"merge_method": method, "models": models, "base_model": base, "parameters": settings, "dtype": "float32"}
            shutil.rmtree(out, ignore_errors=True)
            merge(parse(config, name), out, say=lambda text: None)
        found[name] = losses(spec, folder)
        print(name, found[name], flush=True)
        write_atomic(partial, json.dumps(found, indent=1) + "\n")
    write_atomic(RESULT, json.dumps(found, indent=1) + "\n")


def kept(found: dict[str, dict[str, float]], name: str, kind: str) -> float:
    """The share of what the fine-tune on `kind` gained that this model has too."""
    return (found["before"][kind] - found[name][kind]) / (found["before"][kind] - found[kind][kind])


def write() -> None:
    """The table and the picture."""
    from tempering.report.scatter import Axis, Mark, scatter

    found = json.loads(RESULT.read_text())
    lines = ["| model | loss, maths | loss, chat | gain kept, maths | gain kept, chat |", "| --- |" + " ---: |" * 4]
    marks = []
    for name, one in found.items():
        shares = [kept(found, name, kind) for kind in TRAIN]
        lines.append(f"| {name} | {one['maths']:.3f} | {one['chat']:.3f} | {shares[0]:.0%} | {shares[1]:.0%} |")
        said = f"{name}: {shares[0]:.0%} of the gain on maths and {shares[1]:.0%} of that on chat"
        marks.append(Mark(name, (shares[0], None, None), (shares[1], None, None), said, name in TRAIN))
    text = PAGE.read_text(encoding="utf-8")
    table = "\n".join(lines)
    text = re.sub(r"(<!-- table: study -->\n).*?(\n<!-- end of table -->)", lambda m: m[1] + table + m[2], text, count=1, flags=re.DOTALL)
    PAGE.write_text(text, encoding="utf-8")
    x, y = (Axis(f"kept of the gain on {kind}", lambda v: f"{v:.0%}") for kind in TRAIN)
    PICTURE.write_text(scatter(marks, x, y, "What merges keep of both fine-tunes. " + "; ".join(m.said for m in marks), alone=True), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write()
    else:
        where = Path(sys.argv[2])
        if sys.argv[1] == "run":
            prepare(where)
            train(where)
        compare(where)
