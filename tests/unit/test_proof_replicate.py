"""Claims, verdicts, digests, and the order of commits; an arm that is killed loses itself alone."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tempering.cli.app import run_command
from tempering.errors import UserError
from tempering.methods.objectives.nll import NLL
from tempering.proof import claims, history, replicate, small
from tempering.proof.claims import Claim, Scale, Seed, judge
from tempering.proof.digest import combined, digests, tree_digest
from tempering.types import Policy
from tempering.worlds.people import People

CLAIM = Claim("dpo", (), "t", "c", "b", "accuracy", smallest_effect=0.1)


def seeds(*pairs: tuple[float, float]) -> list[Seed]:
    return [Seed(seed=i, baseline=a, method=b) for i, (a, b) in enumerate(pairs)]


def moved(*by: float, start: float = 0.5) -> list[Seed]:
    return seeds(*((start, start + d) for d in by))


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((0.20, 0.21, 0.22, 0.19, 0.18), "replicated"),
        ((0.10, 0.14, 0.12, 0.08, 0.06), "partly"),
        ((0.05, 0.06, 0.04, 0.05, 0.05), "not replicated"),
        ((-0.2, -0.21, -0.22, -0.19, -0.18), "not replicated"),
        ((0.2, -0.1, 0.3, -0.05, 0.1), "inconclusive"),
        ((0.20, 0.21, 0.22, 0.19), "inconclusive"),
    ],
)
def test_verdicts(differences: tuple[float, ...], verdict: str) -> None:
    assert judge(CLAIM, moved(*differences)).verdict == verdict


def test_the_interval_is_students() -> None:
    """Differences 0.1 .. 0.5: mean 0.3, standard error sqrt(0.025 / 5), t(0.975, 4) = 2.7764451."""
    found = judge(CLAIM, moved(0.1, 0.2, 0.3, 0.4, 0.5))
    assert found.effect == pytest.approx(0.3)
    assert found.interval == pytest.approx((0.3 - 2.7764451 * 0.005**0.5, 0.3 + 2.7764451 * 0.005**0.5))


@pytest.mark.parametrize(("start", "verdict"), [(0.14, "inconclusive"), (0.16, "replicated"), (0.84, "replicated"), (0.86, "inconclusive")])
def test_a_baseline_needs_headroom(start: float, verdict: str) -> None:
    found = judge(CLAIM, moved(0.20, 0.21, 0.22, 0.19, 0.18, start=start))
    assert found.verdict == verdict
    assert ("headroom" in found.reason) == (verdict == "inconclusive")


def test_a_loss_is_better_when_it_is_lower() -> None:
    claim = replace(CLAIM, higher_is_better=False, range=(0.0, 4.0))
    found = judge(claim, moved(-0.20, -0.21, -0.22, -0.19, -0.18, start=2.0))
    assert (found.verdict, found.effect) == ("replicated", pytest.approx(0.2))
    assert "baseline - method" in claim.rule()


def test_a_claim_says_what_would_count() -> None:
    with pytest.raises(UserError, match="smallest_effect is 0"):
        replace(CLAIM, smallest_effect=0.0)
    with pytest.raises(UserError, match="range"):
        replace(CLAIM, range=(1.0, 1.0))


def test_scale() -> None:
    assert (Scale()(80), Scale(True)(80), Scale(True)(80, 5), Scale(True)(3)) == (80, 10, 5, 2)


METHOD = '''"""Doc."""
from dataclasses import dataclass
@dataclass
class M:
    """Doc."""
    beta: float = 0.1
    """What it is."""
    def __call__(self, x):
        return self.beta * x  # a comment
'''


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.replace("Doc.", "Other."),
        lambda s: s.replace("What it is.", "Something else."),
        lambda s: s.replace("  # a comment", ""),
        lambda s: s.replace("self.beta * x", "(self.beta\n            * x)"),
        lambda s: "import math\n" + s + "def _f(x): return math.exp(x)\nCASES = (_f(1.0),)\nEQUIVALENT: dict = {}\n",
    ],
)
def test_what_changes_no_number_changes_no_digest(change: object) -> None:
    assert change(METHOD) != METHOD  # type: ignore[operator]
    assert tree_digest(change(METHOD)) == tree_digest(METHOD)  # type: ignore[operator]


@pytest.mark.parametrize("old, new", [("0.1", "0.2"), ("* x", "+ x"), ("beta: float", "beta: int"), ("@dataclass\n", "@dataclass(frozen=True)\n")])
def test_what_may_change_a_number_changes_the_digest(old: str, new: str) -> None:
    assert tree_digest(METHOD.replace(old, new)) != tree_digest(METHOD)
    assert combined({"a": "1"}, 1) != combined({"a": "1"}, 2) != combined({"a": "2"}, 2)


def test_a_result_depends_on_the_data_function_that_is_the_paper() -> None:
    found = digests("strength")
    assert "tempering/data/strength.py" in found
    assert not any(path.startswith("tempering/data/") and path != "tempering/data/strength.py" for path in found)


def test_what_claims_share_is_a_part_of_them_with_its_worlds() -> None:
    """NPO's claim itself imports no world: the set-up that it shares with others does."""
    found = digests("npo")
    assert {"tempering/replications/_forgetting.py", "tempering/worlds/people.py"} <= found.keys()
    assert "tempering/replications/_trade.py" not in found


