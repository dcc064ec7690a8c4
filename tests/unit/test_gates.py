"""Gates: the grammar, what each name means, when items cannot decide, and the sentence of a failed one."""

from __future__ import annotations

import pytest

from tempering import gates
from tempering.errors import GateFailed, UserError
from tempering.ledger import Ledger, compare

from .ledger_cases import both, continuous, counted


@pytest.fixture
def ledger() -> Ledger:
    return compare(
        *both(
            counted("gsm", 80, 13, 106, 101, side="target", summary={"mean_length": 12.0}),
            counted("qa", 95, 5, 7, 93),
            counted("people.facts", 97, 3, 2, 98),
            continuous("text", [3.0, 2.0, 2.5, 4.0], [3.1, 2.2, 2.4, 4.2], summary={"perplexity": 9.5}),
        ),
        kl={"kl_per_token": 0.12, "low": 0.10, "high": 0.14},
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("keep >= 0.98", ("keep", ">=", 0.98)),
        ("keep>=.98", ("keep", ">=", 0.98)),
        (" keep.lower > 1e-1 ", ("keep.lower", ">", 0.1)),
        ("held text <= 3", ("held text", "<=", 3.0)),
        ("qa.diff < -0.02", ("qa.diff", "<", -0.02)),
        ("leaderboard/x-y:z.ece <= 0.1", ("leaderboard/x-y:z.ece", "<=", 0.1)),
    ],
)
def test_parse(text: str, parts: tuple[str, str, float]) -> None:
    gate = gates.parse(text)
    assert (gate.target, gate.op, gate.threshold) == parts


@pytest.mark.parametrize(
    "text", ["", "keep", "keep >=", ">= 0.98", "keep = 0.98", "keep == 1", "keep >= high", "keep >= 0.9 0.8", "keep => 1", "keep >= 1e999"]
)
def test_malformed_gates_show_the_grammar(text: str) -> None:
    with pytest.raises(UserError, match=r"is malformed; expected NAME\[\.FIELD\] OP NUMBER"):
        gates.parse(text)


