"""docs/performance.md, made from benchmarks/results/*.json: every number and every sentence about a number is computed from what is stored.

python -m benchmarks.page            # writes the page
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import precision
from benchmarks.flops import SMOLLM2
from benchmarks.machine import ROOT

RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "performance.md"
Row = Mapping[str, Any]
ORDER = ("sft_full", "sft_lora", "dpo", "sampling", "on_policy_step")
TITLES = {
    "sft_full": "SFT, all weights",
    "sft_lora": "SFT, LoRA r16",
    "dpo": "DPO with reference",
    "sampling": "sampling, mixed lengths",
    "on_policy_step": "one on-policy step",
}
WEIGHTS_GIB = 4 * (SMOLLM2.linear + SMOLLM2.vocabulary * SMOLLM2.hidden) / 2**30
FLOORS = dict.fromkeys(("sft_full", "dpo", "on_policy_step"), ("Weights, gradients and Adam's states", 4 * WEIGHTS_GIB))
FLOORS["sft_lora"] = ("The base's float32 weights", WEIGHTS_GIB)
"""What a run holds beyond the libraries at the least, and its GiB."""
MULTIPLY = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""What of a processor's instructions decides how fast it multiplies."""

INTRO = """# Performance

<!-- Made by `python -m benchmarks.page` from benchmarks/results; do not edit. -->

How fast and how large the engine is, against what people would run instead, on one machine, on the same rows and the same model (SmolLM2-135M).
"""

GLANCE = """Ours divided by theirs, in bfloat16 unless it says float32, which is for processors without bfloat16. Speed above 1 is faster, memory
below 1 is less; ✓: the target is met, ✗: it is missed. *At most* is the ratio of speed if our step were nothing but its matrix products. *Less
memory* is of settings that take less and are slower.
"""

READING = """## How to read this

- **Ratio** is ours divided by the peer's, of medians; in brackets the smallest and the largest ratio of a single round. For speed, more than 1 is
  better; for memory and seconds, less than 1.
- A **round** runs every contender once, each in a fresh process, in turn. A round has a seed, which gives the order of the rows, the same for all.
- **Steady** leaves out the first optimizer step; **whole process** is from the start of the process to its end, imports and loading included.
- **Peak** is the process's largest resident memory as the system counts it; **above imports** leaves out what the libraries alone occupy.
- **Share of the roofline** is the time that the step's matrix products would take at the best speed measured in the same run, for the model's own
  shapes and any number of threads, divided by the time it took. Nothing else is counted, so 100% is out of reach.
- A **peer** has its settings tried in the first round where a benchmark names several, and the fastest goes on; what was tried is below.
  Where only one is listed there, others may be faster than shown: read ratios so.
- Rows, scored tokens and optimizer settings are equal, and asserted to be; the losses at the end agree within their spread over the seeds.
- Every contender, ours or not, has the C library's heap set as `temper` sets it for itself (docs/memory.md), since the commit that says so.
- Machines differ by a factor of ten in matrix products. Compare ratios and shares, not seconds, and only on a machine like this one.
"""

REMAINS = """## What remains

- A **GPU** has run none of this; `make gpu-check` is what to run on one.
- **Speed** whose target takes most of what the matrix products alone allow (above) is out of reach while attention, norms and the head take any
  time. Where it takes less, what is left to gain is attention and, in decoding, the small operations of a step.
- **Machines**: rows are from processors of which some multiply twice as fast as others, in bfloat16 and in float32 (Measured on). The
  faster the products, the more everything else weighs, so the same code reaches a smaller share there.
- **Memory** of training all weights has a floor (above), the libraries and a copy of the head in half precision; micro-batches of fewer tokens
  (`--micro-tokens`) take some of the rest for a little time, and so does recomputing blocks of long ones (`--recompute-over`): the rows for less
  memory. What else there is are activations and, in bfloat16, the kernels that oneDNN keeps for every size of product (docs/memory.md). Of work that
  has no such rows, those in bfloat16 are older than the making again of norms and gates, and than the setting of the C library's heap.
- **Vocabulary**, in bfloat16: what grows with it is the half-precision copy of the head and one chunk of logits, where the smallest does not
  fill one (by the count of tensors, a test). Without the copy every chunk would cast the whole head anew, three times a chunk.
"""


def page(folder: Path = RESULTS) -> str:
    """The page for the results in a folder."""
    rows = [row for path in sorted(folder.glob("*.json")) for row in _rows(path)]
    if not rows:
        return f"{INTRO}\nNo results are stored. `make bench` measures them.\n\n{READING}"
    profiles = [json.loads(path.read_text()) for path in sorted(folder.glob("profile-*.json"))]
    parts = [
        INTRO,
        glance(rows),
        comparisons(rows),
        startup(rows),
        plan(rows),
        growth(rows),
        merges(rows),
        machines(rows),
        READING,
        losses(rows, profiles),
        where(profiles),
        REMAINS,
        tried(rows),
    ]
    return "\n".join(part for part in parts if part)


