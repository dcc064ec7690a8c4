"""The board: states are found by reading a package's files and stored replications, and come out alike on the terminal, as JSON and as a page."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tempering import board, index
from tempering.board import evidence, page, reach
from tempering.board.states import Row
from tempering.cli import literature, main
from tempering.errors import UserError
from tempering.report import closed
from tests.conftest import ROOT, shared

OBJECTIVE = '''"""{name}: a loss. arXiv 2001.00001."""
CATALOGUE = {ids}
CONFUSED_WITH = {{"other": "another thing <b>"}}
class {public}:
    """It."""
CASES = ({cases})
'''
RECIPE = '"""Uses it."""\nfrom tempering.methods.objectives.{name} import {public}\ndef {recipe}():\n    """Do it."""\n'
RESULT = {
    "method": "whole", "catalogue": ["S001"], "verdict": "replicated", "claim": "forgets <script>alert(1)</script>", "metric": "accuracy",
    "baseline": "ga", "effect": 0.12, "interval": [0.05, 0.19], "seeds": [0, 1, 2], "seconds": 40.0, "command": "temper replicate whole",
}  # fmt: skip


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """whole (S001) has all; bare (S002) nothing but itself; half (S003, S004) a recipe, and S004 a stored file, which is all that S005 has; S006 is a
    recipe."""
    root = tmp_path / "package"
    objectives, recipes = root / "methods/objectives", root / "recipes"
    objectives.mkdir(parents=True)
    recipes.mkdir()
    for name, ids, cases in (("whole", '("S001",)', "Case(), Case(),"), ("bare", '["S002"]', ""), ("half", '("S003", "S004", "S055")', "")):
        (objectives / f"{name}.py").write_text(OBJECTIVE.format(name=name, public=name.capitalize(), ids=ids, cases=cases))
    for recipe, name in (("run_whole", "whole"), ("run_half", "half")):
        (recipes / f"{recipe}.py").write_text(RECIPE.format(recipe=recipe, name=name, public=name.capitalize()))
    (recipes / "alone.py").write_text('"""Alone."""\nCATALOGUE = "S006"\ndef alone():\n    """Do."""\n')
    stored = tmp_path / "replications"
    stored.mkdir()
    for file, changes in {
        "whole": {}, "again": {"verdict": "inconclusive", "interval": {"low": -0.1, "high": 0.4}}, "half": {"method": "half", "catalogue": ["S004"]},
        "lone": {"method": "gone", "catalogue": ["S005"]}, "alone": {"method": "alone", "catalogue": [], "verdict": "not-replicated", "effect": None},
    }.items():  # fmt: skip
        (stored / f"{file}.json").write_text(json.dumps(RESULT | changes))
    (stored / "broken.json").write_text("{")
    (stored / "odd.json").write_text('{"verdict": "true"}')
    (stored / "list.json").write_text("[1]")
    return root


def found(package: Path) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    return board.rows(package, package.parent / "replications")


def test_states_are_read_from_the_files(package: Path) -> None:
    rows, bad = found(package)
    by_id = {row.paper.id: row for row in rows}
    told = {id: (row.state, row.verdict, row.word, row.missing) for id, row in by_id.items() if row.entries or row.replications}
    assert told == {
        "S001": ("works", "partly", "partly", ()),
        "S002": ("in part", "", "in part", ("no recipe uses bare", "bare has no hand-worked cases", "no replication is stored")),
        "S003": ("in part", "", "in part", ("half has no hand-worked cases", "no replication is stored")),
        "S004": ("in part", "replicated", "in part", ("half has no hand-worked cases",)),
        "S005": ("in part", "replicated", "in part", ("no method or recipe names it in CATALOGUE",)),
        "S006": ("works", "not replicated", "not replicated", ()),
        "S055": ("outside", "", "outside", ()),
    }
    assert (by_id["S001"].recipes, by_id["S003"].recipes, by_id["S006"].recipes) == (("run_whole",), ("run_half",), ("alone",))
    assert len(rows) == 255
    assert sum(row.state == "planned" for row in rows) == 255 - 6 - 9
    assert sorted(sentence.split(" ")[0] for sentence in bad) == ["broken.json", "list.json", "odd.json"]
    assert any("its verdict is 'true', not one of replicated, partly" in sentence for sentence in bad)


def test_a_module_elsewhere_may_carry_a_paper(package: Path) -> None:
    """Of a folder its __init__.py; nothing under methods/ or recipes/ twice; a name that begins like the constant's says nothing."""
    (package / "planner").mkdir()
    (package / "planner" / "__init__.py").write_text('"""Plans. arXiv 2001.00002."""\nCATALOGUE = ("S036",)\n')
    (package / "planner" / "cost.py").write_text('"""Costs."""\nCATALOGUES = ("S070",)\n')
    (package / "law.py").write_text('"""A law."""\nCATALOGUE = ("S006", "S040")\n')
    assert [(entry.kind, entry.name, entry.catalogue) for entry in board.modules(package)] == [
        ("module", "law", ("S006", "S040")), ("module", "planner", ("S036",)),
    ]  # fmt: skip
    by_id = {row.paper.id: row for row in found(package)[0]}
    assert (by_id["S036"].state, by_id["S036"].missing, by_id["S036"].recipes) == ("in part", ("no replication is stored",), ())
    assert (by_id["S006"].state, by_id["S006"].recipes) == ("works", ("alone",)) and by_id["S070"].state == "planned"


