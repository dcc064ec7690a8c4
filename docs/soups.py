"""Draws docs/images/soups.svg, the front of rewarded soups, from the stored result: `python docs/soups.py`."""

from __future__ import annotations

import json
from pathlib import Path

from tempering.items import mean
from tempering.report.scatter import Axis, Mark, scatter

HERE = Path(__file__).parent
POINTS = {
    "baseline.0": "trained for courtesy",
    "method.0.25": "a quarter of the way",
    "method.0.5": "half",
    "method.0.75": "three quarters",
    "baseline.1": "trained for length",
    "method.trained for both": "trained for both",
}


def main() -> None:
    """Means over the seeds; the line joins the soups with their ends."""
    seeds = [seed["others"] for seed in json.loads((HERE.parent / "replications" / "rewarded_soup.json").read_text(encoding="utf-8"))["seeds"]]
    at = {name: [mean([seed[f"{key}, {what}"] for seed in seeds]) for what in ("courtesy", "length")] for key, name in POINTS.items()}
    marks = [
        Mark(name, (x, None, None), (y, None, None), f"{name}: {x:.0%} courteous, {y:.0%} long", name.startswith("trained"))
        for name, (x, y) in at.items()
    ]
    line = [(x, y) for name, (x, y) in at.items() if name != "trained for both"]
    x, y = (Axis(title, lambda v: f"{v:.0%}", 1.0) for title in ("answers with a courteous word", "answers of more than 16 words"))
    label = "The front of rewarded soups. " + "; ".join(mark.said for mark in marks)
    (HERE / "images" / "soups.svg").write_text(scatter(marks, x, y, label, line=line, alone=True), encoding="utf-8")


if __name__ == "__main__":
    main()
