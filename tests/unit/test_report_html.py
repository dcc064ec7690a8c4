"""report.html from real run folders: whole ones, broken ones and hostile ones. The ledger in them is made by the real `compare` and `gates.check`."""

from __future__ import annotations

import base64
import errno
import hashlib
import importlib.util
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tempering import gates, report
from tempering.errors import UserError
from tempering.forgetting.verdict import Leak, Verdict
from tempering.ledger import Ledger, compare
from tempering.report import folder as run_folder
from tempering.stats import share_interval
from tempering.types import ItemScore, ProbeScores, Scores

EXAMPLE = Path(__file__).parents[2] / "docs" / "images" / "example_run.py"
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "section", "nav", "article", "p", "h1", "h2", "h3", "h4", "a", "b",
    "i", "span", "small", "div", "dl", "dt", "dd", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "del", "ins", "bdi",
    "details", "summary", "figure", "figcaption", "svg", "g", "line", "rect", "circle", "path", "text",
}  # fmt: skip
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}\u202e\x1b[31m</style></title>"


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_run", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example().write(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


class Page(HTMLParser):
    """Elements with their attributes and the text around them; complains about tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.style = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page(run: Path) -> Page:
    path = report.write(run)
    assert path == run / "report.html"
    return Page(path.read_text(encoding="utf-8"))


# -------------------------------------------------------------------------------------------------------------------------------- a whole run


def test_sections_come_in_their_order(run: Path) -> None:
    found = page(run)
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert ids == ["verdict", "ledger", "curves", "samples", "items", "cost", "provenance"]
    assert [attributes["href"] for tag, attributes in found.elements if tag == "a"] == [f"#{name}" for name in ids]
    words = [
        "sft: smollm2-135m", "Gained 30 points on word problems", "All 2 gates hold", "Target: what was wanted", "What the curves say",
        "The same prompts",
        "16 items lost", "182 items gained", "Tokens trained", "Data fingerprint", "Versions and hashes", "Command", "temper run sft --data",
    ]  # fmt: skip
    places = [found.text.index(word) for word in words]
    assert places == sorted(places)


def test_it_says_what_the_ledger_says(run: Path) -> None:
    found, ledger = page(run).text, Ledger.read(run / "ledger.json")
    assert ledger.sentence() in found
    assert found.count(ledger.sentence()) == 1, "status.json repeats the sentence; the page must not"
    for probe in ledger.probes:
        assert probe.verdict_text in found
        for note in probe.notes:
            assert note in found
    row = re.search(r"word problems accuracy · 200 items (.*?) p < 0.001", found)
    assert row is not None
    assert row[1] == "20% → 51% +30 points 95%: +24 to +37 63 gained · 39 kept · 2 lost · 96 never right kept 95.1% , at least 85.4% gained"
    assert "held-out loss nll per token, lower is better · 120 items 2.29 → 1.86 +0.5 \u22120.5 \u22120.424 95%: \u22120.441 to \u22120.407" in found


def test_nothing_is_loaded_and_nothing_runs(run: Path) -> None:
    found = page(run)
    text = (run / "report.html").read_text(encoding="utf-8")
    assert {tag for tag, _ in found.elements} <= ALLOWED
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on") or name in ("src", "style", "srcset")]
    assert all((attributes.get("href") or "#").startswith("#") for _, attributes in found.elements)
    assert not re.search(r"https?:|@import|url\(", text)
    (policy,) = [attributes["content"] for tag, attributes in found.elements if attributes.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(found.style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_every_picture_has_words(run: Path) -> None:
    pictures = [attributes for tag, attributes in page(run).elements if tag == "svg"]
    assert len(pictures) == 6 + 4 + 5, "an interval per probe, a bar per binary probe, four curves of which one is drawn in two shapes"
    assert all(attributes["role"] == "img" and len(attributes["aria-label"] or "") > 10 for attributes in pictures)


def test_same_folder_same_bytes(run: Path) -> None:
    first = report.write(run).read_bytes()
    assert report.write(run).read_bytes() == first


def test_samples_mark_what_changed(run: Path) -> None:
    (run / "samples.json").write_text(json.dumps([{"prompt": "p", "before": "The answer is 4.", "after": "The answer is 5.", "expected": "5"}]))
    text = report.write(run).read_text(encoding="utf-8")
    assert "The answer is <del>4</del>." in text and "The answer is <ins>5</ins>." in text


def test_lost_items_put_the_keep_side_first_and_say_how_many_there_are(run: Path) -> None:
    def scores(right: int) -> Scores:
        probes = [
            ProbeScores(name, "accuracy", "binary", True, tuple(ItemScore(f"{name}-{i}", float(i >= right), "p", "o", "e") for i in range(60)), side)
            for name, side in (("aim", "target"), ("old", "keep"))
        ]
        return Scores("m", tuple(probes))

    compare(scores(0), scores(25)).write(run / "ledger.json")
    found = page(run).text
    assert "50 items lost right before and wrong after, or clearly worse: old 25, aim 25" in found
    assert "The first 20 are shown; ledger.json has the ids of all 50." in found
    assert "old-0 · score 1 → 0" in found and "old-19 ·" in found and "old-20 ·" not in found and "aim-0 ·" not in found


def test_bounds_that_items_cannot_give(run: Path) -> None:
    def scores(value: float) -> Scores:
        return Scores("m", (ProbeScores("one", "nll", "continuous", False, (ItemScore("a", value),), "keep"),))

    compare(scores(1.0), scores(1.5)).write(run / "ledger.json")
    assert "+0.5 95%: … to …" in page(run).text


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ([], "No gate was set, so nothing could fail."),
        (["gain >= 0.1"], "The gate holds."),
        (["keep >= 0.9"], "The gate holds; these items are too few to be sure."),
        (["keep >= 0.999", "gain >= 0.1"], "1 of 2 gates failed."),
    ],
)
def test_verdict(run: Path, conditions: list[str], words: str) -> None:
    ledger = Ledger.read(run / "ledger.json")
    replace(ledger, gates=tuple(gates.check(ledger, conditions))).write(run / "ledger.json")
    assert words in page(run).text


def forgotten(run: Path, oracle: int | None) -> None:
    """A verdict as a forget run writes it, with a name that tries to be markup."""
    worst = Leak(EVIL, 8, 8, 4, oracle, share_interval(4, 8), ("a",), {"out after 5 steps": 0.25, "out after 20 steps": 0.5})
    lens = Leak("lens", 8, 8, 8, oracle, share_interval(8, 8), chance=0.5, note=f"inside {EVIL}")
    recovered = {"before": 0.0, "after": 0.25, **({"oracle": 0.5} if oracle is not None else {})}
    found = Verdict((worst,), f"4 of 8 come out. {EVIL}", (lens,), recovered)
    (run / "forgetting.json").write_text(json.dumps(found.plain()))


@pytest.mark.parametrize("oracle", [None, 1])
def test_what_still_comes_out_stands_first_and_is_text(run: Path, oracle: int | None) -> None:
    forgotten(run, oracle)
    found = page(run)
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert ids[:2] == ["forgotten", "verdict"] and found.text.index("4 of 8 come out.") < found.text.index("What still comes out")
    assert {tag for tag, _ in found.elements} <= ALLOWED
    bars = [attributes for tag, attributes in found.elements if tag == "svg" and attributes.get("class") == "levels"]
    assert len(bars) == 2 and "8 of 8 secrets come out now, 8 before" in (bars[1]["aria-label"] or "")
    words = [
        "50% 95%: 22% to 78%",
        "after 5 steps: 25%, after 20 steps: 50%",
        "Beside the verdict",
        "by chance: 50%",
        "before 0 points, now +25 points",
    ]
    assert all(word in found.text for word in words)
    assert ("Never saw" in found.text) == (oracle is not None)
    assert sum(attributes.get("class") == "never" for tag, attributes in found.elements if tag == "line") == (2 if oracle is not None else 0)


def test_stages_have_curves_of_their_own(run: Path) -> None:
    rows = [{"step": i, "name": name, "loss": value} for name, value in (("first", 0.0), ("second", 2.0)) for i in range(1, 4)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = page(run).text
    assert found.index("first") < found.index("The loss is exactly zero from step 1 on") < found.index("second")
    assert "Too few points (3) to say much" in found


def test_the_doctor_is_told_the_bound_of_the_gradient(run: Path) -> None:
    rows = [{"step": i, "loss": 2 - 0.01 * i, "grad_norm": 30.0} for i in range(1, 40)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "its norm is usually 30, the bound 1." in page(run).text


# ------------------------------------------------------------------------------------------------------------------------------- broken ones

BROKEN: list[tuple[str, bytes | None, str]] = [
    ("lock.json", None, "This run has no lock.json."),
    ("lock.json", b"[]", "lock.json holds a list where an object was expected."),
    ("metrics.jsonl", None, "This run has no metrics.jsonl: no training step was written."),
    ("metrics.jsonl", b"", "metrics.jsonl is empty: no training step was written."),
    ("metrics.jsonl", b'{"step": 1, "loss": 2.0}\n{"step": 2, "lo', "1 of metrics.jsonl's lines cannot be read and are left out (line 2)."),
    ("metrics.jsonl", b"\xff\xfe\x00\n" * 9, "9 of metrics.jsonl's lines cannot be read and are left out (line 1, 2, 3, 4, 5 …)."),
    ("ledger.json", None, "This run has no ledger.json: it was not measured, or has not come that far."),
    ("ledger.json", b'{"version": 1, "probes": [', "The ledger could not be read:"),
    ("ledger.json", b"[]", "is not a ledger (no version number)"),
    ("ledger.json", b'{"version": 99}', "has ledger version 99"),
    ("samples.json", None, "This run has no samples.json."),
    ("samples.json", b"{}", "samples.json holds a dict where a list was expected."),
    ("samples.json", b'[{"prompt": "p", "before": "b", "after": "a"}, 7, {"prompt": null}]', "2 of 3 entries of samples.json are no sample"),
    ("samples.json", b"[" * 100_000, "samples.json is not JSON"),
    ("forgetting.json", b'{"leaks": 3}', "What attacks found could not be read:"),
    ("status.json", None, "The command was not written down."),
    ("status.json", b"nope", "The command was not written down."),
]


@pytest.mark.parametrize(("name", "content", "sentence"), BROKEN)
def test_what_is_missing_or_broken_is_said(run: Path, name: str, content: bytes | None, sentence: str) -> None:
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(content)
    assert sentence in page(run).text


def test_a_config_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = page(tmp_path)
    assert found.elements[[tag for tag, _ in found.elements].index("h1")] == ("h1", {"dir": "auto"})
    assert tmp_path.name in found.text
    for sentence in ("no ledger.json", "no metrics.jsonl", "no samples.json", "no lock.json", "No cost was written down."):
        assert sentence in found.text


@pytest.mark.parametrize(("content", "words"), [(None, "This run has no config.json."), (b"{", "is not JSON"), (b"3", "holds a int")])
def test_no_config_is_the_users_mistake(run: Path, content: bytes | None, words: str) -> None:
    (run / "config.json").unlink()
    if content is not None:
        (run / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=words):
        report.write(run)
    assert not (run / "report.html").exists()


def test_no_folder_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing is not a folder; expected a run folder"):
        report.write(tmp_path / "missing")


def test_a_full_disk_leaves_the_old_page_and_no_half(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = report.write(run).read_bytes()
    (run / "status.json").unlink()
    before = sorted(path.name for path in run.iterdir())

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match=r"report\.html could not be written \(No space left on device\); free some space"):
        report.write(run)
    assert (run / "report.html").read_bytes() == old
    assert sorted(path.name for path in run.iterdir()) == before


# ------------------------------------------------------------------------------------------------------------------------------- hostile ones


def poison(value: Any) -> Any:
    """Every text in a value, keys too, with markup in it."""
    if isinstance(value, str):
        return value + EVIL
    if isinstance(value, list):
        return [poison(inner) for inner in value]
    return {key if key in KEYS else key + EVIL: poison(inner) for key, inner in value.items()} if isinstance(value, dict) else value


KEYS = {"recipe", "values", "model", "data", "scope", "kind", "seed", "versions", "state", "command", "message", "started", "ended"}
KEYS |= {"prompt", "before", "after", "expected"}


def hostile(run: Path) -> None:
    for name in ("config.json", "lock.json", "status.json", "samples.json"):
        (run / name).write_text(json.dumps(poison(json.loads((run / name).read_text()))))
    rows = [{"step": i, "loss": 2.0, f"metric{EVIL}": 1.0 + i, "name": EVIL} for i in range(5)] + [{"step": 1, "name": "other", "loss": 1.0}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def scores(right: bool) -> Scores:
        items = tuple(ItemScore(f"{i}{EVIL}", float(right), EVIL, EVIL + str(right), EVIL) for i in range(3))
        probes = [ProbeScores(f"p{side}{EVIL}", EVIL, "binary", True, items, side, {EVIL: 1.0}, EVIL) for side in ("target", "keep")]  # pyright: ignore[reportArgumentType]
        return Scores(EVIL, tuple(probes))

    compare(scores(True), scores(False), kl={f"kl{EVIL}": 1.0}, cost={f"cost{EVIL}": 2.0}).write(run / "ledger.json")


def test_nothing_in_a_run_folder_becomes_markup(run: Path) -> None:
    hostile(run)
    found = page(run)
    assert {tag for tag, _ in found.elements} <= ALLOWED
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on") or name in ("src", "style")]
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "\u202e" not in text and "\x1b" not in text and "{{ 7 * 7 }}" in text
    assert found.text.count("⟨U+202E⟩") > 30
    assert len([tag for tag, _ in found.elements if tag == "style"]) == 1


def test_control_characters_in_labels_are_written_out(run: Path) -> None:
    hostile(run)
    labels = [attributes["aria-label"] or "" for tag, attributes in page(run).elements if tag == "svg"]
    assert any("alert(1)" in label for label in labels)
    assert not [label for label in labels if "\u202e" in label or "\x1b" in label]


# ------------------------------------------------------------------------------------------------------------------------------ small pieces


@pytest.mark.parametrize(
    ("config", "name", "value"),
    [
        ({"clip": 2}, "clip", 2),
        ({"recipe": "sft", "values": {"training": {"clip": 1.0}}}, "clip", 1.0),
        ({"values": {"clip": None}, "other": {"clip": 3}}, "clip", 3),
        ({"values": [{"clip": 1}]}, "clip", None),
    ],
)
def test_settings_are_found_at_any_depth(config: dict[str, Any], name: str, value: Any) -> None:
    assert run_folder.setting(config, name) == value


def test_time_taken_and_the_command_as_a_list(run: Path) -> None:
    status = {
        "state": "failed",
        "message": "no room",
        "started": 100.0,
        "ended": 100.0 + 9000,
        "command": ["temper", "run", "sft", "--data", "my file.jsonl"],
    }
    (run / "status.json").write_text(json.dumps(status))
    found = page(run).text
    assert "failed no room" in found and "took 2.5 h" in found and "temper run sft --data 'my file.jsonl'" in found


def contrast(a: str, b: str) -> float:
    """WCAG 2.2 contrast ratio of two hex colours."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def themes() -> dict[str, dict[str, str]]:
    style = (Path(report.__file__).parent / "style.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    found = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", block)) for block in blocks]
    expand = [{name: "#" + "".join(c * 2 for c in value[1:]) if len(value) == 4 else value for name, value in block.items()} for block in found]
    return {"light": expand[0], "dark": expand[0] | expand[1], "print": expand[0] | expand[2]}


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_text_is_readable(theme: str) -> None:
    colours = themes()[theme]
    for name in ("ink", "soft", "gain", "loss", "even", "good"):
        for ground in ("page", "card"):
            assert contrast(colours[name], colours[ground]) >= 4.5, f"{name} on {ground}"
    for mark in ("gain-soft", "loss-soft"):
        assert contrast(colours["ink"], colours[mark]) >= 4.5 and contrast(colours["soft"], colours[mark]) >= 4.5, mark
    for name in ("line0", "line1", "line2", "line3"):
        assert contrast(colours[name], colours["page"]) >= 3.0, name


def test_every_theme_sets_every_colour() -> None:
    style = (Path(report.__file__).parent / "style.css").read_text(encoding="utf-8")
    blocks = [set(re.findall(r"--([\w-]+): #", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)]
    assert blocks[0] == blocks[1] == blocks[2]
    assert set(re.findall(r"var\(--([\w-]+)\)", style)) == blocks[0] | {"sans", "serif", "mono"}