def _rows(path: Path) -> list[Row]:
    """The results of a file; profiles and tables of sizes are no lists."""
    content = json.loads(path.read_text())
    return content if isinstance(content, list) else []


def glance(rows: Sequence[Row]) -> str:
    """A line for each work and peer: the ratios that the targets are about, and the one of speed that the matrix products alone would allow."""
    contests: dict[tuple[str, str], dict[tuple[str, str, bool], Row]] = {}
    for row in _beside_peers(rows):
        key = (_work(row), row["peer_name"])
        contests.setdefault(key, {})[row["metric"], row["phase"], bool(row.get("lean"))] = row
    lines = ["## At a glance", "", GLANCE]
    lines += ["| work | beside | targets | speed | at most | whole process | memory | less memory: memory, speed |", "|---" * 8 + "|"]

    def cell(row: Row | None) -> str:
        return "" if row is None else _near(row) + {True: " ✓", False: " ✗", None: ""}[row.get("target_met")]

    for (title, peer), found in contests.items():
        steady, whole, peak = (found.get((*key, False)) for key in (("speed", "steady"), ("speed", "whole process"), ("memory", "peak")))
        most = f"{steady['limit'] / steady['peer']:.2f}" if steady and steady.get("limit") else ""
        lean = ", ".join(filter(None, (cell(found.get(("memory", "peak", True))), cell(found.get(("speed", "steady", True))))))
        targets = ", ".join(f"{row['metric']} {_bound(row)}" for row in (steady, peak) if row and "target" in row)
        lines.append("| " + " | ".join((title, peer, targets, cell(steady), most, cell(whole), cell(peak), lean)) + " |")
    return "\n".join(lines) + "\n" if contests else ""