def test_papers_of_modules_stand_on_the_board(capsys: pytest.CaptureFixture[str]) -> None:
    by_id = {row.paper.id: row for row in board.rows()[0]}
    for paper, name in (("S036", "placement"), ("S040", "powerlaw"), ("S070", "rollouts")):
        assert name in [entry.name for entry in by_id[paper].entries] and by_id[paper].state != "planned"
    assert literature.show("S036") == 0
    assert "code     tempering/placement/__init__.py: Where the calls" in capsys.readouterr().out


def test_what_a_recipe_runs_without_naming_it() -> None:
    """Every run that forgets is attacked, whatever the recipe's file imports; one that teaches is not."""
    attack, known = "tempering.methods.probes.resupplied", index.recipes()
    assert all(attack in reach.behind(known[name]) for name in ("forget", "eco", "sisa"))
    assert not any(attack in reach.behind(known[name]) for name in ("sft", "dpo", "guarded"))
    # A file is not taken whole: forgetting/battery.py, of which these take a class, imports the attacks in other functions.
    assert "tempering.methods.probes.held_loss" in reach.behind(known["guarded"])
    assert [name for name in ("sft", "spul", "icul", "l_codec") if reach.trains(known[name])] == ["sft", "spul"]
    (optimizer,) = index.methods("optimizer")
    assert "forget" in next(row.recipes for row in board.rows()[0] if row.paper.id == optimizer.catalogue[0])