def test_an_arm_is_kept_and_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[int, str]] = []

    def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
        ran.append((seed, arm))
        return {"pair accuracy": 0.5 + seed, "other": 2.0}

    monkeypatch.setattr(claims, "arm_of", lambda name: arm)
    first = replicate.run_arm("dpo", 3, "method", digest="d" * 24)
    again = replicate.run_arm("dpo", 3, "method", digest="d" * 24)
    assert (first.values, first.reused) == ({"pair accuracy": 3.5, "other": 2.0}, False)
    assert (again.values, again.reused, ran) == (first.values, True, [(3, "method")])
    replicate.run_arm("dpo", 3, "method", digest="e" * 24)
    replicate.run_arm("dpo", 3, "method", digest="e" * 24, again=True)
    replicate.run_arm("dpo", 3, "method", digest="e" * 24, quick=True)
    assert len(ran) == 4
    replicate.place_of("dpo", "e" * 24, 3, "method", False).write_text("{")  # half a file, by other hands
    assert not replicate.run_arm("dpo", 3, "method", digest="e" * 24).reused


@pytest.mark.parametrize(("given", "said"), [({"other": 1.0}, "not the claim's metric 'pair accuracy'"), (float("nan"), "not a finite number")])
def test_an_arm_gives_a_finite_number(monkeypatch: pytest.MonkeyPatch, given: object, said: str) -> None:
    monkeypatch.setattr(claims, "arm_of", lambda name: lambda seed, arm, scale: given)
    with pytest.raises(UserError, match=said):
        replicate.run_arm("dpo", 0, "baseline", digest="f" * 24)


def test_kept_arms_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "arm_of", lambda name: lambda seed, arm, scale: 0.5 + 0.1 * (arm == "method"))
    for seed in (0, 1):
        for arm in claims.ARMS:
            replicate.run_arm("dpo", seed, arm, quick=True)
    monkeypatch.setattr(replicate, "_worker", lambda *_: pytest.fail("a worker was started"))
    arms = list(replicate.run("dpo", range(2), quick=True, processes=2))
    pairs = replicate.paired(claims.read(claims.path_of("dpo")), arms)
    assert [(p.seed, p.baseline, p.method) for p in pairs] == [(0, 0.5, 0.6), (1, 0.5, 0.6)]
    assert all(arm.reused for arm in arms)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    claim = tmp_path / "tempering" / "replications" / "dpo.py"
    claim.parent.mkdir(parents=True)
    claim.write_text("CLAIM = 1\n")
    git(tmp_path, "init", "-q")
    return tmp_path


