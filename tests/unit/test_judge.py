"""Judging: duels, win rates, ratings, agreement, what is read from a judge's text; closed forms, invariances and hand-worked tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tempering.errors import UserError
from tempering.judge.agreement import cohen_kappa, krippendorff_alpha
from tempering.judge.judges import ModelJudge, ProgramJudge, fill, read_mark, read_verdict
from tempering.judge.rates import controlled_rate, length_controlled, win_rate
from tempering.judge.ratings import ELO, bradley_terry, elo
from tempering.judge.verdicts import Duel, Item, Question, Verdict, duel
from tempering.types import Episode, Message


def prompts(n: int) -> list[tuple[Message, ...]]:
    return [(Message("user", f"question {i}"),) for i in range(n)]


def by_length(questions: Sequence[Question]) -> list[Verdict | None]:
    """The longer answer; a tie at equal length."""
    return ProgramJudge(lambda _, answer: float(len(answer)))(questions)


def placed(questions: Sequence[Question]) -> list[Verdict | None]:
    return ["first" for _ in questions]


A, B = ["aaa", "a", "aa", "aaaa"], ["b", "bb", "bb", "b"]


def test_a_duel_counts_what_the_judge_says() -> None:
    played = duel(prompts(4), A, B, by_length)
    assert [item.score for item in played.items] == [1.0, 0.0, 0.5, 1.0]
    assert all(set(item.verdicts) == {"ab", "ba"} for item in played.items)
    assert played.asked == 8 and played.unreadable == 0 and played.consistent == 1.0 and played.first_place == 0.5
    won = win_rate(played)
    assert (won.rate.point, won.wins, won.ties, won.losses, won.left_out) == (0.625, 2, 1, 1, 0)
    assert won.p == 1.0  # two of three


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_swapping_the_sides_mirrors_everything(seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = (["x" * int(n) for n in rng.integers(1, 40, 60)] for _ in range(2))

    def judge(questions: Sequence[Question]) -> list[Verdict | None]:
        # Likes length and the first place, and is noisy in a way that depends on the question alone.
        values = [len(q.first) - len(q.second) + 5 + hash((q.prompt[0].content, len(q.first), len(q.second))) % 41 - 20 for q in questions]
        return ["first" if v > 0 else "second" for v in values]

    one, other = duel(prompts(60), left, right, judge, seed=seed), duel(prompts(60), right, left, judge, seed=seed)
    a, b = win_rate(one).rate, win_rate(other).rate
    assert a.point == pytest.approx(1 - b.point, abs=1e-12)
    c, d = length_controlled(one), length_controlled(other)
    assert c.point == pytest.approx(1 - d.point, abs=1e-6)
    assert c.low == pytest.approx(1 - d.high, abs=1e-6)  # type: ignore[operator]


def test_a_judge_of_places_is_found_out_and_decides_nothing() -> None:
    played = duel(prompts(4), A, B, placed)
    assert played.first_place == 1.0 and played.consistent == 0.0
    assert win_rate(played).rate.point == 0.5
    once = duel(prompts(40), ["a"] * 40, ["b"] * 40, placed, swap=False, seed=3)
    assert once.asked == 40 and 0 < sum(item.score or 0 for item in once.items) < 40  # the seed draws the order
    assert once == duel(prompts(40), ["a"] * 40, ["b"] * 40, placed, swap=False, seed=3)


def test_ties_pull_towards_a_half() -> None:
    played = duel(prompts(4), A, B, by_length)
    more = Duel((*played.items, *(Item("t", "t", {"ab": "tie", "ba": "tie"}) for _ in range(4))))
    assert win_rate(more).rate.point == (0.625 * 4 + 0.5 * 4) / 8
    assert win_rate(more).p == win_rate(played).p


def test_an_unreadable_verdict_is_counted_and_never_guessed() -> None:
    def judge(questions: Sequence[Question]) -> list[Verdict | None]:
        return [
            None if q.prompt[0].content == "question 0" and q.first.startswith("a") else v
            for q, v in zip(questions, by_length(questions), strict=True)
        ]

    played = duel(prompts(4), A, B, judge)
    assert played.unreadable == 1 and played.items[0].score is None
    won = win_rate(played)
    assert won.left_out == 1 and won.rate.point == 0.5
    with pytest.raises(UserError, match="none of the judge's 8 verdicts could be read"):
        win_rate(duel(prompts(4), A, B, lambda questions: [None] * len(questions)))


def test_bad_duels_are_refused() -> None:
    with pytest.raises(UserError, match="got 4 prompts, 3 and 4"):
        duel(prompts(4), A[:3], B, by_length)
    with pytest.raises(UserError, match="needs one answer"):
        duel([], [], [], by_length)
    with pytest.raises(UserError, match="gave 1 verdicts for 8"):
        duel(prompts(4), A, B, lambda questions: ["tie" for _ in questions[:1]])
    with pytest.raises(UserError, match="not 'A'"):
        duel(prompts(4), A, B, lambda questions: ["A"] * len(questions))  # type: ignore[list-item]


# ----------------------------------------------------------------------------------------------------------------------------- length control


def test_without_length_differences_the_controlled_rate_is_the_plain_one() -> None:
    found = controlled_rate([1, 1, 0, 0.5, 1], [0, 0, 0, 0, 0])
    assert found.point == pytest.approx(0.7, abs=1e-9)


def test_balanced_lengths_give_the_closed_form() -> None:
    """Half the items +1, half -1 in length: two saturated cells, so theta is the mean of their logits, and phi half the difference."""
    scores = [1] * 9 + [0] * 1 + [1] * 4 + [0] * 6
    found = controlled_rate(scores, [1.0] * 10 + [-1.0] * 10)
    theta = (math.log(9 / 1) + math.log(4 / 6)) / 2
    assert found.point == pytest.approx(1 / (1 + math.exp(-theta)), abs=1e-7)
    # Sandwich variance of a saturated logit: 1 / (n p q) for each cell; theta is the mean of two.
    error = math.sqrt((1 / (10 * 0.9 * 0.1) + 1 / (10 * 0.4 * 0.6)) / 4)
    assert found.low == pytest.approx(1 / (1 + math.exp(-(theta - 1.959963984540054 * error))), abs=1e-6)


def test_a_judge_of_length_alone_gives_a_half() -> None:
    rng = np.random.default_rng(0)
    d = rng.normal(1.0, 1.0, 4000)
    won = (rng.random(4000) < 1 / (1 + np.exp(-2 * np.tanh(d / math.sqrt(float((d**2).mean())))))).astype(float)
    plain, controlled = won.mean(), controlled_rate(won.tolist(), d.tolist())
    assert plain > 0.65
    assert controlled.low < 0.5 < controlled.high  # type: ignore[operator]


def test_length_that_decides_everything_has_no_answer() -> None:
    with pytest.raises(UserError, match="without exception"):
        controlled_rate([1, 1, 1, 0, 0, 0], [1, 2, 3, -1, -2, -3])
    with pytest.raises(UserError, match="wins or loses every item"):
        controlled_rate([1, 1, 1], [1, 2, 3])


# ------------------------------------------------------------------------------------------------------------------------------------ ratings


def test_two_players_have_a_closed_form() -> None:
    found = bradley_terry(["a", "b"], [[0, 30], [10, 0]]).strengths[1]
    assert found.point == pytest.approx(math.log(10 / 30), abs=1e-10)
    top = 30 * math.log(0.75) + 10 * math.log(0.25)
    for end in (found.low, found.high):
        p = 1 / (1 + math.exp(end))  # type: ignore[arg-type]
        assert 2 * (top - (30 * math.log(p) + 10 * math.log(1 - p))) == pytest.approx(3.841458820694124, abs=1e-7)
    assert bradley_terry(["a", "b"], [[0, 30], [10, 0]]).elo()["b"].point == pytest.approx(1000 + 400 * math.log10(1 / 3), abs=1e-8)


def test_strengths_solve_the_likelihood_equations_and_equal_statsmodels() -> None:
    import statsmodels.api as sm

    wins = np.array([[0, 12, 7, 9], [8, 0, 11, 6], [5, 9, 0, 10.5], [3, 7, 4.5, 0]])
    names = ["a", "b", "c", "d"]
    found = bradley_terry(names, wins)
    s = np.array([i.point for i in found.strengths])
    expected = ((wins + wins.T) / (1 + np.exp(s[None] - s[:, None]))).sum(1)
    assert expected == pytest.approx(wins.sum(1), abs=1e-8)
    rows, outcomes = [], []
    for i in range(4):
        for j in range(i + 1, 4):
            row = np.zeros(4)
            row[i], row[j] = 1, -1
            rows.append(row[1:])
            outcomes.append((wins[i, j], wins[j, i]))
    peer = sm.GLM(np.array(outcomes), np.array(rows), family=sm.families.Binomial()).fit()
    assert s[1:] == pytest.approx(peer.params, abs=1e-8)
    order = [2, 0, 3, 1]
    turned = bradley_terry([names[i] for i in order], wins[np.ix_(order, order)])
    assert turned.strengths[1].point == pytest.approx(s[0] - s[2], abs=1e-8)


def test_strengths_that_would_be_infinite_are_refused() -> None:
    with pytest.raises(UserError, match="a never lost or never won"):
        bradley_terry(["a", "b", "c"], [[0, 3, 2], [0, 0, 1], [0, 4, 0]])
    with pytest.raises(UserError, match="a table of wins of 2 players"):
        bradley_terry(["a", "b"], [[0, 1, 2]])
    with pytest.raises(UserError, match="zeros on its diagonal"):
        bradley_terry(["a", "b"], [[1, 1], [1, 0]])


def test_elo_moves_by_what_was_not_expected() -> None:
    found = elo([("a", "b", 1.0), ("b", "a", 0.5)], k=16, resamples=0)
    first = 16 * 0.5
    second = 16 * (0.5 - 1 / (1 + 10 ** (2 * first / 400)))
    assert found["a"].point == pytest.approx(1000 + first - second)
    assert sum(r.point for r in found.values()) == pytest.approx(2000)
    games = [("a", "b", 1.0)] * 60 + [("a", "b", 0.0)] * 20
    spread = elo(games, seed=1)["a"]
    assert spread.low < spread.point or spread.low < spread.high  # type: ignore[operator]
    assert elo(games, seed=1)["a"] == spread
    with pytest.raises(UserError, match="no games"):
        elo([])
    with pytest.raises(UserError, match="is no game"):
        elo([("a", "a", 1.0)])
    assert pytest.approx(400 / math.log(10)) == ELO


# ---------------------------------------------------------------------------------------------------------------------------------- agreement


def test_kappa_by_hand() -> None:
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.7, expected 0.5.
    a = ["yes"] * 25 + ["no"] * 25
    b = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(a, b) == pytest.approx(0.4)
    assert cohen_kappa(b, a) == pytest.approx(0.4)
    assert cohen_kappa(a, a) == 1.0
    assert cohen_kappa(["x", "y"], ["y", "x"]) == -1.0
    # With two categories every weight is the plain one.
    assert cohen_kappa(a, b, weights="quadratic") == pytest.approx(0.4)
    # 1,2,3 against 1,2,1: one distance of 2 in three; expected (1 + 2 + 4 + 1) / 9, squared (1 + 2 + 8 + 1) / 9.
    assert cohen_kappa([1, 2, 3], [1, 2, 1], weights="linear") == pytest.approx(1 - (2 / 3) / (8 / 9))
    assert cohen_kappa([1, 2, 3], [1, 2, 1], weights="quadratic") == pytest.approx(1 - (4 / 3) / (12 / 9), abs=1e-12)
    with pytest.raises(UserError, match="undefined"):
        cohen_kappa(["x", "x"], ["x", "x"])
    with pytest.raises(UserError, match="got 2 and 1"):
        cohen_kappa(["x", "y"], ["x"])


_ = None
OBSERVERS: list[list[float | None]] = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]
"""The worked example of Krippendorff 2011, with his values of alpha."""


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_worked_example(level: Any, alpha: float) -> None:
    units = list(zip(*OBSERVERS, strict=True))
    assert krippendorff_alpha(units, level=level) == pytest.approx(alpha, abs=5e-4)
    assert krippendorff_alpha(list(reversed(units)), level=level) == pytest.approx(krippendorff_alpha(units, level=level), abs=1e-12)


def test_alpha_of_two_judges_by_hand() -> None:
    # Units 00, 00, 11, 01: observed 1/4; of 8 values five are 0: expected 2*5*3/(8*7).
    assert krippendorff_alpha([[0, 0], [0, 0], [1, 1], [0, 1]]) == pytest.approx(1 - (2 / 8) / (30 / 56))
    with pytest.raises(UserError, match="undefined"):
        krippendorff_alpha([[1, 1], [1, 1]])
    with pytest.raises(UserError, match="two judges"):
        krippendorff_alpha([[1, None], [None, 2]])


# ------------------------------------------------------------------------------------------------------------------------- judges that are asked


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("so [[A]]", "first"), ("[[B]] and again [[B]]", "second"), ("[[C]]", "tie"), ("[[A]] or [[B]]", None), ("A is better", None), ("[[D]]", None)],
)
def test_reading_verdicts(text: str, verdict: str | None) -> None:
    assert read_verdict(text) == verdict


@pytest.mark.parametrize(
    ("text", "mark"), [("[[7]]", 7), ("[[Rating: 3.5]]", 3.5), ("[[11]]", None), ("[[-2]]", None), ("7", None), ("[[7]] [[8]]", None)]
)
def test_reading_marks(text: str, mark: float | None) -> None:
    assert read_mark(text) == mark


def test_an_answer_cannot_fill_other_places() -> None:
    assert fill("{first} | {second} | {other}", first="{second}", second="x") == "{second} | x | {other}"


class Written:
    """A sampler that answers by a function of the question's text, and counts."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, list[str]()

    def sample(self, prompts: Sequence[Any], **options: Any) -> list[list[Episode]]:
        assert options["temperature"] == 0.0
        texts = [prompt[0].content for prompt in prompts]
        self.asked += texts
        return [[Episode((), (), (), self.answer(text), True)] for text in texts]


