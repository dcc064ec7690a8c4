"""What a setting points at is a part of a run's key; an empty one points at nothing, wherever the run was started."""

from __future__ import annotations

from pathlib import Path

import pytest

from tempering.stages import content_of


def test_an_empty_setting_is_not_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("one")
    monkeypatch.chdir(tmp_path)
    assert content_of("") == "" == content_of("nothing-there")
    before = content_of("folder")
    (tmp_path / "folder" / "a").write_text("two")
    assert before and content_of("folder") not in ("", before)
    assert content_of("folder/a") != ""