def test_constants_are_read_by_syntax_tree(package: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    for _ in range(2):  # the second time from the cache
        by_name = {entry.name: entry for entry in index.scan(package, cache)}
        assert (by_name["whole"].catalogue, by_name["whole"].cases) == (("S001",), 2)
        assert (by_name["half"].catalogue, by_name["half"].cases) == (("S003", "S004", "S055"), 0)
        assert (by_name["alone"].catalogue, by_name["alone"].kind) == (("S006",), "recipe")
        assert by_name["whole"].confused == (("other", "another thing <b>"),)


def test_numbers_of_a_replication(package: Path) -> None:
    good, _ = board.replications(package.parent / "replications")
    by_name = {one.name: one for one in good}
    assert (by_name["whole"].effect, by_name["whole"].interval, by_name["whole"].seeds) == (0.12, (0.05, 0.19), 3)
    assert by_name["again"].interval == (-0.1, 0.4)
    assert (by_name["alone"].effect, by_name["alone"].verdict) == (None, "not replicated")
    assert board.replications(package / "nowhere") == ((), ())


def test_stale_marks_a_row_and_can_be_asked_for(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempering.board.evidence.stale", lambda one: one.name == "again")
    rows, _ = found(package)
    assert {row.paper.id: row.stale for row in rows if row.stale} == {"S001": ("again",)}
    assert [row.paper.id for row in board.chosen(rows, state="stale")] == ["S001"]


def test_filters(package: Path) -> None:
    rows, _ = found(package)

    def ids(words: str = "", **flags: str) -> list[str]:
        return [row.paper.id for row in board.chosen(rows, words, **flags)]

    assert ids(state="works") == ["S001", "S006"]
    assert ids(state="not-replicated") == ["S006"]
    assert ids(state="in-part") == ["S002", "S003", "S004", "S005"]
    assert len(ids(state="outside")) == len(ids(kind="outside")) == 9
    assert ids("half in part") == ["S003", "S004"]
    assert ids("WHOLE uld", family="forget") == ["S001"]
    for flags, says in (
        ({"family": "forgt"}, "did you mean 'forget'"),
        ({"state": "done"}, "--state: expected one of works"),
        ({"kind": "x"}, "--kind"),
    ):
        with pytest.raises(UserError, match=says):
            board.chosen(rows, **flags)
    with pytest.raises(UserError, match="no paper of the catalogue matches 'zzz' --family 'learn'"):
        board.chosen(rows, "zzz", family="learn")


class Page(HTMLParser):
    """Tags that open, the text of cells by row, and what the page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: dict[str, str] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self._row = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "tr":
            self._row = dict(attrs).get("id") or ""

    def handle_data(self, data: str) -> None:
        if self._row:
            self.rows[self._row] = self.rows.get(self._row, "") + data


def test_the_page_has_every_row_escapes_every_text_and_loads_nothing(package: Path) -> None:
    rows, _ = found(package)
    text = page.render(rows, lambda entry: f"code/{entry.name}.py")
    assert text == page.render(rows, lambda entry: f"code/{entry.name}.py")
    read = Page(text)
    assert list(read.rows) == [paper.id for paper in board.papers()]
    assert read.tags.count("script") == read.tags.count("style") == 1
    assert "<script>alert" not in text
    assert "forgets <script>alert(1)</script>" in read.rows["S001"]
    assert "+0.12 [+0.05, +0.19] over ga, 3 seeds, 40 s" in read.rows["S001"]
    assert "no recipe uses bare" in read.rows["S002"]
    assert ("href", "code/whole.py") in read.attributes
    assert [tag for tag in read.tags if tag in ("link", "img", "iframe", "object")] == []
    assert not [value for name, value in read.attributes if name in ("src", "srcset", "data", "action")]
    assert read.tags.count("svg") == 4  # whole, again, half, lone; alone has no effect to draw
    # The policy allows the one script and style that are there.
    policy = next(value or "" for name, value in read.attributes if name == "content" and "script-src" in (value or ""))
    for tag in ("style", "script"):
        (body,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
        assert f"{tag}-src '{closed._hash(body)}'" in policy


def test_links_to_code_are_relative_inside_the_checkout_and_absent_outside(tmp_path: Path) -> None:
    entry = index.find("objective/dpo")
    assert page.beside(ROOT / "site" / "x.html")(entry) == "../tempering/methods/objectives/dpo.py"
    assert page.beside(tmp_path / "x.html")(entry) == ""


def test_papers_by_id_name_piece_and_title() -> None:
    assert [paper.name for paper in board.named("s082")] == ["NPO"]
    assert [paper.id for paper in board.named("npo")] == ["S082"]
    assert [paper.id for paper in board.named("Nash MD")] == ["S051"]
    assert [paper.id for paper in board.named("lmflow")] == ["S030", "S234"]
    assert [paper.id for paper in board.named("Learning From Mistakes Makes LLM Better Reasoner")] == ["S101"]
    assert board.named("") == board.named("---") == ()


def stored(monkeypatch: pytest.MonkeyPatch, *changes: dict[str, object]) -> None:
    """The package's replications are these."""
    found = tuple(evidence._read(f"r{i}", RESULT | one) for i, one in enumerate(changes))
    monkeypatch.setattr(board, "replications", lambda: (found, ()))


def test_show_takes_papers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = tuple(replace(entry, catalogue=()) for entry in index.entries())
    monkeypatch.setattr(index, "entries", lambda: nothing)
    stored(monkeypatch, {"method": "gone", "catalogue": ["S005"]})
    assert literature.show("S005") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "S005 Self-Tuning (method, learn)"
    assert lines[-5:] == [
        "state    in part",
        "missing  no method or recipe names it in CATALOGUE",
        "tried    replicated (forgets <script>alert(1)</script>)",
        "         accuracy +0.12 [+0.05, +0.19] over ga, 3 seeds",
        "         temper replicate whole",
    ]
    assert literature.show("s055") == 0
    assert "why      convex-optimisation learned optimisers" in capsys.readouterr().out
    assert literature.show("lmflow") == 0
    out = capsys.readouterr().out
    assert "S030 LMFlow" in out
    assert "S234 LMFlow" in out


def test_show_a_method_with_its_replication(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    entries = tuple(
        replace(entry, catalogue=("S021", "S999"), confused=(("DP", "privacy"),)) if entry.name == "dpo" else replace(entry, catalogue=())
        for entry in index.entries()
    )
    monkeypatch.setattr(index, "entries", lambda: entries)
    stored(monkeypatch, {"method": "dpo", "catalogue": ["S021"]}, {"method": "other", "catalogue": ["S001"]})
    monkeypatch.setattr("tempering.board.evidence.stale", lambda one: True)
    assert literature.show("S021") == 0  # one method is about it
    out = capsys.readouterr().out
    for line in (
        "DPO (objective)", "recipe   dpo", "board    S021 UFT: replicated, stale", "board    S999 not in the catalogue",
        "tried    replicated, stale: the code changed since (forgets", "         temper replicate whole", "not      DP: privacy",
    ):  # fmt: skip
        assert line in out
    assert out.count("tried ") == 1


def test_the_board_on_a_terminal_of_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["board"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-1])) <= 80  # the sum is prose, which a terminal wraps
    ids = [line.split(" ")[0] for line in lines if re.match(r"S\d{3} ", line)]
    assert ids == [paper.id for paper in board.papers()]
    assert re.match(r"255 papers: .*9 outside", lines[-1])


def test_the_board_as_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["board", "--kind", "outside", "--json", str(tmp_path / "b.json"), "--html", str(tmp_path / "b.html")]) == 0
    assert capsys.readouterr().out.count("wrote ") == 2
    rows = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    assert [row["id"] for row in rows if row["state"] == "outside" and row["outside"]] == [row["id"] for row in rows]
    assert len(rows) == len(Page((tmp_path / "b.html").read_text(encoding="utf-8")).rows) == 9


