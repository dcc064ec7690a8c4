"""The curve doctor on synthetic curves: each disease is found with its numbers, and healthy curves of many seeds stay without a word."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable

import pytest

from tempering.report import curves
from tempering.report.doctor import diagnose

Rows = list[dict[str, object]]


def sft(n: int = 40, *, seed: int = 0, noise: float = 0.05, start: float = 2.4, end: float = 1.2) -> Rows:
    """A healthy fine-tuning run: exponential fall, noise, warm-up and decay of the rate, test loss that follows."""
    rng = random.Random(seed)
    rows: Rows = []
    for i in range(n):
        x = i / max(1, n - 1)
        level = end + (start - end) * math.exp(-4 * x)
        rows.append(
            {
                "step": 10 * (i + 1),
                "loss": level + rng.gauss(0, noise),
                "lr": 2e-4 * min(1.0, (i + 1) / 3) * (1 - 0.9 * x),
                "grad_norm": 0.6 + abs(rng.gauss(0, 0.15)),
                "tokens": 4000 * (i + 1),
                "tokens_per_s": (250 if i == 0 else 800) + rng.gauss(0, 30),
            }
        )
        if i % 8 == 7:
            rows[-1]["eval.loss"] = level + 0.1 + rng.gauss(0, noise / 10)
    return rows


def dpo(n: int = 40, *, seed: int = 0, chosen_slope: float = 4.0, rejected_slope: float = -12.0) -> Rows:
    rng = random.Random(seed)
    rows: Rows = []
    for i in range(n):
        x = i / (n - 1)
        margin = 1.5 * x + rng.gauss(0, 0.1)
        rows.append(
            {
                "step": 5 * (i + 1),
                "loss": math.log1p(math.exp(-margin)),
                "chosen_logp": -80 + chosen_slope * x + rng.gauss(0, 1.0),
                "rejected_logp": -90 + rejected_slope * x + rng.gauss(0, 1.0),
                "margin": margin,
                "accuracy": min(1.0, max(0.0, 0.5 + 0.3 * x + rng.gauss(0, 0.05))),
                "lr": 5e-5,
                "grad_norm": 0.8,
                "tokens_per_s": 500.0,
            }
        )
    return rows


def having(rows: Rows, name: str, value: Callable[[int], object]) -> Rows:
    return [{**row, name: value(i)} for i, row in enumerate(rows)]


def flat(level: float, n: int = 40, noise: float = 0.01) -> Callable[[int], float]:
    rng = random.Random(7)
    values = [level + rng.gauss(0, noise) for _ in range(n)]
    return lambda i: values[i]


LATE_RISE = [1.30, 1.20, 1.10, 1.15, 1.25, 1.40]

DISEASES: dict[str, tuple[str, str, Rows, tuple[str, ...]]] = {
    "zero from the start": (
        "loss_zero", "error", having(having(sft(), "loss", lambda i: 0.0), "grad_norm", lambda i: 0.0), ("from step 10 on", "no token is scored"),
    ),
    "zero, no norm written": ("loss_zero", "error", [{"step": i, "loss": 0} for i in range(1, 4)], ("from step 1 on",)),
    "gradient reaches nothing": ("no_gradient", "error", having(sft(), "grad_norm", lambda i: 0.0), ("all 40 points",)),
    "nan after growing norms": (
        "not_finite", "error",
        having(having(sft(), "loss", lambda i: 2.0 - 0.02 * i if i < 20 else None), "grad_norm", lambda i: (0.5, 9.0, None)[(i >= 18) + (i >= 20)]),
        ("loss stops being a number at step 210", "(20 of 40 points)", "from its usual 0.5 to 9", "peaked at 1.91e\u22124"),
    ),
    "nan as a word, from the start": (
        "not_finite", "error", having(sft(), "loss", lambda i: "NaN"),
        ("at step 10", "(40 of 40 points)", "from the first point on"),
    ),
    "inf once, unannounced": (
        "not_finite", "error", having(sft(), "loss", lambda i: "Infinity" if i == 25 else 2.0 - 0.02 * i),
        ("at step 260", "(1 of 40 points)", "Nothing announced it"),
    ),
    "only the backward pass": (
        "not_finite", "error", having(sft(), "grad_norm", lambda i: None if i == 30 else 0.5),
        ("grad_norm stops being a number at step 310", "backward pass"),
    ),
    "only the test loss": ("not_finite", "error", having(sft(), "eval.loss", lambda i: None), ("eval.loss stops being a number at step 10",)),
    "flat": ("loss_flat", "warning", having(sft(), "loss", flat(2.31, noise=0.005)), ("2.309 at the start, 2.309 after 400 steps",)),
    "flat dpo": ("loss_flat", "warning", having(dpo(), "loss", flat(math.log(2), noise=0.001)), ("log 2",)),
    "rising": ("loss_rising", "error", having(sft(), "loss", lambda i: 2.0 + 0.05 * i), ("2.17 at the start", "3.77 at the end (step 400)")),
    "turned": (
        "loss_rising", "warning", having(sft(), "loss", lambda i: 1.0 + abs(i - 20) / 20),
        ("turned", "it fell to 1.1 around step 200", "rose to 1.77"),
    ),
    "spike": (
        "loss_spikes", "note", having(sft(noise=0.02), "loss", lambda i: 9.0 if i == 22 else 2.0 - 0.02 * i),
        ("once", "is 9 at step 230", "1.56 was usual"),
    ),
    "spikes": ("loss_spikes", "warning", having(sft(noise=0.02), "loss", lambda i: 9.0 if i in (12, 22, 32) else 2.0 - 0.02 * i), ("3 times",)),
    "overfitting": (
        "overfitting", "warning",
        [{"step": 10 * (i + 1), "loss": 1.4 - 0.15 * i, "eval.loss": value} for i, value in enumerate(LATE_RISE)],
        ("from step 30 on", "(1.100) and is 1.400 at the end", "from 1.250 to 0.800"),
    ),
    "both log-probs fall": (
        "both_logps_falling", "warning", having(having(dpo(), "chosen_logp", lambda i: -80 - i), "rejected_logp", lambda i: -90 - 3 * i),
        ("chosen from \u221283.5 to \u2212116", "rejected from \u2212100 to \u2212196", "only because the rejected ones fall faster"),
    ),
    "both rewards fall under log-probs that wander": (
        "both_logps_falling", "warning",
        having(having(dpo(chosen_slope=0), "chosen_reward", lambda i: -i / 50), "rejected_reward", lambda i: -i / 10),
        ("against the reference (times beta): chosen from \u22120.07 to \u22120.71, rejected from \u22120.35 to \u22123.55",),
    ),
    "told apart at once": (
        "margin_saturated", "warning", having(dpo(), "accuracy", lambda i: 0.7 if i < 2 else 1.0),
        ("from step 45 on (accuracy 100.0%)",),
    ),
    "clipped always": ("always_clipped", "note", having(sft(), "grad_norm", lambda i: 4.0), ("at 40 of 40 points", "usually 4, the bound 1")),
    "clipped by far": ("always_clipped", "warning", having(sft(), "grad_norm", lambda i: 50.0), ("usually 50",)),
    "written after clipping": ("always_clipped", "note", having(sft(), "grad_norm", lambda i: 1.0), ("usually 1, the bound 1",)),
    "slowing": (
        "slowing_down", "warning", having(sft(), "tokens_per_s", lambda i: 900.0 if i < 20 else 200.0),
        ("900 tokens a second", "200 at the end", "step 210"),
    ),
    "low start": ("low_start", "warning", having(sft(), "loss", lambda i: 0.05 - 0.001 * i), ("0.049 nats", "95%")),
}  # fmt: skip


@pytest.mark.parametrize("case", DISEASES)
def test_disease_is_found_with_its_numbers(case: str) -> None:
    code, severity, rows, parts = DISEASES[case]
    found = {finding.code: finding for finding in diagnose(rows, clip=1.0)}
    assert code in found, f"expected {code}, found {sorted(found)}"
    assert found[code].severity == severity
    for part in parts:
        assert part in found[code].sentence
    assert found[code].mend.endswith(".") and found[code].sentence.endswith(".")


@pytest.mark.parametrize("case", sorted(set(DISEASES) - {"zero from the start", "both log-probs fall", "nan after growing norms"}))
def test_one_disease_gives_one_finding(case: str) -> None:
    code, _, rows, _ = DISEASES[case]
    assert {finding.code for finding in diagnose(rows, clip=1.0)} == {code}


@pytest.mark.parametrize("n", [1, 2, 5, 12, 40, 300])
def test_healthy_fine_tuning_says_nothing(n: int) -> None:
    for seed in range(40):
        for noise in (0.0, 0.05, 0.2):
            assert diagnose(sft(n, seed=seed, noise=noise), clip=1.0) == []


@pytest.mark.parametrize("n", [2, 12, 40, 300])
def test_healthy_preference_run_says_nothing(n: int) -> None:
    for seed in range(40):
        assert diagnose(dpo(n, seed=seed), clip=1.0) == []


HEALTHY: dict[str, Rows] = {
    "no rows": [],
    "rows without a loss": [{"step": 1, "note": "x"}],
    "a policy gradient's loss hovers at zero": [{"step": i, "loss": 0.0, "reward": 0.1 * i, "grad_norm": 0.4} for i in range(30)],
    "one step of the rate at zero is a zero norm": [{"step": i, "loss": 2 - 0.05 * i, "grad_norm": 0.0 if i == 0 else 0.5} for i in range(20)],
    "test loss wobbles at its floor": [{"step": i, "loss": 2 - 0.1 * i, "eval.loss": 1.0 + 0.005 * (i % 2)} for i in range(9)],
    "test loss rose once": [{"step": i, "loss": 2 - 0.1 * i, "eval.loss": v} for i, v in enumerate([1.5, 1.2, 1.3])],
    "chosen rises, rejected falls": dpo(chosen_slope=15, rejected_slope=-40),
    "chosen is rewarded although its log-probs fall with the batches": having(
        having(having(dpo(), "chosen_logp", lambda i: -80 - i), "chosen_reward", lambda i: i / 50), "rejected_reward", lambda i: -i / 50
    ),
    "log-probs drift less than batches differ": dpo(chosen_slope=-1.0, rejected_slope=-1.5),
    "accuracy reaches one late": having(dpo(), "accuracy", lambda i: 0.6 if i < 20 else 1.0),
    "clipped now and then": having(sft(), "grad_norm", lambda i: 2.5 if i % 3 == 0 else 0.7),
    "one slow first point": having(sft(), "tokens_per_s", lambda i: 90.0 if i == 0 else 800.0),
    "one slow point in the middle": having(sft(), "tokens_per_s", lambda i: 90.0 if i == 20 else 800.0),
    "words that are no numbers": [{"step": i, "loss": 2 - 0.05 * i, "phase": "fit", "device": "cpu"} for i in range(20)],
}


@pytest.mark.parametrize("case", HEALTHY)
def test_healthy_cases_say_nothing(case: str) -> None:
    assert diagnose(HEALTHY[case], clip=1.0) == []


def test_without_a_known_bound_clipping_is_not_judged() -> None:
    assert diagnose(having(sft(), "grad_norm", lambda i: 50.0)) == []


def test_flat_with_a_zero_rate_names_the_rate() -> None:
    (finding,) = diagnose(having(having(sft(), "loss", flat(2.3, noise=0.001)), "lr", lambda i: 0.0))
    assert finding.mend == "The learning rate is 0 at every point: set it, and check the schedule."


def test_worst_comes_first() -> None:
    rows = having(having(sft(), "loss", lambda i: 2.0 + 0.05 * i), "grad_norm", lambda i: 4.0)
    assert [finding.severity for finding in diagnose(having(rows, "tokens_per_s", lambda i: 900 / (1 + i)), clip=1.0)] == ["error", "warning", "note"]


def test_numbers_and_what_stands_for_them(tmp_path) -> None:
    cases = [
        (1, 1.0),
        (True, 1.0),
        (None, math.nan),
        ("NaN", math.nan),
        ("-Infinity", -math.inf),
        ("inf", math.inf),
        ("fit", None),
        ([1], None),
        (10**400, math.inf),
    ]
    for value, expected in cases:
        found = curves.number(value)
        assert found == expected or (found is not None and expected is not None and math.isnan(found) and math.isnan(expected))


def test_curve_keeps_the_gap_where_a_number_is_missing() -> None:
    curve = curves.curve([{"step": 5, "loss": 1.0}, {"step": 6, "lr": 0.1}, {"step": 7, "loss": None}, {"loss": 3.0}], "loss")
    assert curve.steps == (5, 7, 3)
    assert curve.values[0] == 1.0 and math.isnan(curve.values[1]) and curve.values[2] == 3.0
    assert curve.finite.values == (1.0, 3.0)


def test_read_skips_and_counts_half_lines(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(json.dumps({"step": 1, "loss": 2.0}).encode() + b'\n\n[1]\n{"step": 2, "loss": NaN}\n{"step": 3, "lo')
    rows, bad = curves.read(path)
    assert [row["step"] for row in rows] == [1, 2]
    assert bad == [3, 5]
    assert curves.names(rows) == ["loss"]


# ---------------------------------------------------------------------------------------------------------------------------------------- rollouts


def rollouts(n: int = 40, *, seed: int = 0, **ends: tuple[float, float]) -> Rows:
    """A healthy run of reinforcement, from start to end with noise; `ends` say otherwise of a metric."""
    rng = random.Random(seed)
    usual = {"reward": (0.5, 0.8), "silent_groups": (0.2, 0.5), "entropy": (0.5, 0.3), "length": (20.0, 24.0), "unfinished": (0.05, 0.0)}
    usual |= {"ratio_far": (0.0, 0.0), "mismatch": (0.0, 1e-6), "grad_norm": (0.5, 0.4), **ends}
    rows: Rows = []
    for i in range(n):
        level = {name: a + (b - a) * i / (n - 1) + rng.gauss(0, 0.05 * max(abs(a), abs(b))) for name, (a, b) in usual.items()}
        rows.append({"step": i + 1, "loss": rng.gauss(0, 0.01), "lr": 1e-5, **level})
    return rows


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ({"reward": (0.8, 0.3)}, "reward_falling"),
        ({"silent_groups": (0.9, 0.95), "reward": (0.02, 0.02)}, "groups_silent"),
        ({"entropy": (0.5, 0.01), "reward": (0.5, 0.5)}, "entropy_collapsed"),
        ({"length": (20.0, 60.0), "reward": (0.5, 0.5)}, "length_drifts"),
        ({"unfinished": (0.1, 0.6)}, "unfinished_high"),
        ({"ratio_far": (0.0, 0.2)}, "ratio_far_high"),
        ({"mismatch": (0.1, 0.1)}, "mismatch_high"),
    ],
)
def test_what_rollouts_say_is_read_out(ends: dict[str, tuple[float, float]], code: str) -> None:
    assert [finding.code for finding in diagnose(rollouts(**ends))] == [code]


def test_a_healthy_policy_gradient_is_left_alone() -> None:
    assert not [finding for seed in range(20) for finding in diagnose(rollouts(seed=seed))]
    solved = diagnose(rollouts(silent_groups=(0.5, 0.95), reward=(0.5, 0.97)))
    assert [(finding.code, finding.severity) for finding in solved] == [("groups_silent", "note")]
