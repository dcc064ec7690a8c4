"""A power law with a limit: exponents of made numbers come back, increments are paired, and a sweep that is finished trains nothing to tell them."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempering import powerlaw
from tempering.errors import UserError
from tempering.powerlaw import fitted, growth
from tests.unit.cli_cases import temper
from tests.unit.test_cli_sweep import Runner, sweep

PLACES = (1, 2, 4, 8, 16, 32)


@pytest.mark.parametrize("exponent", [-3.0, -1.2, -0.5, -0.05, 0.1, 0.5, 1.0, 2.5])
@pytest.mark.parametrize(("limit", "scale"), [(3.0, -1.5), (-0.2, 0.7)])
@pytest.mark.parametrize("unit", [1.0, 1e6])
def test_the_exponent_of_made_numbers_comes_back(exponent: float, limit: float, scale: float, unit: float) -> None:
    law = fitted([unit * x for x in PLACES], [limit + scale * x**exponent for x in PLACES])
    assert law.exponent == pytest.approx(exponent, abs=1e-3)
    assert law.limit == pytest.approx(limit, abs=1e-2) and law.rest < 1e-5
    assert law.scale * unit**exponent == pytest.approx(scale, abs=1e-2)
    assert [law(unit * x) for x in PLACES] == pytest.approx([limit + scale * x**exponent for x in PLACES], abs=1e-6)


def test_an_exponent_survives_small_noise() -> None:
    """With noise of 1e-4 on 6 places 50 times over, by the mean of all."""
    draw = np.random.default_rng(0)
    x = [p for p in PLACES for _ in range(50)]
    assert fitted(x, [2 - 1.5 * p**-0.7 + draw.normal(0, 1e-4) for p in x]).exponent == pytest.approx(-0.7, abs=1e-3)


def test_a_logarithm_has_an_exponent_of_nothing() -> None:
    assert fitted(PLACES, [1 + 0.3 * math.log(x) for x in PLACES]).exponent == pytest.approx(0, abs=1e-3)
    assert powerlaw.Law(1.0, 0.3, 0.0, 0.0)(math.e) == pytest.approx(1.3)


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        ([1, 2, 2], [1, 2, 3], "3 or more different places, got 2"),
        ([0, 1, 2], [1, 2, 3], "above 0"),
        ([1, 2, 3], [1, 2, math.nan], "finite"),
        ([1, 2, 3], [1, 2], "different places"),
    ],
)
def test_no_law_of_these(x: list[float], y: list[float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        fitted(x, y)


def test_levels_are_paired_and_the_law_is_looked_at_without_each_repetition() -> None:
    """Two repetitions, one 1 above the other: 4, 6, 7 and 5, 7, 8. The increments are 2 and 1 in both, y = 8 - 8/x and 9 - 8/x."""
    found = growth({"a": {2: 4, 4: 6, 8: 7}, "b": {2: 5, 4: 7, 8: 8}})
    assert [(level.x, level.mean.point) for level in found.levels] == [(2, 4.5), (4, 6.5), (8, 7.5)]
    added = [level.added for level in found.levels]
    assert added[0] is None and [(one.point, one.low, one.high) for one in added if one] == [(2, 2, 2), (1, 1, 1)]
    assert found.diminishing and not growth({"a": {1: 0, 2: 1, 3: 3}}).diminishing
    assert found.law.exponent == pytest.approx(-1, abs=1e-3) and found.law.limit == pytest.approx(8.5, abs=1e-2)
    assert found.without_one == pytest.approx((-1, -1), abs=1e-3)
    assert "Each level adds less than the one before" in powerlaw.sentence(found, "samples")
    ET.fromstring(str(powerlaw.picture(found, "samples<")))


class Gaining(Runner):
    """A run whose gain grows with --batch-size: 1 - 1/batch, plus a tenth of the seed."""

    def __call__(self, words: Any) -> int:
        code = super().__call__(words)
        given = dict(word.removeprefix("--").split("=") for word in words if "=" in word and word.startswith("--"))
        gain = 1 - 1 / float(given["training.batch_size"]) + 0.1 * float(given["seed"])
        ledger = Path(words[words.index("--out") + 1]) / "ledger.json"
        ledger.write_text(json.dumps({"gain": {"point": gain}}))
        return code


LINE = "--training.batch-size 2,4,8 --seed 0,1 --scaling batch-size --out s"


def test_a_sweep_tells_how_the_gain_grows_and_trains_nothing_when_it_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first, again = Gaining([]), Gaining([])
    assert sweep(LINE, first) == 0 and len(first.calls) == 6
    told = (tmp_path / "s" / "scaling.json").read_bytes()
    found = json.loads(told)
    assert found["law"]["exponent"] == pytest.approx(-1, abs=1e-3) and found["diminishing"] is True
    assert [level["x"] for level in found["levels"]] == [2, 4, 8] and found["levels"][0]["mean"]["point"] == pytest.approx(0.55)
    assert len(found["runs"]) == 2
    assert sweep(LINE, again) == 0
    assert again.calls == [] and (tmp_path / "s" / "scaling.json").read_bytes() == told
    ET.parse(tmp_path / "s" / "scaling.svg")
    assert "Each level adds less than the one before." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--batch-size 2,4 --scaling batch-size", "needs 3 or more different numbers above 0, got 2, 4"),
        ("--batch-size 2,4,8 --scaling lr", "--scaling lr: is none of the flags that vary here (--batch-size)"),
        ("--data a,b,c --scaling data", "different numbers above 0, got a, b, c"),
        ("--lr 1,2,3 --scaling", "--scaling needs a value"),
    ],
)
def test_wrong_scaling(line: str, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = temper(capsys, f"sweep sft {line}")
    assert (code, out) == (2, "") and says in err
    assert list(tmp_path.iterdir()) == []
