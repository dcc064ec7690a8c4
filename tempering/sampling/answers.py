"""Answers on disk, under the hash of everything that was asked: a sampling that broke off goes on where it stopped, one that is done costs nothing.

The server's address is no part of the question, so the same model behind another address is the same. Only answers are kept, never failures, and
never a key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tempering.home import store_dir, write_atomic

FORMAT = 1


class AnswerCache:
    """One file per answer in the store's folder "answers"."""

    def __init__(self) -> None:
        self._root = store_dir("answers")

    def get(self, question: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer, or None; a file that is torn or of another format counts as none and will be replaced."""
        try:
            value = json.loads(self._path(question).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return value["answer"] if isinstance(value, dict) and value.get("format") == FORMAT and isinstance(value.get("answer"), dict) else None

    def put(self, question: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Keep an answer.

        Raises:
            UserError: the disk is full or may not be written.
        """
        path = self._path(question)
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, json.dumps({"format": FORMAT, "answer": answer}))

    def _path(self, question: Mapping[str, Any]) -> Path:
        text = json.dumps([FORMAT, question], sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return self._root / digest[:2] / f"{digest[2:]}.json"
