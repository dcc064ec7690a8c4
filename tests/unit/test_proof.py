"""The proof of methods proves something: wrong cases, weak cases and broken objectives are each told by name."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from tempering.cases import Case
from tempering.proof import contract, hand, mutants, rules, shared
from tempering.reduce import segment_sum
from tempering.types import Context, Objective, Parts, Signals

# ------------------------------------------------------------------------------------------------------------------------------------------- hand


@dataclass(frozen=True)
class Square(Objective):
    """The square of an answer's log-prob, times its column `scale`."""

    norm = "segments"
    per = "segment"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"train": frozenset({"logp", "scale"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        logp_S = segment_sum(signals["train"]["logp"], parts["train"])
        ctx.log(logp=logp_S)
        return signals["train"]["scale"] * logp_S**2


SQUARE = Case(
    "sums -2 and -3, scales 2 and 10",
    Square(),
    {"train": {"logp": [[-1, -2], [-3]], "scale": [2, 10]}},
    weights={"train": [[1, 0.5], [1]]},
    loss=(2 * 4 + 10 * 9) / 2,
    gradient={"train/logp": [[2 * 2 * -2 / 2, 2 * 2 * -2 * 0.5 / 2], [10 * 2 * -3 / 2]]},
    logs={"logp": -2.5},
)


def test_a_case_is_computed_through_the_engine_s_reduction() -> None:
    hand.check(SQUARE)
    given = hand.tensors(SQUARE)
    assert given.columns == {("train", "scale")} and given.trained() == [("train", "logp")]
    assert hand.run(2.0 * SQUARE.objective + SQUARE.objective, given).loss == pytest.approx(3 * 49)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": 49.001}, "the loss is 49, worked out as 49.001"),
        ({"gradient": {"train/logp": [[-4, -4], [-30]]}}, r"the gradient of train/logp is \[-4, -2, -30\], worked out as \[-4, -4, -30\]"),
        ({"gradient": {"train/logq": [[0, 0], [0]]}}, "gradient names 'train/logq'; there are train/logp, train/scale"),
        ({"logs": {"logp": -2.0}}, "logp is logged as -2.5, worked out as -2"),
        ({"logs": {"margin": 0.0}}, "nothing is logged as 'margin'; there are logp"),
        ({"signals": {"train": {"logp": [[-1, -2], [-3]]}}}, "`needs` names scale of part 'train', and the case gives none"),
        ({"signals": {"train": {"logp": [[-1], [-3]], "scale": [2, 10]}}}, r"train/logp has \[1, 1\] tokens, others of the part \[2, 1\]"),
        ({"signals": {"train": {"logp": [[-1, -2], [-3]], "scale": [2]}}}, "train/scale has 1 segments, others of the part 2"),
        ({"groups": {"train": [0]}}, "1 groups for the 2 segments of 'train'"),
    ],
)
def test_what_is_wrong_with_a_case_is_one_sentence(change: Mapping[str, object], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        hand.check(replace(SQUARE, **change))


def test_losses_of_a_wrong_shape_are_told() -> None:
    class Whole(Square):
        def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
            return super().__call__(parts, signals, ctx).sum()

    with pytest.raises(AssertionError, match=r"losses have shape \[\], but \[2\] is one per segment of 'train'"):
        hand.check(replace(SQUARE, objective=Whole()))


# ---------------------------------------------------------------------------------------------------------------------------------------- mutants

VOCABULARY = rules.Vocabulary(["logp", "reference.logp"], ["chosen", "rejected"])


def changed(source: str, **where: bool) -> set[tuple[str, str]]:
    """(kind, code) of everything that a function of this one statement becomes."""
    tree = ast.parse(f"class A:\n    def f(self):\n        {source}")
    found = set()
    for _, place, kind, new in list(mutants.places(tree, VOCABULARY)):
        old = place.get()
        place.put(new)
        found.add((kind, ast.unparse(tree.body[0].body[0].body[0])))  # type: ignore[attr-defined]
        place.put(old)
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a - b", {("flip-sign", "x = a + b")}),
        ("x = -a", {("flip-sign", "x = a")}),
        ("x += a", {("flip-sign", "x -= a")}),
        ("x = a * b", {("mul-div", "x = a / b")}),
        ("x = 1 - a", {("flip-sign", "x = 1 + a"), ("drop-constant", "x = a"), ("constant", "x = 2 - a")}),
        ("x = a + 1e-8", {("flip-sign", "x = a - 1e-08"), ("drop-constant", "x = a")}),
        ("x = torch.minimum(a, b)", {("min-max", "x = torch.maximum(a, b)")}),
        ("x = a.clamp(min=b)", {("min-max", "x = a"), ("min-max", "x = a.clamp(max=b)")}),
        ("x = a.clamp(b, c)", {("min-max", "x = a.clamp(max=c)"), ("min-max", "x = a.clamp(min=b)")}),
        ("x = a.detach()", {("drop-detach", "x = a")}),
        ("ctx.log(a=b.detach())", set()),
        ("x = s['logp']", {("swap-signal", "x = s['reference.logp']"), ("shift", "x = s['logp'].roll(1, 0)")}),
        ("x = p['chosen']", {("swap-part", "x = p['rejected']")}),
        ("x = masked(a, b)", {("drop-mask", "x = a")}),
        ("x = a * mask_T", {("mul-div", "x = a / mask_T"), ("drop-mask", "x = a")}),
        ("x = a[mask_T]", {("drop-mask", "x = a")}),
        ("x = torch.where(c, a, b)", {("drop-mask", "x = a"), ("drop-mask", "x = b")}),
        (
            "x = segment_sum(a, b)",
            {("drop-mask", "x = segment_sum(a, _proof_unmasked(b))"), ("normaliser", "x = _proof_segment_mean(a, b)")},
        ),
        ("x = a > b", {("flip-comparison", "x = a < b")}),
        ("x = a if self.c else b", {("flip-condition", "x = a if not self.c else b")}),
        ("x = a and b", {("and-or", "x = a or b")}),
        ("x = F.logsigmoid(a)", {("negate-argument", "x = F.logsigmoid(-a)"), ("drop-call", "x = a")}),
        ("x = a.exp()", {("negate-argument", "x = (-a).exp()"), ("drop-call", "x = a")}),
        ("return a", {("negate", "return -a")}),
        ("return -a", {("flip-sign", "return a")}),
        ("x = a.log_softmax(-1)", {("drop-call", "x = a")}),
        ("x = a.sum(-1)", {("normaliser", "x = a.mean(-1)")}),
        ("x = a.sort(descending=True)", {("flip-order", "x = a.sort(descending=False)")}),
    ],
)
def test_each_kind_of_change(source: str, expected: set[tuple[str, str]]) -> None:
    assert changed(source) == expected