VALUES = [
    ("keep >= 0", 192 / 200),
    ("keep.point >= 0", 192 / 200),
    ("keep.lost >= 0", 8),
    ("gain >= 0", 93 / 300),
    ("kl >= 0", 0.12),
    ("kl.upper >= 0", 0.14),
    ("qa >= 0", 102 / 200),
    ("qa.after >= 0", 102 / 200),
    ("qa.before >= 0", 100 / 200),
    ("qa.diff >= 0", 2 / 200),
    ("qa.lost >= 0", 5),
    ("qa.keep >= 0", 0.95),
    ("people.facts >= 0", 99 / 200),
    ("people.facts.diff >= 0", -1 / 200),
    ("gsm.mean_length >= 0", 12.0),
    ("text >= 0", 11.9 / 4),
    ("text.diff >= 0", 0.1),
    ("text.perplexity >= 0", 9.5),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_what_names_mean(ledger: Ledger, text: str, value: float) -> None:
    assert gates.check(ledger, [text])[0].value == pytest.approx(value)


def test_bounds_are_the_ledgers(ledger: Ledger) -> None:
    found = gates.check(ledger, ["keep.lower >= 0", "gain.upper >= 0", "qa.lower > 0", "qa.diff_lower > -1", "text.diff_upper < 9"])
    qa, text = ledger.probe("qa"), ledger.probe("text")
    assert ledger.keep is not None
    assert ledger.gain is not None
    assert [r.value for r in found] == [ledger.keep.low, ledger.gain.high, qa.after.low, qa.difference.low, text.difference.high]


@pytest.mark.parametrize(("op", "passed"), [(">=", True), (">", False), ("<=", True), ("<", False)])
def test_the_threshold_itself(ledger: Ledger, op: str, passed: bool) -> None:
    assert gates.check(ledger, [f"keep {op} 0.96"])[0].passed is passed


def test_a_gate_compares_the_point_and_prints_the_bound(ledger: Ledger) -> None:
    result = gates.check(ledger, ["keep >= 0.95"])[0]
    assert (result.passed, result.value, result.undecided) == (True, 0.96, True)
    assert ledger.keep is not None
    assert result.lower == ledger.keep.low
    assert f"lower bound {result.lower:.4g}" in result.message
    assert result.items_needed is not None
    # at the number it asks for, the bound does decide
    n = result.items_needed
    again = compare(*both(counted("a", round(0.96 * n), n - round(0.96 * n), 0, 5)))
    decided = gates.check(again, ["keep >= 0.95", "keep.lower >= 0.95"])
    assert [(r.passed, r.undecided) for r in decided] == [(True, False), (True, False)]


def test_all_kept_of_too_few_needs_149() -> None:
    few, enough = (compare(*both(counted("a", n, 0, 0, 5))) for n in (60, 149))
    result = gates.check(few, ["keep >= 0.98"])[0]
    assert (result.passed, result.undecided, result.items, result.items_needed) == (True, True, 60, 149)
    assert "60 items cannot tell, about 149 could" in result.message
    assert gates.check(enough, ["keep >= 0.98"])[0].undecided is False
    bound = gates.check(few, ["keep.lower >= 0.98"])[0]
    assert (bound.passed, bound.undecided, bound.items_needed) == (False, True, 149)
    assert "the point 1 holds and only its bound does not" in bound.message


def test_a_value_at_the_threshold_is_decided_by_no_number(ledger: Ledger) -> None:
    result = gates.check(ledger, ["keep >= 0.96"])[0]
    assert (result.passed, result.undecided, result.items_needed) == (True, True, None)


def test_difference_gates_scale_with_the_square_root(ledger: Ledger) -> None:
    result = gates.check(ledger, ["gain >= 0.30"])[0]
    assert ledger.gain is not None
    assert ledger.gain.low is not None
    assert result.undecided
    assert result.items_needed == pytest.approx(300 * ((ledger.gain.point - ledger.gain.low) / 0.01) ** 2, abs=1)


def test_failed_gates_name_what_broke_them(ledger: Ledger) -> None:
    results = gates.check(ledger, ["keep >= 0.98", "kl < 0.5", "qa.diff > 0.3", "qa <= 0.2"])
    assert [r.passed for r in results] == [False, True, False, False]
    assert results[0].broken == (*(f"qa/qa{i}" for i in range(95, 100)), *(f"people.facts/people.facts{i}" for i in range(97, 100)))
    # a gate that wants less of what is better is broken by what was gained
    assert results[3].broken == tuple(f"qa/qa{i}" for i in range(100, 107))
    with pytest.raises(GateFailed) as caught:
        gates.raise_if_failed(results)
    text = str(caught.value)
    assert "gate 'keep >= 0.98' FAILED: share of the 200 items right before that are still right is 0.96 (lower bound 0.9" in text
    assert "broken by qa/qa95, qa/qa96" in text
    assert "kl" not in text
    assert GateFailed.exit_code == 3
    gates.raise_if_failed(results[1:2])


def test_lower_is_better_is_broken_by_what_rose() -> None:
    value = compare(*both(counted("harm", 5, 20, 3, 14, higher_is_better=False)))
    # scores rose on items 25 to 27: those are lost, and they break a gate that wants few
    result = gates.check(value, ["harm <= 0.1"])[0]
    assert (result.value, result.broken) == (8 / 42, ("harm/harm25", "harm/harm26", "harm/harm27"))
    lost = gates.check(value, ["harm.lost <= 2"])[0]
    assert (lost.passed, lost.broken) == (False, ("harm/harm25", "harm/harm26", "harm/harm27"))


def test_many_broken_items_are_counted(ledger: Ledger) -> None:
    result = gates.check(ledger, ["gain >= 0.9"])[0]
    assert (len(result.broken), result.broken_count) == (10, 13)
    assert result.message.endswith("gsm/gsm89 and 3 more")


def test_nothing_to_keep_does_not_pass() -> None:
    result = gates.check(compare(*both(counted("a", 0, 0, 3, 40))), ["keep >= 0.98"])[0]
    assert (result.passed, result.value, result.undecided) == (False, None, True)
    assert "no item was right before" in result.message


BAD = [
    ("kepe >= 0.9", "there is no probe named 'kepe'; did you mean 'keep'"),
    ("peple.facts >= 0.9", "did you mean 'people.facts'"),
    ("gms.diff >= 0", "did you mean 'gsm'"),
    ("zzzzzz >= 0.9", "expected one of keep, gain, kl, gsm, qa, people.facts, text"),
    ("keep.lowr >= 0.9", "'keep' has no field 'lowr', did you mean 'lower'"),
    ("qa.dif >= 0", "probe 'qa' has no field 'dif', did you mean 'diff'"),
    ("text.perplexty < 9", "did you mean 'perplexity'"),
    ("text.keep > 0.5", "'text' is not a binary probe"),
    ("keep >= 98", "lies between 0 and 1, to 98; did you mean 'keep >= 0.98'"),
    ("qa >= -0.02", "did you mean 'qa.diff >= -0.02'"),
]


@pytest.mark.parametrize(("text", "says"), BAD)
def test_bad_gates(ledger: Ledger, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        gates.check(ledger, [text])


def test_gates_on_what_was_not_measured() -> None:
    bare = compare(*both(continuous("text", [1.0, 2.0], [1.0, 2.0])))
    for text, says in (("kl < 1", "was not measured"), ("gain > 0", "no probe is on the target side"), ("keep > 0.9", "measure a keep battery")):
        with pytest.raises(UserError, match=says):
            gates.check(bare, [text])
    one = compare(*both(continuous("text", [1.0], [2.0])))
    with pytest.raises(UserError, match="has no upper bound"):
        gates.check(one, ["text.diff_upper < 9"])


def test_validate_before_training() -> None:
    assert [gate.target for gate in gates.validate(["keep >= 0.9", "qa.ece < 0.1"], ["qa"])] == ["keep", "qa.ece"]
    with pytest.raises(UserError, match="did you mean 'qa'"):
        gates.validate(["qq >= 0.9", "aq > 1"], ["qa"])
