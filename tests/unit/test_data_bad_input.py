"""Bad input: every mistake is a `UserError` of one sentence that names file, line and the mend, and nothing is read past it in silence."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tempering.data import read
from tempering.errors import UserError

U, A = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}
GOOD = {"prompt": "Hi", "completion": "Yo"}


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(r).encode() + b"\n" for r in rows)


def chat(*turns: Any) -> bytes:
    return lines({"messages": list(turns)})


DEEP = b'{"text": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n"

# name of the case: (file name, content, options, what the message must hold beside the file's name)
CASES: dict[str, tuple[str, bytes, dict[str, Any], list[str]]] = {
    "empty file": ("a.jsonl", b"", {}, ["holds no records", "check that it is the right file"]),
    "only blank lines": ("a.jsonl", b"\n\n \n", {}, ["holds no records"]),
    "empty JSON list": ("a.json", b"[]", {}, ["holds no records"]),
    "CSV with a header alone": ("a.csv", b"prompt,completion\n", {}, ["holds no records"]),
    "broken UTF-8": (
        "a.jsonl",
        lines(GOOD) + b'{"text": "\xff"}\n',
        {},
        ["a.jsonl:2", "0xff at offset 47 of the file (byte 11 of the line)", "convert"],
    ),
    "broken UTF-8 after a byte order mark": ("a.jsonl", b'\xef\xbb\xbf{"text": "\xfe"}', {}, ["a.jsonl:1", "0xfe at offset 13 of the file (byte 14"]),
    "UTF-16": ("a.jsonl", '{"text": "a"}'.encode("utf-16"), {}, ["a.jsonl:1", "UTF-16", "iconv"]),
    "not JSON": ("a.jsonl", lines(GOOD) + b"{'prompt': 1}\n", {}, ["a.jsonl:2: not JSON at column 2", "one JSON object a line"]),
    "a cut line": ("a.jsonl", lines(GOOD) + b'{"prompt": "H', {}, ["a.jsonl:2: not JSON", "one JSON object a line"]),
    "a JSON number": ("a.jsonl", lines(GOOD, 3), {}, ["a.jsonl:2", "JSON object", "but is 3"]),
    "a JSON list as a line": ("a.jsonl", lines([1]), {}, ["a.jsonl:1", "JSON object", "but is [1]"]),
    "nested without end": ("a.jsonl", DEEP, {}, ["a.jsonl:1", "nested too deeply"]),
    "a string in a JSON list": ("a.json", b'[{"text": "a"}, "b"]', {}, ["a.json#2", "JSON object"]),
    "broken JSON file": ("a.json", b'[{"text": "a"},\n {]', {}, ["a.json:2: not JSON at column 3", "list of objects"]),
    "a line over the limit": ("a.jsonl", lines({"text": "a" * 2**20}), {"max_line_mib": 1}, ["a.jsonl:1", "longer than 1 MiB", "max_line_mib=N"]),
    "no shape": (
        "a.jsonl",
        lines({"foo": "a", "bar": "b"}),
        {},
        ["a.jsonl:1", '"foo", "bar"', "no shape is recognised", "shape=prompt_completion:prompt="],
    ),
    "an empty object": ("a.jsonl", lines({}), {}, ["a.jsonl:1", "empty object", "no shape"]),
    "two shapes in one row": (
        "a.jsonl",
        lines({"messages": [U, A], "text": "a"}),
        {},
        ["a.jsonl:1", '"messages"', '"text"', "say which with shape=NAME"],
    ),
    "two answers in one row": (
        "a.jsonl",
        lines({"prompt": "a", "response": "b", "answer": "c"}),
        {},
        ["a.jsonl:1", '"response", "answer" could each be the completion', "shape=prompt_completion:completion=FIELD"],
    ),
    "mixed shapes": ("a.jsonl", lines(GOOD, {"text": "a"}), {}, ["a.jsonl:2", 'shape "text"', "a.jsonl:1", '"prompt_completion"', "split the file"]),
    "a row without the shape": ("a.jsonl", lines(GOOD, {"foo": 1}), {}, ["a.jsonl:2", '"foo"', "a.jsonl:1", "split the file"]),
    "a forced shape that is not there": ("a.jsonl", lines(GOOD), {"shape": "pair"}, ["a.jsonl:1", '"chosen', "name them with shape=pair:SLOT=FIELD"]),
    "a forced field that is not there": (
        "a.jsonl",
        lines(GOOD),
        {"shape": "prompt_completion:prompt=query"},
        ["a.jsonl:1", '"query"', "name them with shape=prompt_completion:SLOT=FIELD"],
    ),
    "no assistant turn": ("a.jsonl", chat(U), {}, ["a.jsonl:1", "no assistant turn", "shape=prompt"]),
    "no turns": ("a.jsonl", chat(), {}, ["a.jsonl:1", "empty list", "a user turn and an assistant turn"]),
    "two system turns": (
        "a.jsonl",
        chat({"role": "system", "content": "a"}, {"role": "system", "content": "b"}, U, A),
        {},
        ["a.jsonl:1", '"messages[1]" is a second system turn', "join the two"],
    ),
    "a system turn and a system field": (
        "a.jsonl",
        lines({"system": "a", "messages": [{"role": "system", "content": "b"}, U, A]}),
        {},
        ["a.jsonl:1", "both system prompts", "remove one"],
    ),
    "a system turn in the middle": (
        "a.jsonl",
        chat(U, {"role": "system", "content": "b"}, A),
        {},
        ["a.jsonl:1", "after other turns", "to the front"],
    ),
    "an unknown role": ("a.jsonl", chat({"role": "assisstant", "content": "b"}), {}, ["a.jsonl:1", "'assisstant'", 'did you mean "assistant"']),
    "a turn without a role": ("a.jsonl", chat({"content": "b"}), {}, ["a.jsonl:1", 'no "role"', "say who speaks"]),
    "a turn that is a string": ("a.jsonl", chat("Hi", "Yo"), {}, ["a.jsonl:1", '"messages[0]"', '"role" and "content"']),
    "a turn without content": ("a.jsonl", chat(U, {"role": "assistant"}), {}, ["a.jsonl:1", '"messages[1]" has no "content"', "write the text"]),
    "content that is a number": ("a.jsonl", chat({"role": "user", "content": 3}, A), {}, ["a.jsonl:1", "must be a string", "3"]),
    "an image part": (
        "a.jsonl",
        chat({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, A),
        {},
        ["a.jsonl:1", "'image_url'", "text only", "remove these records"],
    ),
    "a tool call without a name": (
        "a.jsonl",
        chat(U, {"role": "assistant", "content": "", "tool_calls": [{"function": {}}]}),
        {},
        ["a.jsonl:1", "not a tool call", '"name"'],
    ),
    "tools that are no schemas": ("a.jsonl", lines({"messages": [U, A], "tools": "add"}), {}, ["a.jsonl:1", '"tools"', "JSON schemas"]),
    "half a surrogate pair": ("a.jsonl", b'{"text": "a\\ud800"}', {}, ["a.jsonl:1", "surrogate", "write the whole character"]),
    "an answer that is a number": (
        "a.jsonl",
        lines({"prompt": "a", "completion": 3}),
        {},
        ["a.jsonl:1", "no shape is recognised", '"completion" is 3, not text'],
    ),
    "an answer that begins with the user": (
        "a.jsonl",
        lines({"prompt": "a", "completion": [U, A]}),
        {},
        ["a.jsonl:1", "begins with a user turn", "move it"],
    ),
    "a label that is a word": ("a.jsonl", lines({**GOOD, "label": "good"}), {}, ["a.jsonl:1", "'good'", "true (desirable) or false (undesirable)"]),
    "a label that is a half": ("a.jsonl", lines({**GOOD, "label": 0.5}), {}, ["a.jsonl:1", "0.5", "true (desirable)"]),
    "a NaN score": ("a.jsonl", b'{"prompt": "a", "response": "b", "score": NaN}', {}, ["a.jsonl:1", '"score" is nan', "finite"]),
    "an infinite score": ("a.jsonl", b'{"prompt": "a", "responses": ["b"], "scores": [Infinity]}', {}, ["a.jsonl:1", '"scores[0]" is inf', "finite"]),
    "a score that is a word": ("a.csv", b"prompt,response,score\na,b,high\n", {}, ["a.csv:2", "'high'", "must be a number"]),
    "fewer scores than answers": (
        "a.jsonl",
        lines({"prompt": "a", "responses": ["b", "c"], "scores": [1]}),
        {},
        ["a.jsonl:1", "2 answers", "one score for each"],
    ),
    "answers without scores": ("a.jsonl", lines({"prompt": "a", "responses": ["b", "c"]}), {}, ["a.jsonl:1", "no score", '"scores"']),
    "a pair without a prompt": ("a.jsonl", lines({"chosen": "b", "rejected": "c"}), {}, ["a.jsonl:1", "there is no prompt", 'add "prompt"']),
    "a pair of two prompts": (
        "a.jsonl",
        lines({"chosen": [U, A], "rejected": [{"role": "user", "content": "other"}, A]}),
        {},
        ["a.jsonl:1", "never answer the same prompt", "the same prompt"],
    ),
    "a pair that does not hold its prompt": (
        "a.jsonl",
        lines({"prompt": "other", "chosen": [U, A], "rejected": [U, A]}),
        {},
        ["a.jsonl:1", "does not begin with the prompt", "make the two agree"],
    ),
    "the same id twice": (
        "a.jsonl",
        lines({"id": "x", **GOOD}, {"id": "y", **GOOD}, {"id": "x", **GOOD}),
        {},
        ["a.jsonl:3", "'x'", "a.jsonl:1", "own id"],
    ),
    "a weight of one half": ("a.jsonl", chat(U, {**A, "weight": 0.5}), {}, ["a.jsonl:1", '"messages[1].weight" is 0.5', "only 0 or 1"]),
    "a weight on the user": ("a.jsonl", chat({**U, "weight": 1}, A), {}, ["a.jsonl:1", "a turn of the user", "change or remove"]),
    "a CSV row with too few cells": ("a.csv", b"prompt,completion\na,b\nc\n", {}, ["a.csv:3", "1 cells but 2 columns", "quote"]),
    "a CSV column twice": ("a.csv", b"prompt,prompt\na,b\n", {}, ["a.csv:1", "every column once"]),
    "a CSV quote that never ends": ("a.csv", b'prompt,completion\na,"b\n', {}, ["a.csv:2: not CSV", "quote fields"]),
    "a broken gzip file": ("a.jsonl.gz", gzip.compress(lines(*[GOOD] * 99))[:-20], {}, ["gzip file is broken", "compress it again"]),
    "no gzip file": ("a.jsonl.gz", lines(GOOD), {}, ["gzip file is broken"]),
    "no Parquet file": ("a.parquet", b"PAR", {}, ["not a readable Parquet file", "write it again"]),
    "an unknown format": ("a.xlsx", b"PK", {}, ["format .xlsx is not known", ".jsonl"]),
    "a split of a file": ("a.jsonl", lines(GOOD), {"split": "train"}, ["a single file has no splits", "leave split='train' out"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_files(case: str, tmp_path: Path) -> None:
    name, content, options, words = CASES[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(read(str(path), say=lambda _: None, **options))
    message = str(caught.value)
    assert type(caught.value).exit_code == 2
    assert message.startswith(str(path))
    assert "\n" not in message and len(message) < 600
    assert [w for w in words if w not in message] == []


ARGUMENTS = {
    "an unknown shape": ({"shape": "pairs"}, ['shape "pairs" is not known', 'did you mean "pair"', "prompt_completion"]),
    "an unknown slot": ({"shape": "pair:answer=x"}, ['"answer=x"', "its slots are: chosen"]),
    "no slot": ({"shape": "pair:chosen"}, ['"chosen" is not slot=field']),
    "a limit of zero": ({"limit": 0}, ["limit is 0", "at least 1"]),
    "a negative limit": ({"limit": -3}, ["limit is -3"]),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_bad_arguments(case: str, tmp_path: Path) -> None:
    options, words = ARGUMENTS[case]
    (tmp_path / "a.jsonl").write_bytes(lines(GOOD))
    with pytest.raises(UserError) as caught:
        read(str(tmp_path / "a.jsonl"), say=lambda _: None, **options)
    assert [w for w in words if w not in str(caught.value)] == []


def said(source: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        list(read(source, say=lambda _: None, **options))
    return str(caught.value)


def test_missing_files_suggest_near_names(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(lines(GOOD))
    assert said(f"{tmp_path}/trian.jsonl") == f"{tmp_path}/trian.jsonl: no such file or folder; near names in {tmp_path}: train.jsonl."
    assert "owner/name" in said(f"{tmp_path}/zzz")
    assert f"the folder {tmp_path}/deep is missing too" in said(f"{tmp_path}/deep/train.jsonl")
    assert "empty" in said(" ")


def test_folders_without_data_or_split(tmp_path: Path) -> None:
    assert "no data files" in said(str(tmp_path))
    (tmp_path / "train.jsonl").write_bytes(lines(GOOD))
    assert "no split 'test'; there are: train" in said(str(tmp_path), split="test")


def test_files_of_a_folder_must_agree(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(GOOD))
    (tmp_path / "b.jsonl").write_bytes(lines({"text": "a"}))
    message = said(str(tmp_path))
    assert message.startswith(f"{tmp_path}/b.jsonl:1: ") and f"{tmp_path}/a.jsonl:1 has" in message


def test_a_broken_datasets_folder(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    assert "not a readable `datasets` folder" in said(str(tmp_path))


def test_a_hub_id_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(*_: Any) -> Any:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    assert "as a hub dataset it cannot be loaded (offline); check the name and the network" in said("no-one/no-data")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(GOOD))
    path.chmod(0)
    assert "cannot be read (Permission denied)" in said(str(path))


def test_messages_escape_what_the_file_holds(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(chat({"role": "\x1b[31mred", "content": "x"}))
    assert "\x1b" not in said(str(tmp_path / "a.jsonl"))