# ------------------------------------------------------------------------------------------------------------------------------------- the catalogue


def maker() -> Any:
    """docs/catalogue.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_catalogue", ROOT / "docs" / "catalogue.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_shipped_catalogue_is_that_of_the_papers() -> None:
    made = maker().made(shared("catalogue.tsv").parent)
    assert made == (ROOT / "tempering/board/catalogue.tsv").read_text(encoding="utf-8")


def test_every_paper_has_what_the_board_shows() -> None:
    papers = board.papers()
    assert [paper.id for paper in papers] == [f"S{i:03}" for i in range(1, 256)]
    assert sum(paper.kind == "outside" for paper in papers) == 9
    for paper in papers:
        assert (paper.outside != "") == (paper.kind == "outside")
        assert all((paper.name, paper.family, paper.title, paper.mechanism))
        assert len(paper.mechanism) <= 172


def test_files_name_papers_that_there_are() -> None:
    known = {paper.id for paper in board.papers()}
    assert not {entry.path: wrong for entry in board.entries() if (wrong := set(entry.catalogue) - known)}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Short.", "Short."),
        ("A" * 60 + ". " + "b " * 90, "A" * 60),
        ("(" + "a; " * 20 + ") and so on; " + "b " * 90, "(" + "a; " * 20 + ") and so on"),
        ("word " * 60, "word " * 32 + "word …"),
    ],
)
def test_a_mechanism_in_one_line(text: str, line: str) -> None:
    assert maker().short(text) == line