@pytest.mark.parametrize("source", ["'''A docstring: 1 - 2.'''", "raise UserError(f'{a - b}')", "if a < 0: raise ValueError('low')"])
def test_what_is_no_part_of_a_formula_stays(source: str) -> None:
    assert changed(source) == set()


METHOD = '''
"""A margin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tempering.cases import Case
from tempering.reduce import segment_sum
from tempering.types import Context, Objective, Parts, Signals


@dataclass(frozen=True)
class Margin(Objective):
    norm = "segments"
    part = "chosen"
    per = "segment"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {part: frozenset({"logp"}) for part in ("chosen", "rejected")}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        return segment_sum(signals["rejected"]["logp"], parts["rejected"]) - segment_sum(signals["chosen"]["logp"], parts["chosen"])


CASES = (
    Case("one pair", Margin(), {"chosen": {"logp": [[-1, -2]]}, "rejected": {"logp": [[-4]]}}, loss=-1),
    @MORE@
)
'''
MORE = """Case("three", Margin(), {"chosen": {"logp": [[-1, -2], [-3], [-9]]}, "rejected": {"logp": [[-4], [-1, -7], [-5]]}},
         weights={"chosen": [[1, 0.5], [2], [0]], "rejected": [[1], [1, 0.5], [1]]}, groups={"chosen": [0, 0, 1], "rejected": [0, 0, 1]},
         loss=(-4 + 2 - 4.5 + 6) / 2),"""


def written(folder: Path, more: str = "", end: str = "", name: str = "margin") -> Path:
    path = folder / f"{name}.py"
    path.write_text(METHOD.replace("@MORE@", more) + end, encoding="utf-8")
    return path


