"""The ledger: items joined and sorted, numbers by hand, the sentence, JSON, and every refusal."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs
from scipy import stats as st

from tempering import power, stats
from tempering.errors import UserError
from tempering.ledger import Ledger, compare, compare_many
from tempering.types import ItemScore, Scores

from .ledger_cases import binary, both, continuous, counted


def test_items_are_sorted_into_gained_kept_lost_never() -> None:
    ledger = compare(*both(binary("a", "110010", "101010")))
    probe = ledger.probe("a")
    assert (probe.gained_ids, probe.kept_ids, probe.lost_ids, probe.never_ids) == (("a2",), ("a0", "a4"), ("a1",), ("a3", "a5"))
    lost = probe.lost[0]
    assert (lost.prompt, lost.expected, lost.before_output, lost.after_output) == ("question 1 of a?", "answer 1", "said right", "said wrong")
    assert (lost.before_score, lost.after_score, lost.cut) == (1.0, 0.0, False)
    assert (probe.before.point, probe.after.point, probe.difference.point) == (0.5, 0.5, 0.0)
    assert probe.difference == stats.paired_share_interval(1, 1, 6)
    assert probe.keep == stats.share_interval(2, 3, method="one-sided")


def test_order_of_items_does_not_matter() -> None:
    before, after = both(binary("a", "110010", "101011"), continuous("t", [1.0, 2.0, 4.0], [1.5, 1.0, 3.0]))
    turned = Scores("tuned", tuple(dataclasses.replace(p, items=p.items[::-1]) for p in after.probes[::-1]))
    assert compare(before, turned) == compare(before, after)


def test_lower_is_better_turns_right_and_wrong() -> None:
    probe = compare(*both(counted("harm", 5, 20, 1, 14, higher_is_better=False))).probe("harm")
    # a score of 1 is wrong here: 20 items went from 1 to 0
    assert (len(probe.gained_ids), len(probe.lost_ids), len(probe.kept_ids), len(probe.never_ids)) == (20, 1, 14, 5)
    assert probe.difference.point == pytest.approx(-19 / 40)
    assert probe.improvement.point == pytest.approx(19 / 40)
    assert (probe.improvement.low, probe.improvement.high) == (-probe.difference.high, -probe.difference.low)  # type: ignore[operator]
    assert probe.verdict == "gained"


def test_keep_pools_the_binary_keep_probes_and_only_those() -> None:
    ledger = compare(
        *both(
            counted("task", 10, 5, 60, 25, side="target"),
            counted("qa", 95, 5, 7, 93),
            counted("sums", 146, 4, 2, 48),
            continuous("text", [3.0, 2.0, 2.5], [3.1, 2.2, 2.4]),
        )
    )
    assert (ledger.keep_items, ledger.keep.point) == (250, 241 / 250)  # type: ignore[union-attr]
    assert ledger.keep.low == pytest.approx(st.beta.ppf(0.05, 241, 10))  # type: ignore[union-attr]
    assert ledger.gain == ledger.probe("task").difference
    assert ledger.gain_on == "task"
    assert ledger.comparisons == 4


def test_several_targets_pool_their_items() -> None:
    ledger = compare(*both(counted("a", 10, 2, 30, 8, side="target"), counted("b", 20, 1, 9, 120, side="target", higher_is_better=True)))
    assert ledger.gain == stats.paired_share_interval(39, 3, 200)
    assert ledger.gain_on == "2 target probes"


def test_continuous_probe_by_scipy() -> None:
    rng = np.random.default_rng(0)
    before = list(rng.normal(3, 1, 40))
    after = list(np.array(before) - rng.normal(0.4, 0.3, 40))
    probe = compare(*both(continuous("text", before, after))).probe("text")
    assert probe.p == pytest.approx(st.ttest_rel(after, before).pvalue)
    assert probe.difference == stats.mean_interval(list(np.array(after) - np.array(before)))
    assert (probe.verdict, probe.test, probe.keep) == ("gained", "paired t", None)
    tolerance = np.std(before, ddof=1) / 2
    expected = tuple(f"text{i}" for i in range(40) if before[i] - after[i] > tolerance)
    assert probe.gained_ids == expected
    assert len(probe.gained_ids) + len(probe.lost_ids) + len(probe.kept_ids) == 40
    assert "half the spread" in probe.item_rule


def test_rounding_of_continuous_scores_is_no_change() -> None:
    before = [3.0 + i for i in range(30)]
    after = [x + 2e-6 * (1 + i % 3) for i, x in enumerate(before)]
    probe = compare(*both(continuous("text", before, after))).probe("text")
    assert (probe.difference.point, probe.p, probe.verdict) == (0.0, 1.0, "no change detected")


def test_no_better_direction() -> None:
    before = [float(10 + i) for i in range(30)]
    after = [x + 5 + (i % 4) for i, x in enumerate(before)]
    probe = compare(*both(continuous("length", before, after, higher_is_better=None, metric="tokens"))).probe("length")
    assert (probe.verdict, probe.gained_ids, probe.lost_ids) == ("changed", (), ())


def test_one_multiplicity_control_over_probes_and_models() -> None:
    pairs = [counted("a", 30, 0, 8, 12), counted("b", 30, 2, 9, 9), counted("c", 30, 3, 3, 4)]
    before, after = both(*pairs)
    other = Scores("other", tuple(a for a, _ in pairs))
    ledgers = compare_many(before, [after, other])
    raw = [probe.p for ledger in ledgers for probe in ledger.probes]
    assert raw == [stats.mcnemar(8, 0), stats.mcnemar(9, 2), stats.mcnemar(3, 3), 1.0, 1.0, 1.0]
    assert [probe.p_adjusted for ledger in ledgers for probe in ledger.probes] == stats.holm(raw)
    assert [ledger.comparisons for ledger in ledgers] == [6, 6]
    assert [ledger.after_model for ledger in ledgers] == ["tuned", "other"]
    alone = compare(before, after)
    assert alone.probe("a").verdict == "gained"
    assert alone.probe("a").p_adjusted == 3 * raw[0]


def test_mde_is_that_of_the_adjusted_test() -> None:
    pairs = [counted("a", 50, 2, 4, 44), counted("b", 50, 2, 4, 44), continuous("t", [1.0, 2.0, 4.0, 5.0], [1.5, 1.0, 3.0, 5.5])]
    alone, together = compare(*both(pairs[0])), compare(*both(*pairs))
    assert alone.probe("a").mde == power.binary_mde(100, 0.06, alpha=0.05)
    assert together.probe("a").mde == power.binary_mde(100, 0.06, alpha=0.05 / 3)
    deviation = float(np.std([0.5, -1.0, -1.0, 0.5], ddof=1))
    assert together.probe("t").mde == power.mean_mde(4, deviation, alpha=0.05 / 3)


def test_simultaneous_intervals_are_bonferroni() -> None:
    scores = both(counted("a", 30, 4, 18, 12), counted("b", 30, 2, 9, 9))
    wide, plain = compare(*scores, simultaneous=True), compare(*scores)
    assert wide.probe("a").difference == stats.paired_share_interval(18, 4, 64, level=0.975)
    assert plain.probe("a").difference == stats.paired_share_interval(18, 4, 64)


def test_an_interval_without_zero_that_the_adjusted_test_keeps_is_called_undecided() -> None:
    pairs = [counted("a", 40, 10, 24, 26), *(counted(f"x{i}", 5, 1, 1, 5) for i in range(9))]
    probe = compare(*both(*pairs)).probe("a")
    assert probe.difference.excludes(0.0)
    assert probe.verdict == "no change detected"
    assert any("undecided" in note for note in probe.notes)


@pytest.mark.parametrize(("right", "says"), [(10, "down"), (15, ""), (85, ""), (86, "up")])
def test_headroom(right: int, says: str) -> None:
    headroom = compare(*both(counted("a", right, 0, 0, 100 - right))).probe("a").headroom
    assert (f"change {says}" in headroom) if says else headroom == ""


def test_nothing_changed() -> None:
    ledger = compare(*both(counted("a", 60, 0, 0, 40)))
    probe = ledger.probe("a")
    assert (probe.p, probe.verdict, probe.difference.conservative) == (1.0, "no change detected", True)
    assert probe.verdict_text == "no change detected: could not see less than 7.8 points"
    assert ledger.sentence() == "Kept 100% of what it knew (at least 95.1%)."


# ------------------------------------------------------------------------------------------------------------------------------- the sentence


def test_the_sentence_of_an_exchange() -> None:
    ledger = compare(
        *both(counted("gsm-like", 80, 13, 106, 101, side="target"), counted("arithmetic", 100, 6, 2, 60), counted("qa", 126, 3, 1, 50)),
        cost={"tokens": 1_230_000, "seconds": 210, "peak_memory_gib": 3.12},
        kl={"kl_per_token": 0.1203, "low": 0.11, "high": 0.13, "tokens": 4000},
    )
    assert ledger.sentence() == (
        "Gained 31 points on gsm-like (95% interval 25 to 37), kept 96.2% of what it knew (at least 93.4%), lost 9 items, mostly in arithmetic, "
        "won 3 others; KL 0.12 nats/token; 1,230,000 tokens, 210 s, 3.1 GiB."
    )


SENTENCES: list[tuple[list[Any], str]] = [
    ([counted("a", 5, 30, 0, 65, side="target")], "Lost 30 points on a (95% interval 22 to 40)."),
    (
        [counted("a", 50, 2, 4, 44, side="target")],
        "No change seen on a (+2 points, 95% interval \u22123.6 to 8.2; could not see less than 7.8).",
    ),
    ([counted("a", 2, 1, 1, 0, side="target")], "No change seen on a (0 points, 95% interval \u221265 to 65; too few items to see any)."),
    ([counted("a", 99, 1, 0, 0)], "Kept 99% of what it knew (at least 95.3%), lost 1 item in a."),
    ([counted("a", 98, 2, 1, 0)], "Kept 98% of what it knew (at least 93.8%), lost 2 items, all in a, won 1 other."),
    ([counted("a", 50, 2, 0, 0), counted("b", 50, 2, 0, 0)], "Kept 96.2% of what it knew (at least 91.4%), lost 4 items."),
    ([counted("a", 0, 0, 3, 60)], "Nothing was measured."),
    (
        [continuous("text", [float(i) for i in range(9)], [i - 0.5 - i / 100 for i in range(9)], side="target")],
        "Nll per token on text fell by 0.54, which is better (95% interval 0.519 to 0.561).",
    ),
]


@pytest.mark.parametrize(("probes", "says"), SENTENCES)
def test_sentences(probes: list[Any], says: str) -> None:
    assert compare(*both(*probes)).sentence() == says


# ----------------------------------------------------------------------------------------------------------------------------------------- JSON


def full() -> Ledger:
    return compare(
        *both(
            binary("a", "110010", "101011", side="target", summary={"ece": 0.2, "auroc": math.nan}),
            continuous("one", [1.0], [2.0]),
            counted("big", 400, 30, 120, 50),
        ),
        cost={"seconds": 3},
    )


def test_json_round_trip(tmp_path: Path) -> None:
    ledger = full()
    assert Ledger.from_json(ledger.to_json()) == ledger
    path = tmp_path / "ledger.json"
    ledger.write(path)
    assert Ledger.read(path) == ledger
    assert [p.name for p in tmp_path.iterdir()] == ["ledger.json"]
    raw = json.loads(ledger.to_json())
    assert raw["probes"][0]["summary"] == {"auroc": [None, None], "ece": [0.2, 0.2]}
    assert raw["probes"][1]["difference"]["low"] is None
    # ids are complete, texts of gained items are not
    assert (len(raw["probes"][2]["gained_ids"]), len(raw["probes"][2]["gained"]), len(raw["probes"][2]["lost"])) == (120, 100, 30)


def test_long_texts_are_cut_and_say_so() -> None:
    (a, b) = binary("a", "1", "0")
    long = dataclasses.replace(a.items[0], prompt="p" * 30_000, output="o" * 30_000)
    item = compare(*both((dataclasses.replace(a, items=(long,)), b))).probe("a").lost[0]
    assert (len(item.prompt), len(item.before_output), item.cut) == (20_000, 4_000, True)


@settings(deadline=None)
@given(hs.lists(hs.tuples(hs.booleans(), hs.booleans()), min_size=1, max_size=60))
def test_counts_always_add_up_and_survive_json(items: list[tuple[bool, bool]]) -> None:
    before, after = ("".join(str(int(pair[side])) for pair in items) for side in (0, 1))
    ledger = compare(*both(binary("a", before, after)))
    probe = ledger.probe("a")
    everything = (*probe.gained_ids, *probe.kept_ids, *probe.lost_ids, *probe.never_ids)
    assert sorted(everything) == sorted(f"a{i}" for i in range(len(items)))
    assert probe.difference.point == pytest.approx((len(probe.gained_ids) - len(probe.lost_ids)) / len(items))
    assert probe.difference.low <= probe.difference.point <= probe.difference.high  # type: ignore[operator]
    assert Ledger.from_json(ledger.to_json()) == ledger


BAD_JSON = [
    ("{", "is not JSON"),
    ("[]", "is not a ledger"),
    ('{"version": 99}', "has ledger version 99, this tempering reads up to 1"),
    ('{"version": 1}', "field before_model: Field required"),
    (full().to_json().replace('"alpha": 0.05', '"alpha": "much"'), "field alpha: Input should be a valid number"),
]


@pytest.mark.parametrize(("text", "says"), BAD_JSON)
def test_bad_json(text: str, says: str) -> None:
    with pytest.raises(UserError, match=f"^x.json.*{says}"):
        Ledger.from_json(text, name="x.json")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        Ledger.read(tmp_path / "ledger.json")


# ------------------------------------------------------------------------------------------------------------------------------------- refusals


def _other(change: Any) -> tuple[Scores, Scores]:
    before, after = both(binary("a", "1100", "1010"))
    return before, Scores("tuned", tuple(change(probe) for probe in after.probes))


def _with_items(change: Any) -> tuple[Scores, Scores]:
    return _other(lambda probe: dataclasses.replace(probe, items=tuple(change(list(probe.items)))))


REFUSED = [
    (_with_items(lambda items: items[:2]), r"probe 'a' on model 'tuned' lacks 2 item\(s\) that the other model has: 'a2', 'a3'"),
    (_with_items(lambda items: [*items, ItemScore("z", 1.0)]), r"probe 'a' on model 'base' lacks 1 item\(s\).*: 'z'"),
    (_with_items(lambda items: [*items, items[1]]), "probe 'a' on model 'tuned' has more than one item with id 'a1'"),
    (_with_items(lambda items: [dataclasses.replace(items[0], score=math.nan), *items[1:]]), "item 'a0' on model 'tuned' has score nan"),
    (_with_items(lambda items: [dataclasses.replace(items[0], score=0.5), *items[1:]]), "has score 0.5; a binary probe's scores are 0 or 1"),
    (_with_items(lambda items: [dataclasses.replace(items[0], expected="7"), *items[1:]]), "item 'a0' expects 'answer 0' before and '7' after"),
    (_other(lambda probe: dataclasses.replace(probe, probe="b")), "model 'tuned' was not measured with probe 'a'"),
    (_other(lambda probe: dataclasses.replace(probe, metric="f1")), "probe 'a' has metric 'accuracy' before and 'f1' after"),
    (_other(lambda probe: dataclasses.replace(probe, higher_is_better=False)), "higher_is_better True before and False after"),
    (both(binary("a", "", "")), "probe 'a' has no items"),
    (both(binary("keep", "1", "1")), "named 'keep', which gates use"),
    (both(binary("a", "1", "1"), binary("a", "0", "1")), "more than one probe named 'a'"),
]


@pytest.mark.parametrize(("scores", "says"), REFUSED)
def test_refusals(scores: tuple[Scores, Scores], says: str) -> None:
    with pytest.raises(UserError, match=says):
        compare(*scores)


def test_alpha_is_checked() -> None:
    with pytest.raises(UserError, match=r"alpha is 5"):
        compare(*both(binary("a", "1", "1")), alpha=5)


def test_a_target_that_starts_near_zero_lacks_no_room() -> None:
    assert compare(*both(counted("a", 2, 0, 0, 98, side="target"))).probe("a").headroom == ""
    assert "change up" in compare(*both(counted("a", 98, 0, 0, 2, side="target"))).probe("a").headroom
