"""The documentation's sources: every method, recipe, command and public name has its page, and no link between the project's pages is broken."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from tempering import index
from tests.conftest import ROOT

LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)|!\[[^\]\n]*\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    """docs/pages.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "docs" / "pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(pages: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the site."""
    out = tmp_path_factory.mktemp("docs") / "docs"
    pages.write(out)
    return out


def prose_of(text: str) -> str:
    """The text without its code, where brackets are no links."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def broken(page: Path) -> list[str]:
    """Links of a page to files that are not there."""
    targets = [first or second for first, second in LINK.findall(prose_of(page.read_text(encoding="utf-8")))]
    local = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:", target)]
    return [f"{page.name}: {target}" for target in local if target and not (page.parent / target).exists()]


def test_every_method_and_recipe_has_a_page(site: Path) -> None:
    entries = [*index.methods(), *index.recipes().values()]
    assert {("objective", "dpo"), ("scope", "lora"), ("recipe", "sft")} <= {(entry.kind, entry.name) for entry in entries}
    for entry in entries:
        folder = "recipes" if entry.kind == "recipe" else f"methods/{entry.kind}"
        text = (site / folder / f"{entry.name}.md").read_text(encoding="utf-8")
        # A summary's inline code is shown as it is; elsewhere an angle bracket is escaped.
        assert entry.summary.split("<")[0].split("  ")[0][:60] in " ".join(text.split())


def test_the_navigation_names_every_page_once(pages: ModuleType, tmp_path: Path) -> None:
    def leaves(nav: object) -> list[str]:
        if isinstance(nav, str):
            return [nav]
        children = nav.values() if isinstance(nav, dict) else nav
        return [leaf for child in children for leaf in leaves(child)]  # type: ignore[attr-defined]

    settings = pages.write(tmp_path / "docs")
    written = {str(path.relative_to(tmp_path / "docs")) for path in (tmp_path / "docs").rglob("*.md")}
    assert sorted(leaves(settings["nav"])) == sorted(written)


def test_the_command_page_has_every_command_and_flag(site: Path) -> None:
    text = (site / "cli.md").read_text(encoding="utf-8")
    for command in (
        "run sft",
        "run dpo",
        "sweep",
        "measure",
        "compare",
        "chat",
        "serve",
        "check",
        "export",
        "replicate",
        "runs",
        "lost",
        "methods",
        "show",
        "new",
        "doctor",
    ):
        assert re.search(rf"^#+ temper {command}$", text, flags=re.MULTILINE), command
    for flag in ("--model", "--scope.r", "--lr", "--gate", "--config", "--resume", "--against"):
        assert f"`{flag}" in text or f", {flag}" in text, flag


def test_the_python_page_has_every_public_name(site: Path) -> None:
    import tempering

    text = (site / "python.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+)$", text, flags=re.MULTILINE) == sorted(tempering.__all__, key=str.lower)
    assert "steps: int" in text and "class Objective" in text


def test_written_pages_take_their_tables_from_the_code(site: Path) -> None:
    assert "| `pair` | a preferred and a rejected answer |" in (site / "data.md").read_text(encoding="utf-8")
    assert "keep (share of the items right before" in (site / "ledger.md").read_text(encoding="utf-8")
    assert not [page.name for page in site.rglob("*.md") if re.search(r"<!-- \w+ -->", page.read_text(encoding="utf-8"))]


def test_no_link_is_broken(site: Path) -> None:
    assert not [link for page in sorted(site.rglob("*.md")) for link in broken(page)]
    assert not [link for page in sorted(ROOT.glob("*.md")) for link in broken(page)]


def test_the_quick_start_config_means_what_the_page_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The YAML on the page goes through the program as a user would send it."""
    from tempering.cli import main

    text = (ROOT / "docs" / "quick-start.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "my.yaml").write_text(block, encoding="utf-8")
    assert main(["run", "sft", "--config", str(tmp_path / "my.yaml"), "--dry-run"]) == 0
    values = json.loads(capsys.readouterr().out)["values"]
    assert (values["scope"]["kind"], values["scope"]["r"], values["optimizer"]["lr"], values["training"]["epochs"]) == ("lora", 8, 2e-4, 2.0)
    assert values["budget"]["gate"] == ["keep >= 0.98"]
