"""docs/performance.md says exactly what the stored results say, and every stored result has the fields that readers rely on."""

from __future__ import annotations

import json

from benchmarks import page


def test_the_page_is_the_one_that_the_stored_results_give() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), "run python -m benchmarks.page"


def test_stored_results_have_the_schema() -> None:
    fields = {"benchmark", "metric", "ours", "peer", "peer_name", "unit", "ratio", "runs", "command", "commit", "machine"}
    for path in sorted(page.RESULTS.glob("*.json")):
        content = json.loads(path.read_text())
        if path.name.startswith("profile-") or path.name == "roofline-sizes.json":
            continue
        for row in content:
            assert row.keys() >= fields and row["metric"] in ("speed", "memory", "startup"), path.name
            if row["ratio"] is not None:
                # Stored to four digits, so the quotient of two stored numbers is a little off.
                assert abs(row["ratio"] - row["ours"] / row["peer"]) <= 2e-3 * abs(row["ratio"]), path.name