def test_weak_cases_are_told_with_the_change_they_miss(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no case notices these changes") as told:
        mutants.check(written(tmp_path))
    survivors = re.findall(r"^  (\S+) \(line \d+\)", str(told.value), flags=re.MULTILINE)
    # From one pair of weight 1 nobody can tell which part is counted, by what, and what the weights are.
    assert set(survivors) == {"norm:normaliser:1", "part:swap-part:1", "__call__:drop-mask:1", "__call__:drop-mask:2"} | {
        f"__call__:{kind}" for kind in ("shift:1", "shift:2", "normaliser:1")
    }
    assert "norm:normaliser:1 (line 18): 'segments'  ->  'groups'" in str(told.value)


def test_good_cases_notice_everything_and_ids_survive_moved_lines(tmp_path: Path) -> None:
    first = mutants.check(written(tmp_path, MORE))
    assert len(first.mutants) > 10 and not first.survivors and str(first).startswith(f"margin: {len(first.mutants)} of {len(first.mutants)} mutants")
    path = written(tmp_path, MORE)
    path.write_text("# moved\n\n\n" + path.read_text())
    moved = mutants.survey(path)
    assert [m.id for m in moved.mutants] == [m.id for m in first.mutants] and moved.mutants[0].line == first.mutants[0].line + 3


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ('EQUIVALENT = {"__call__:flip-sign:1": "no"}', "EQUIVALENT names '__call__:flip-sign:1', which is no surviving mutant"),
        ('EQUIVALENT = {"norm:normaliser:9": "gone"}', "which is no surviving mutant"),
        ('EQUIVALENT = {"a": "x", "b": "x", "c": "x"}', "EQUIVALENT has 3 entries; at most 2 are believed"),
        ("CASES = ()", "margin.py has no CASES: end it with"),
        ('CASES = (Case("wrong", Margin(), CASES[0].signals, loss=5),)', "wrong: the loss is -1, worked out as 5"),
    ],
)
def test_excuses_are_checked(tmp_path: Path, end: str, message: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(message)):
        mutants.check(written(tmp_path, MORE, end))


def test_an_equivalent_mutant_may_be_excused_with_a_reason(tmp_path: Path) -> None:
    # Without the third pair, whose chosen answer is not scored, the part cannot be told.
    more = MORE.replace(", [-9]", "").replace(", [0]]", "]").replace(", [-5]", "").replace(", [1]]}", "]}").replace("[0, 0, 1]", "[0, 0]")
    with pytest.raises(AssertionError, match="part:swap-part:1") as told:
        mutants.check(written(tmp_path, more))
    assert str(told.value).count("(line ") == 1
    reason = 'EQUIVALENT = {"part:swap-part:1": "both parts are scored alike"}'
    assert [m.id for m in mutants.check(written(tmp_path, more, reason)).survivors] == ["part:swap-part:1"]
    with pytest.raises(AssertionError, match="gives no reason"):
        mutants.check(written(tmp_path, more, reason.replace("both parts are scored alike", " ")))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A helper with a factor, and a method that uses it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "_proof_helper.py").write_text(
        "from __future__ import annotations\n\n\ndef doubled(x):\n    return 2 * x\n\n\ndef spare(x):\n    return -x\n"
    )
    source = METHOD.replace("@MORE@", MORE).replace("return segment_sum(sig", "return doubled(segment_sum(sig")
    source = source.replace('parts["chosen"])\n', 'parts["chosen"]))\n').replace("loss=-1", "loss=-2").replace("loss=(-4", "loss=2 * (-4")
    (tmp_path / "_proof_user.py").write_text(
        source.replace("from torch import Tensor\n", "from torch import Tensor\nfrom _proof_helper import doubled\n")
    )
    yield tmp_path
    import sys

    for name in ("_proof_helper", "_proof_user"):
        sys.modules.pop(name, None)


def test_a_shared_helper_is_proved_by_its_users(package: Path) -> None:
    import sys

    found = shared.check("_proof_helper", ["_proof_user"])
    # What no method uses (`spare`) is left alone.
    assert {m.id for m in found.mutants} == {"doubled:negate:1", "doubled:mul-div:1", "doubled:constant:1"}
    assert not isinstance(sys.modules["_proof_user"].__loader__, mutants.Compiled)
    (package / "_proof_user.py").write_text(
        (package / "_proof_user.py").read_text()
        + textwrap.dedent("""
        CASES = (Case("zero", Margin(), {"chosen": {"logp": [[0]]}, "rejected": {"logp": [[0]]}}, loss=0),)
    """)
    )
    del sys.modules["_proof_user"]
    with pytest.raises(AssertionError, match="doubled:constant:1"):
        shared.check("_proof_helper", ["_proof_user"])


# --------------------------------------------------------------------------------------------------------------------------------------- contract

ROWS = Case("rows", Square(), SQUARE.signals, loss=0, weights=SQUARE.weights, gradient=SQUARE.gradient)


