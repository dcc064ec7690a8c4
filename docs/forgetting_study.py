"""The study of docs/forgetting.md: SmolLM2-135M learns TOFU's authors by heart, and a tenth of them is to go again.

    python docs/forgetting_study.py rows FOLDER      # the slices as files
    python docs/forgetting_study.py write FOLDER     # the page's tables and picture from the runs in the folder

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


if __name__ == "__main__":
    {"rows": prepare}[sys.argv[1]](Path(sys.argv[2]))