def git(root: Path, *words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def commit(root: Path, message: str) -> str:
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", message)
    return git(root, "rev-parse", "HEAD")


def result(commit: str, text: str) -> claims.Result:
    found = judge(CLAIM, moved(0.2, 0.21, 0.22, 0.19, 0.18))
    made = dict(method="dpo", catalogue=(), title="t", claim="c", rule="r", baseline="b", metric="m", seeds=(), seconds=1.0, command="x", versions={})
    files = {"tempering/replications/dpo.py": tree_digest(text)[:12]}
    more = dict(effect=found.effect, interval=found.interval, verdict=found.verdict, reason="", digest="", core_numerics=1)
    return claims.Result.model_validate({**made, **more, "commit": commit, "files": files})


def test_a_rule_stands_before_its_result(repository: Path) -> None:
    claim = "tempering/replications/dpo.py"
    with pytest.raises(UserError, match="is not committed"):
        history.commit_of([claim], repository)
    first = commit(repository, "claim")
    assert history.commit_of([claim], repository) == first
    stored = repository / "replications" / "dpo.json"
    stored.parent.mkdir()
    assert history.unproven("dpo", result(first, "CLAIM = 1"), repository) == ""
    stored.write_text("{}")
    second = commit(repository, "result")
    assert history.unproven("dpo", result(first, "CLAIM = 1"), repository) == ""
    assert "not before" in history.unproven("dpo", result(second, "CLAIM = 1"), repository)
    assert "did not stand" in history.unproven("dpo", result(first, "CLAIM = 2"), repository)
    # A commit that a rebase has rewritten: the claim must stand in the parent.
    assert history.unproven("dpo", result("0" * 40, "CLAIM = 1"), repository) == ""
    assert "did not stand" in history.unproven("dpo", result("0" * 40, "CLAIM = 2"), repository)


def test_a_claim_and_its_result_in_one_commit_prove_nothing(repository: Path) -> None:
    stored = repository / "replications" / "dpo.json"
    stored.parent.mkdir()
    stored.write_text("{}")
    only = commit(repository, "both")
    assert history.unproven("dpo", result(only, "CLAIM = 1"), repository)
    assert history.unproven("dpo", result("0" * 40, "CLAIM = 1"), repository)


def test_a_changed_claim_is_refused(repository: Path) -> None:
    commit(repository, "claim")
    (repository / "tempering" / "replications" / "dpo.py").write_text("CLAIM = 2\n")
    with pytest.raises(UserError, match="differs from the last commit"):
        history.commit_of(["tempering/replications/dpo.py"], repository)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["replicate", "dppo"], "there is no claim 'dppo'; did you mean 'dpo'?"),
        (["replicate", "dpo", "--seeds", "4"], "at least 5 paired seeds"),
        (["replicate", "dpo", "--processes", "0"], "give at least 1"),
    ],
)
def test_wrong_words_are_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(words) == 2
    told = capsys.readouterr().err
    assert said in " ".join(told.split())
    assert "Traceback" not in told


def test_noisy_answers_are_those_of_others_for_as_many_items_as_asked() -> None:
    world = People(20, start=500, seed=3)
    clean, noisy = list(world.records("train")), small.noisy(world, 0.25, seed=1)
    assert [r.prompt for r in noisy] == [r.prompt for r in clean] and len(clean) == 560
    wrong = [(a, b) for a, b in zip(clean, noisy, strict=True) if a.responses != b.responses]
    assert 0.2 < len(wrong) / len(clean) < 0.3
    said: dict[str, set[str]] = {}
    for record in clean:
        said.setdefault(record.tags["kind"], set()).add(record.responses[0].messages[0].content)
    assert all(b.responses[0].messages[0].content in said[a.tags["kind"]] for a, b in wrong)
    assert noisy == small.noisy(world, 0.25, seed=1) != small.noisy(world, 0.25, seed=2)
    assert small.noisy(world, 0.0, seed=1) == clean


def test_a_model_is_looked_at_after_every_step_and_trains_as_it_does_unseen() -> None:
    start, seen = small.tiny(), list[tuple[int, float]]()
    rows = small.sft_rows(start, People(5).records("train", 8))

    def look(step: int, policy: Policy) -> None:
        assert not policy.model.training
        seen.append((step, small.loss(policy, rows)))

    how: Any = {"steps": 3, "seed": 0, "lr": 1e-3, "batch_size": 4}
    watched, alone = small.train(start, NLL(), rows, look=look, **how), small.train(start, NLL(), rows, **how)
    assert [step for step, _ in seen] == [1, 2, 3]
    assert len({value for _, value in seen}) == 3
    assert seen[-1][1] == small.loss(watched, rows) == small.loss(alone, rows)