def machines(rows: Sequence[Row]) -> str:
    """What each benchmark was measured on, and how fast that multiplied."""
    lines: dict[str, None] = {}
    libraries: dict[str, None] = {}
    for row in sorted(rows, key=lambda row: ORDER.index(row["benchmark"]) if row["benchmark"] in ORDER else len(ORDER)):
        m = row["machine"]
        flags = ", ".join(flag for flag in m["flags"] if flag in MULTIPLY) or "no vector instructions that are told here"
        libraries[", ".join(f"{name} {version}" for name, version in sorted(m.get("versions", {}).items()))] = None
        speed = m.get("matmul_gflops", {}).get(precision.CHOICES.get(row.get("precision", "bf16"), ""))
        gflops = f"{speed['linear']:.0f}" if speed and row["benchmark"] in ORDER else ""
        work = "merging" if row["benchmark"].startswith("merge ") else _work(row)
        lines[f"| {work} | {m['cpu']} ({flags}) | {m['cores']} | {m['memory_gib']:g} GiB | {gflops} | {row['commit']} |"] = None
    about = "Machines differ, so every run says how fast its processor makes the matrix products of the model's linear layers (GFLOP/s)."
    head = ["## Measured on", "", about, ""]
    head += ["| work | processor | cores | memory | GFLOP/s | commit |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *lines, "", "Libraries: " + "; or ".join(libraries) + "."]) + "\n"


def comparisons(rows: Sequence[Row]) -> str:
    """The table of ours against each peer."""
    lines = ["## Against what people would run instead", ""]
    lines += ["| work | what | ours | peer | ratio | target | share of the roofline: ours, peer | runs |", "|---|---|---|---|---|---|---|---|"]
    picked = _beside_peers(rows)
    for row in picked:
        shares = f"{row['ours_share']:.0%}, {row['peer_share']:.0%}" if row.get("ours_share") is not None else ""
        what = f"{row['metric']}, {row['phase']}"
        peer = f"{_number(row['peer'])} ({row['peer_name']})"
        cells = (_title(row), what, f"{_number(row['ours'])} {row['unit']}", peer, _ratio(row), _target(row), shares, str(row["runs"]))
        lines.append("| " + " | ".join(cells) + " |")
    for row in rows:
        if row["peer_name"] == "roofline":
            lines += ["", f"{_title(row)}: {row['ours_share']:.0%} of the roofline; {_target(row)}."]
    return "\n".join(lines) + "\n" if picked else ""


def startup(rows: Sequence[Row]) -> str:
    """Seconds until something happens."""
    picked = [row for row in rows if row["benchmark"] == "startup"]
    lines = ["## Start-up", "", "| what | ours, seconds | beside it | target | runs |", "|---|---|---|---|---|"]
    for row in picked:
        spread = f"{_number(row['ours'])} [{_number(row['ours_range'][0])}, {_number(row['ours_range'][1])}]"
        beside = f"{row['peer_name']}: {_number(row['peer'])}" if row["peer"] is not None else ""
        lines.append(f"| {row['phase']}{_kind(row)} | {spread} | {beside} | {_target(row)} | {row['runs']} |")
    return "\n".join(lines) + "\n" if picked else ""


def plan(rows: Sequence[Row]) -> str:
    """What `temper plan` said beside what runs took."""
    picked = [row for row in rows if row["benchmark"] == "plan"]
    lines = [
        "## Memory foretold by `temper plan`",
        "",
        "| run | foretold, GiB | taken, GiB | ratio (0.85 to 1.15 is promised) |",
        "|---|---|---|---|",
    ]
    lines += [f"| {row['phase']}{_kind(row)} | {row['ours'] / 2**30:.2f} | {row['peer'] / 2**30:.2f} | {row['ratio']:.2f} |" for row in picked]
    return "\n".join(lines) + "\n" if picked else ""


def growth(rows: Sequence[Row]) -> str:
    """Time and memory against length and vocabulary."""
    picked = [row for row in rows if row["benchmark"] == "growth"]
    lines = ["## Growth", "", "| what | value | compared with | ratio | target | attention's share |", "|---|---|---|---|---|---|"]
    for row in picked:
        share = f"{row['attention_share']:.0%}" if "attention_share" in row else ""
        value, base = f"{_number(row['ours'])} {row['unit']}", f"{_number(row['peer'])} ({row['peer_name']})"
        lines.append(f"| {row['phase']}{_kind(row)} | {value} | {base} | {_ratio(row)} | {_target(row)} | {share} |")
    return "\n".join(lines) + "\n" if picked else ""


def merges(rows: Sequence[Row]) -> str:
    """Merging against mergekit."""
    picked = [row for row in rows if row["benchmark"].startswith("merge ")]
    if not picked:
        return ""
    sizes = sorted({row["facts"]["parameters"] for row in picked})
    billions = " and ".join(f"{n / 1e9:.2f}" for n in sizes)
    about = (
        f"Two models of {billions} billion bfloat16 parameters, for some methods a base beside them; random weights in shards of 1 GB. Speeds are of "
        "parameters of the result. The share is of what reading all inputs and writing the result takes in the same run, with files still in memory "
        "from being written."
    )
    lines = ["## Merging", "", about, ""]
    lines += ["| method | what | ours | mergekit | ratio | target | share of the disk: ours, mergekit | runs |", "|---|---|---|---|---|---|---|---|"]
    for row in picked:
        form = (lambda n: f"{n / 1e6:.3g} million/s") if row["metric"] == "speed" else (lambda n: f"{n:.2f} GiB")
        share = f"{row['ours_share']:.0%}, {row['peer_share']:.0%}" if row.get("ours_share") is not None else ""
        cells = (row["benchmark"].removeprefix("merge "), f"{row['metric']}, {row['phase']}", form(row["ours"]), form(row["peer"]))
        lines.append("| " + " | ".join((*cells, _ratio(row), _target(row), share, str(row["runs"]))) + " |")
    return "\n".join(lines) + "\n"


def losses(rows: Sequence[Row], profiles: Sequence[Mapping[str, Any]]) -> str:
    """Every target that is missed and every comparison that is lost, with what the profile says of it."""
    lines = ["## Where we lose, and why", ""]
    for row in rows:
        # A plan is no contest: predicted and measured should be equal.
        missed, worse = row.get("target_met") is False, row["benchmark"] != "plan" and _worse(row)
        if not missed and not worse:
            continue
        verdict = f"target {_bound(row)} missed" if missed else "the peer is better"
        value = f"ratio {_near(row)}" if row["ratio"] is not None else f"{_number(row['ours'])} {row['unit']}"
        text = f"- {row['benchmark']}{_kind(row)}, {row['metric']}, {row.get('phase', '')}, beside {row['peer_name']}: {value}; {verdict}."
        if row["metric"] == "speed" and row.get("ours_share") is not None:
            alone = "disk" if row["benchmark"].startswith("merge ") else "matrix products"
            text += f" The {alone} alone would allow {_number(row['limit'])} {row['unit']}; we reach {row['ours_share']:.0%} of that"
            text += f", the target takes {row['target']['least'] * row['peer'] / row['limit']:.0%}." if missed and row["target"]["least"] else "."
        if row.get("phase") == "above imports" and row["benchmark"] in FLOORS:
            held, gib = FLOORS[row["benchmark"]]
            text += f" {held} alone are {gib:.2f} GiB, {gib / row['peer']:.2f} of the peer's."
        for profile in profiles:
            if profile["benchmark"] == row["benchmark"] and _kind(profile) == _kind(row) and row["metric"] == "speed":
                rest = [(name, share) for name, share in profile["shares"].items() if name != "linear"][:3]
                text += " Beside the linear layers a step spends its time on " + ", ".join(f"{name} ({share:.0%})" for name, share in rest) + "."
        lines.append(text)
    return "\n".join(lines if len(lines) > 2 else [*lines, "Nowhere in what is stored: every target is met, and no peer is better."]) + "\n"


def where(profiles: Sequence[Mapping[str, Any]]) -> str:
    """Where a step's time goes, from the stored profiles."""
    lines = ["## Where a step's time goes", ""]
    for profile in profiles:
        found = ", ".join(f"{name} {share:.0%}" for name, share in profile["shares"].items() if share >= 0.005)
        lines.append(f"- {_title(profile)}: {found} ({profile['threads']} threads, commit {profile['commit']}).")
    return "\n".join(lines) + "\n" if profiles else ""


def tried(rows: Sequence[Row]) -> str:
    """Every contender's settings: the one that was kept, and the others with their speed in the first round."""
    found: dict[str, None] = {}
    for row in rows:
        if row.get("phase") != "steady" or row["metric"] != "speed" or "peer_tried" not in row:
            continue
        for who, setting, others in (("ours", "ours_setting", "ours_tried"), (row["peer_name"], "peer_setting", "peer_tried")):
            rest = "; ".join(f"{_setting(o['setting'])}: {o['failed'] if 'failed' in o else _number(o['steady'])}" for o in row[others])
            note = f" ({row['peer_note']})" if who != "ours" and row["peer_note"] else ""
            kept = f"- {row['benchmark']}{_kind(row)}, {who}{note}: {_setting(row[setting])}"
            found[kept + (f"; tried, {'tokens/s' if row['unit'] == 'tokens/s' else row['unit']}: {rest}" if rest else "")] = None
    return "## Settings\n\nKept, and what else was tried in the first round:\n\n" + "\n".join(found) + "\n" if found else ""


def _beside_peers(rows: Sequence[Row]) -> list[Row]:
    """Rows of ours beside what people would run instead, in the order of the page."""
    return [row for name in ORDER for row in rows if row["benchmark"] == name and row["peer_name"] != "roofline"]


def _work(row: Row) -> str:
    """What a benchmark is called, whatever the settings."""
    return _title({**row, "lean": False})


def _title(row: Row) -> str:
    """What a benchmark is called in tables."""
    return TITLES.get(row["benchmark"], row["benchmark"]) + _kind(row)


def _kind(row: Row) -> str:
    """Of results that are not in bfloat16, those that would be in bfloat16 elsewhere; and those with settings for less memory."""
    single = row.get("precision") == "fp32" and row["benchmark"] in (*ORDER, "growth", "startup", "plan")
    return (", float32" if single else "") + (", less memory" if row.get("lean") else "")


def _setting(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in setting.items()) or "defaults"


def _worse(row: Row) -> bool:
    """Whether a real peer (not ourselves at another size, not the roofline) has the better median."""
    if row["ratio"] is None or row["peer_name"] in ("roofline", "no peer") or row["peer_name"].startswith("ours"):
        return False
    return row["ratio"] < 1 if row["metric"] == "speed" else row["ratio"] > 1


def _ratio(row: Row) -> str:
    low, high = row["ratio_range"]
    return f"{_near(row)} [{low:.2f}, {high:.2f}]"


def _near(row: Row) -> str:
    """The ratio, with a digit more where two would not tell it from its target."""
    bounds = [bound for bound in (row.get("target") or {}).values() if isinstance(bound, float)]
    return f"{row['ratio']:.3f}" if any(f"{row['ratio']:.2f}" == f"{bound:.2f}" for bound in bounds) else f"{row['ratio']:.2f}"


def _bound(row: Row) -> str:
    target = row["target"]
    least, most = target["least"], target["most"]
    form = "{:.0%}" if target["of"] == "share" else "{:g}"
    if least is not None and most is not None:
        return f"{form.format(least)} to {form.format(most)}"
    return f"≥ {form.format(least)}" if least is not None else f"≤ {form.format(most)}"


def _target(row: Row) -> str:
    if "target" not in row:
        return ""
    return f"{_bound(row)}: {'met' if row['target_met'] else '**missed**'}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
