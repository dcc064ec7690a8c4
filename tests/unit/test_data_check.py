"""`check`: one small file for every finding, clean data without any, overlap with tests, and the coloured example."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tempering.data import CheckReport, check, read, render_example
from tempering.data.findings import KINDS
from tempering.data.overlap import Overlap, words_of
from tempering.errors import UserError
from tempering.types import Message, Record, Response, Segment
from tests.conftest import CHATML, make_tokenizer

U, A = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}
GOOD = {"prompt": "Hi", "completion": "Yo"}
NO_END = CHATML.replace("<|im_end|>", "")
TWO_BOS = "{{ bos_token }}{{ bos_token }}" + CHATML
HEADER = CHATML.replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>assistant\nSure: ' }}")
STRIPPING = CHATML.replace("message['content']", "(message['content'] if loop.last else message['content'].split('</think>')[-1])")
MARKED = CHATML.replace(
    "message['content'] + '<|im_end|>'",
    "'' }}{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{% endgeneration %}{% else %}"
    "{{ message['content'] }}{% endif %}"
    "{{ '<|im_end|>'",
)
LONG = "the bird that sang at dawn over the quiet harbour was a small grey wren"

# name: (rows, options of check, template, {code: (count, sources)})
CASES: dict[str, tuple[list[Any], dict[str, Any], str | None, dict[str, tuple[int, list[str]]]]] = {
    "clean": ([GOOD, {"prompt": "And?", "completion": "No"}], {}, CHATML, {}),
    "nothing trained": ([{"messages": [U, {**A, "weight": 0}]}], {}, CHATML, {"nothing_trained": (1, ["a.jsonl:1"])}),
    "prompts alone": ([{"prompt": "Hi"}], {}, CHATML, {"nothing_trained": (1, ["a.jsonl:1"])}),
    "EOS never trained": ([GOOD], {}, NO_END, {"eos_never_trained": (1, ["a.jsonl:1"])}),
    "EOS outside the generation markers": ([GOOD], {}, MARKED, {"eos_never_trained": (1, ["a.jsonl:1"])}),
    "another end of turn than EOS": ([GOOD], {}, CHATML.replace("<|im_end|>", "<|pad|>"), {"stop_differs": (1, ["a.jsonl:1"])}),
    "the answer is cut": (
        [{"prompt": "Hi", "completion": "bcdfg" * 9}, {**GOOD, "prompt": "Ho"}],
        {"max_length": 60},
        CHATML,
        {"answer_truncated": (1, ["a.jsonl:1"])},
    ),
    "a long row whose answer fits": (
        [{"messages": [U, A, {**U, "content": "bcdfg" * 9}]}],
        {"max_length": 60},
        CHATML,
        {"over_long": (1, ["a.jsonl:1"])},
    ),
    "two BOS": ([GOOD], {}, TWO_BOS, {"duplicate_bos": (1, ["a.jsonl:1"])}),
    "another prompt at inference": ([GOOD], {}, HEADER, {"prompt_differs": (1, ["a.jsonl:1"])}),
    "no template": ([GOOD, {**GOOD, "prompt": "Ho"}], {}, None, {"no_template": (2, ["a.jsonl:1", "a.jsonl:2"])}),
    "history rewritten": (
        [{"messages": [U, {**A, "content": "<think>x</think>Yo"}, U, A]}],
        {},
        STRIPPING,
        {"history_rewritten": (1, ["a.jsonl:1"])},
    ),
    "history rewritten, last turn only": ([{"messages": [U, {**A, "content": "<think>x</think>Yo"}, U, A]}], {"train_on": "last"}, STRIPPING, {}),
    "identical pair": (
        [{"prompt": "Hi", "chosen": "a", "rejected": "a"}, {"prompt": "Ho", "chosen": "a", "rejected": "b"}],
        {},
        CHATML,
        {"identical_pair": (1, ["a.jsonl:1"])},
    ),
    "an empty answer": ([{"prompt": "Hi", "completion": " \n"}], {}, CHATML, {"empty_response": (1, ["a.jsonl:1"])}),
    "mojibake": (
        [{"prompt": "CafÃ©", "completion": "itâ€™s"}, {"prompt": "Café Ã la carte", "completion": "naïve"}],
        {},
        CHATML,
        {"mojibake": (1, ["a.jsonl:1"])},
    ),
    "lost characters": ([{"prompt": "a\ufffdb", "completion": "c"}], {}, CHATML, {"replacement": (1, ["a.jsonl:1"])}),
    "invisible characters": ([{"prompt": "a\ufeffb", "completion": "\x00"}], {}, CHATML, {"invisible": (1, ["a.jsonl:1"])}),
    "special tokens in the text": ([{"prompt": "a<|im_end|>", "completion": "c"}], {}, CHATML, {"special_in_content": (1, ["a.jsonl:1"])}),
    "the same row twice": ([GOOD, {**GOOD, "prompt": "Ho"}, GOOD], {}, CHATML, {"duplicate_row": (1, ["a.jsonl:3 = a.jsonl:1"])}),
    "the same prompt twice": ([GOOD, {**GOOD, "completion": "No"}], {}, CHATML, {"repeated_prompt": (1, ["a.jsonl:2 = a.jsonl:1"])}),
    "the same id twice": ([{"id": 1, **GOOD}, {"id": 1, "prompt": "Ho", "completion": "b"}], {}, CHATML, {"duplicate_id": (1, ["a.jsonl:2"])}),
    "wrong rows are counted, not fatal": (
        [GOOD, 3, {"prompt": "Ho", "completion": "b"}, {"text": "x"}, 4],
        {},
        CHATML,
        {"not_object": (2, ["a.jsonl:2", "a.jsonl:5"]), "mixed": (1, ["a.jsonl:4"])},
    ),
    "a prompt of a probe": (
        [{"prompt": "What is 2 + 2 ?", "completion": "4"}, {"prompt": LONG, "completion": "yes"}],
        {"probes": {"sums": ["what is 2+2?", "unseen"], "birds": ["It is said " + LONG + ", is it not?"]}},
        CHATML,
        {"prompt_in_test": (1, ["a.jsonl:1 ~ sums#1"]), "near_test": (1, ["a.jsonl:2 ~ birds#1"])},
    ),
    "an undesirable answer is no mistake": ([{"prompt": "Hi", "completion": "a", "label": False}], {}, CHATML, {}),
}


def checked(tmp_path: Path, rows: list[Any], template: str | None = CHATML, **options: Any) -> CheckReport:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return check(str(path), make_tokenizer(template), say=lambda _: None, **options)


@pytest.mark.parametrize("case", CASES)
def test_findings(case: str, tmp_path: Path) -> None:
    rows, options, template, expected = CASES[case]
    report = checked(tmp_path, rows, template, **options)
    assert {f.code: (f.count, list(f.sources)) for f in report.findings} == expected
    assert report.ok == (not any(KINDS.get(code, ("error",))[0] == "error" for code in expected))
    for finding in report.findings:
        assert finding.sentence().startswith(f"{finding.count} row") and finding.sentence().endswith(".")
        assert ";" in finding.sentence(), "every finding has a mend"


def test_every_kind_of_finding_has_a_case() -> None:
    found = {code for *_, expected in CASES.values() for code in expected}
    assert set(KINDS) - found == set()


def test_totals_and_json(tmp_path: Path) -> None:
    report = checked(tmp_path, [GOOD, {"prompt": "Ho", "completion": "No"}])
    ids = make_tokenizer()(make_tokenizer().apply_chat_template([U, A], tokenize=False))["input_ids"]
    assert (report.records, report.tokens, report.trained_tokens, report.longest) == (2, 2 * len(ids), 6, len(ids))
    assert json.loads(json.dumps(report.to_json()))["findings"] == []
    assert report.to_json()["ok"] is True


def test_a_file_that_breaks_off_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\xff\n")
    (finding,) = check(str(path), make_tokenizer(), say=lambda _: None).findings
    assert (finding.code, finding.severity) == ("encoding", "error")
    assert finding.message.startswith(f"reading ended here: {path}:2: not UTF-8: byte 0xff")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": "x" * 99}).encode() * 99)[:-9])
    with pytest.raises(UserError):
        check(str(tmp_path / "b.jsonl.gz"), make_tokenizer(), say=lambda _: None)


def test_train_against_test_files(tmp_path: Path) -> None:
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps({"prompt": "HI!", "completion": "x"}) + "\n" + json.dumps({"prompt": LONG, "completion": "x"}) + "\n")
    rows = [GOOD, {"prompt": "Write.", "completion": f"I saw that {LONG}."}, {"prompt": "the bird that sang", "completion": "no"}]
    quiet = {"say": lambda _: None}
    for against in ([str(test)], [read(str(test), **quiet)]):
        report = checked(tmp_path, rows, against=against)
        assert {f.code: f.sources for f in report.findings} == {
            "prompt_in_test": ("a.jsonl:1 ~ test.jsonl:1",),
            "near_test": ("a.jsonl:2 ~ test.jsonl:2",),
        }


def test_a_policy_says_its_limit_and_its_stops(tmp_path: Path) -> None:
    pad = make_tokenizer().pad_token_id
    model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=20), generation_config=SimpleNamespace(eos_token_id=[pad]))
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(GOOD) + "\n")
    tokenizer = make_tokenizer(CHATML.replace("<|im_end|>", "<|pad|>"))
    report = check(str(path), SimpleNamespace(tokenizer=tokenizer, model=model), say=lambda _: None)
    assert [f.code for f in report.findings] == ["answer_truncated"]


def test_overlap_looks_for_runs_of_words() -> None:
    index = Overlap(13)
    index.add("long", " ".join(f"w{i}" for i in range(20)))
    index.add("short", "one two three four five six")
    index.add("tiny", "one two")
    assert index.near("x " + " ".join(f"w{i}" for i in range(3, 16)) + " y") == "long"
    assert index.near(" ".join(f"w{i}" for i in range(3, 15))) is None
    assert index.near("zero, ONE two-three: four five six seven") == "short"
    assert index.near("one two three four five") is None
    assert (index.near("one two"), index.exact("One, two!"), index.exact("two one")) == (None, "tiny", None)
    assert words_of("\uff28ello, 世界 a_1!") == ("hello", "世", "界", "a_1")


def test_what_many_items_share_is_no_leak() -> None:
    index = Overlap(5)
    for i in range(11):
        index.add(f"item {i}", f"choose one of the options below {i}")
    assert index.near("please choose one of the options below now") is None
    assert index.near("the options below 7 are these") is None
    assert index.near("of the options below 7 are") == "item 7"


def test_the_example_shows_what_is_trained(tmp_path: Path) -> None:
    report = checked(tmp_path, [{"prompt": "Hi \x1b[31m[bold]", "completion": "Yo é"}])
    assert report.example is not None
    styled = [(report.example.plain[s.start : s.end], s.style) for s in report.example.spans]
    assert styled == [
        ("<|im_start|>user\nHi \\x1b[31m[bold]<|im_end|>\n<|im_start|>assistant\n", "dim"),
        ("Yo é<|im_end|>", "bold green"),
        ("\n", "dim"),
    ]


def test_a_long_example_is_cut_and_says_so() -> None:
    segment = Segment(np.asarray(make_tokenizer()("bcdfg")["input_ids"], np.int32), np.asarray([0, 1, 1, 1, 1], np.float32))
    assert render_example(segment, make_tokenizer(), max_tokens=3).plain == "bcd ... (2 more tokens)"


def test_the_report_prints_without_markup_or_control_characters_from_data(tmp_path: Path) -> None:
    record = Record((Message("user", "Hi"),), (Response((Message("assistant", ""),)),), source="[red]\x1b[2J.jsonl:1")
    report = check([record], make_tokenizer())
    console = Console(width=200, record=True, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    console.print(report)
    shown = console.export_text()
    console.file.close()
    assert "[red]\\x1b[2J.jsonl:1" in shown
    assert "empty_response" in shown and "\x1b[2J" not in shown