def test_a_model_judge_asks_each_question_once_ever(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPERING_HOME", str(tmp_path))

    def answer(text: str) -> str:
        first = text.split("<answer_a>\n")[1].split("\n")[0]
        return f"[[{'A' if first.startswith('a') else 'B'}]]" if len(first) > 1 else "hm"

    sampler = Written(answer)
    judge = ModelJudge(sampler, "someone")
    played = duel(prompts(4), A, B, judge, seed=1)
    assert len(sampler.asked) == 8
    # Shown first and longer than one letter: aaa, bb, aa, bb, aaaa; "b" and "a" get no verdict.
    assert played.unreadable == 3 and [item.score for item in played.items] == [None, None, 1.0, None]
    again = Written(answer)
    assert duel(prompts(4), A, B, ModelJudge(again, "someone"), seed=2) == played and again.asked == []
    other = Written(answer)
    duel(prompts(4), A, B, ModelJudge(other, "someone else"), seed=1)
    assert len(other.asked) == 8


def test_marks_are_compared(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPERING_HOME", str(tmp_path))
    sampler = Written(lambda text: f"[[{len(text.split('<answer>')[1].split('</answer>')[0].strip())}]]")
    played = duel(prompts(4), A, B, ModelJudge(sampler, "m", pointwise=True))
    assert [item.score for item in played.items] == [1.0, 0.0, 0.5, 1.0]
    assert len(sampler.asked) == 8  # each answer once, whatever the order


def test_the_gold_reward_judges() -> None:
    from tempering.worlds.preferences import Preferences

    world = Preferences()
    items = list(world.items("test", 30))
    asked = [(Message("user", i["prompt"]),) for i in items]
    played = duel(asked, [i["answer"] for i in items], [i["worse"] for i in items], ProgramJudge(world.reward))
    assert win_rate(played).rate.point == 1.0 and played.consistent == 1.0
    with pytest.raises(UserError, match="user's turn"):
        ProgramJudge(world.reward)([Question((Message("system", "x"),), "a", "b")])