class Broken(Square):
    """Squares whose sum is made wrong in some way."""

    def losses(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        return super().__call__(parts, signals, ctx)


class Unnamed(Broken):
    """Reads what `needs` does not name."""

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        return self.losses(parts, signals, ctx) + signals["train"]["reference.logp"].sum()


class Unread(Broken):
    """Names what it does not read."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"train": frozenset({"logp", "scale", "entropy"})}


class Unmasked(Broken):
    """Sums over the context too."""

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        x_T = signals["train"]["logp"]
        return signals["train"]["scale"] * x_T.new_zeros(parts["train"].num_segments).index_add(0, parts["train"].segment_T, x_T)


class Logged(Broken):
    """Logs the mean over all tokens."""

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        ctx.log(token=torch.where(parts["train"].weight_T != 0, signals["train"]["logp"], 0.0))
        return self.losses(parts, signals, ctx)


class Mean(Broken):
    """Centred on the mean of the micro-batch."""

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        losses_S = self.losses(parts, signals, ctx)
        return losses_S * losses_S.mean()


class First(Broken):
    """The first segment counts double."""

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        losses_S = self.losses(parts, signals, ctx)
        return torch.cat([2 * losses_S[:1], losses_S[1:]])


def test_a_sound_objective_keeps_the_contract() -> None:
    contract.check([ROWS])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Unnamed, "reads 'reference.logp', which `needs` does not name"),
        (Unread, "`needs` names train/entropy, which no case reads"),
        (Unmasked, "with nan outside the mask the loss is nan"),
        (Logged, "log scored tokens alone"),
        (Mean, "in 4 micro-batches the loss is"),
        (First, "in 4 micro-batches the loss is|in another order the loss is"),
    ],
)
def test_a_broken_objective_is_told(broken: type[Objective], message: str) -> None:
    signals = {"train": {**SQUARE.signals["train"], "entropy": [[1, 2], [3]]}}
    with pytest.raises(AssertionError, match=message):
        contract.check([replace(ROWS, objective=broken(), signals=signals)])


def test_a_gradient_that_is_not_the_slope_is_told(package: Path) -> None:
    import importlib

    source = METHOD.replace("@MORE@", MORE).replace(
        'parts["chosen"])\n', 'parts["chosen"]) * segment_sum(signals["chosen"]["logp"], parts["chosen"]).sum().@STOP@\n'
    )
    for name, stop in (("_proof_lost", "tolist()"), ("_proof_stopped", "detach()")):
        (package / f"{name}.py").write_text(source.replace("@STOP@", stop))
        case = replace(importlib.import_module(name).CASES[1], loss=0)
        if stop == "detach()":
            stopped = contract.slope(case)
            assert stopped.length > 0 and not stopped.exact and stopped.stopped
        message = "is lost to autograd" if stop == "tolist()" else "give at least one case a `gradient`"
        with pytest.raises(AssertionError, match=message):
            contract.check([case])


class Kept(Square):
    """Keeps a moving mean of the log-probs."""

    couples = "sums"

    def stats(self, parts: Parts, signals: Signals) -> Mapping[str, Tensor]:
        return {"sum": signals["train"]["logp"].sum()}

    def initial(self) -> Mapping[str, Tensor]:
        return {"mean": torch.zeros((), dtype=torch.float64)}

    def advance(self, state: Mapping[str, Tensor], stats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {"mean": 0.9 * state["mean"] + 0.1 * stats["sum"]}


class InPlace(Kept):
    """Changes what it was given."""

    def advance(self, state: Mapping[str, Tensor], stats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        state["mean"].add_(stats["sum"])
        return state


class Grows(Kept):
    """Appends to its state."""

    def advance(self, state: Mapping[str, Tensor], stats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {"mean": torch.stack([state["mean"], stats["sum"]])}


class Hidden(Kept):
    """Keeps a count beside its state."""

    count: ClassVar[list[int]] = []

    def advance(self, state: Mapping[str, Tensor], stats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        self.count.append(1)
        return {"mean": state["mean"] + len(self.count)}


@pytest.mark.parametrize(
    ("kept", "message"), [(InPlace, "in place"), (Grows, "other names or shapes"), (Hidden, "goes on differently"), (Kept, None)]
)
def test_state_that_cannot_be_saved_is_told(kept: type[Objective], message: str | None) -> None:
    case = replace(ROWS, objective=kept())
    if message is None:
        contract.state(case)
        return
    with pytest.raises(AssertionError, match=message):
        contract.state(case)


def test_the_model_that_is_given_stays_as_it_is() -> None:
    model = contract.toy()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    contract.check([ROWS], model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
