"""Reading: formats, shapes, laziness, and real data where it is."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tempering.data import RecordSource, read
from tempering.data.shapes import NAMES
from tempering.errors import UserError
from tempering.types import Message, Record, Response
from tests.conftest import shared


def m(role: str, text: str, *calls: Any) -> Message:
    return Message({"s": "system", "u": "user", "a": "assistant", "t": "tool", "x": "text"}[role], text, calls)


def quiet(path: Path | str, **options: Any) -> RecordSource:
    return read(str(path), say=lambda _: None, **options)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


CALL = {"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
HH = "\n\nHuman: Hi\n\nAssistant: Hey\n\nHuman: Bye\n\nAssistant: "
ANSWERED = ((m("u", "Hi"),), (Response((m("a", "Yo"),)),))

SHAPES: dict[str, tuple[Any, str, tuple[Any, ...]]] = {
    "messages": ({"messages": CHAT}, "messages", ANSWERED),
    "messages: the response begins with the first answer": (
        {"messages": [{"role": "system", "content": "S"}, *CHAT, {"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]},
        "messages",
        ((m("s", "S"), m("u", "Hi")), (Response((m("a", "Yo"), m("u", "?"), m("a", "!"))),)),
    ),
    "messages: system as a field": (
        {"system": "S", "messages": CHAT},
        "messages",
        ((m("s", "S"), m("u", "Hi")), (Response((m("a", "Yo"),)),)),
    ),
    "messages: parts of text and reasoning": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
                {"role": "assistant", "content": [{"type": "reasoning", "value": "hm"}, {"type": "text", "value": "Yo"}]},
            ]
        },
        "messages",
        ((m("u", "Hi"),), (Response((m("a", "<think>\nhm\n</think>\n\nYo"),)),)),
    ),
    "messages: tool calls, arguments as a string": (
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}]},
                {"role": "tool", "content": "1"},
                {"role": "assistant", "content": "Yo"},
            ]
        },
        "messages",
        ((m("u", "Hi"),), (Response((m("a", "", CALL), m("t", "1"), m("a", "Yo"))),)),
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]},
        "sharegpt",
        ANSWERED,
    ),
    "sharegpt: function_call and observation": (
        {
            "conversations": [
                {"from": "human", "value": "Hi"},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"x": 1}}'},
                {"from": "observation", "value": "1"},
                {"from": "gpt", "value": "Yo"},
            ]
        },
        "sharegpt",
        ((m("u", "Hi"),), (Response((m("a", "", CALL), m("t", "1"), m("a", "Yo"))),)),
    ),
    "prompt and completion": ({"prompt": "Hi", "completion": "Yo"}, "prompt_completion", ANSWERED),
    "prompt and response, turns": ({"prompt": CHAT[:1], "response": CHAT[1:]}, "prompt_completion", ANSWERED),
    "input and target": ({"input": "Hi", "target": "Yo"}, "prompt_completion", ANSWERED),
    "alpaca": ({"instruction": "Hi", "input": "", "output": "Yo"}, "instruction", ANSWERED),
    "alpaca with input": (
        {"instruction": "Add", "input": "1 2", "output": "3"},
        "instruction",
        ((m("u", "Add\n\n1 2"),), (Response((m("a", "3"),)),)),
    ),
    "alpaca with history": (
        {"instruction": "B", "output": "b", "history": [["A", "a"]]},
        "instruction",
        ((m("u", "A"), m("a", "a"), m("u", "B")), (Response((m("a", "b"),)),)),
    ),
    "question and answer": ({"question": "Hi", "answer": "Yo"}, "question_answer", ANSWERED),
    "question with context": (
        {"question": "Who?", "context": "Ann.", "answer": "Ann"},
        "question_answer",
        ((m("u", "Ann.\n\nWho?"),), (Response((m("a", "Ann"),)),)),
    ),
    "pair of strings": (
        {"prompt": "Hi", "chosen": "Yo", "rejected": "No"},
        "pair",
        ((m("u", "Hi"),), (Response((m("a", "Yo"),)), Response((m("a", "No"),)))),
    ),
    "pair of conversations": (
        {"chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "No"}]},
        "pair",
        ((m("u", "Hi"),), (Response((m("a", "Yo"),)), Response((m("a", "No"),)))),
    ),
    "pair with the prompt in both sides": (
        {"prompt": "Hi", "chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "No"}], "score_chosen": 8, "score_rejected": "2.5"},
        "pair",
        ((m("u", "Hi"),), (Response((m("a", "Yo"),), 8.0), Response((m("a", "No"),), 2.5))),
    ),
    "pair of transcripts": (
        {"chosen": HH + "Yo", "rejected": HH + "No"},
        "pair",
        ((m("u", "Hi"), m("a", "Hey"), m("u", "Bye")), (Response((m("a", "Yo"),)), Response((m("a", "No"),)))),
    ),
    "pair of a transcript prompt": (
        {"prompt": HH, "chosen": " Yo", "rejected": " No"},
        "pair",
        ((m("u", "Hi"), m("a", "Hey"), m("u", "Bye")), (Response((m("a", " Yo"),)), Response((m("a", " No"),)))),
    ),
    "pair that differs in an earlier answer": (
        {"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d", "rejected": "\n\nHuman: a\n\nAssistant: x"},
        "pair",
        ((m("u", "a"),), (Response((m("a", "b"), m("u", "c"), m("a", "d"))), Response((m("a", "x"),)))),
    ),
    "pair that differs first in a user turn begins with the answer before it": (
        {
            "chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
            "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: x\n\nAssistant: y",
        },
        "pair",
        ((m("u", "a"),), (Response((m("a", "b"), m("u", "c"), m("a", "d"))), Response((m("a", "b"), m("u", "x"), m("a", "y"))))),
    ),
    "identical pair": (
        {"chosen": CHAT, "rejected": CHAT},
        "pair",
        ((m("u", "Hi"),), (Response((m("a", "Yo"),)), Response((m("a", "Yo"),)))),
    ),
    "pair beside sharegpt turns": (
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Yo"},
            "rejected": {"from": "gpt", "value": "No"},
        },
        "pair",
        ((m("u", "Hi"),), (Response((m("a", "Yo"),)), Response((m("a", "No"),)))),
    ),
    "label": (
        {"prompt": "Hi", "completion": "Yo", "label": False},
        "unpaired",
        ((m("u", "Hi"),), (Response((m("a", "Yo"),), label=False),)),
    ),
    "label as a string": (
        {"prompt": "Hi", "completion": "Yo", "label": "True"},
        "unpaired",
        ((m("u", "Hi"),), (Response((m("a", "Yo"),), label=True),)),
    ),
    "label of a conversation is that of its last answer": (
        {"messages": [*CHAT, {"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}], "label": 1},
        "unpaired",
        ((m("u", "Hi"), m("a", "Yo"), m("u", "?")), (Response((m("a", "!"),), label=True),)),
    ),
    "rated, scores in the answers": (
        {"prompt": "Hi", "responses": [{"response": "Yo", "score": 4, "aspects": {"help": 3}}, {"text": "No", "rating": 1.5}]},
        "rated",
        ((m("u", "Hi"),), (Response((m("a", "Yo"),), 4.0, aspects={"help": 3.0}), Response((m("a", "No"),), 1.5))),
    ),
    "rated, as UltraFeedback writes it": (
        {
            "instruction": "Hi",
            "completions": [{"response": "Yo", "overall_score": 7.5, "annotations": {"honesty": {"Rating": "5"}, "truth": {"Rating": "N/A"}}}],
        },
        "rated",
        ((m("u", "Hi"),), (Response((m("a", "Yo"),), 7.5, aspects={"honesty": 5.0}),)),
    ),
    "rated, a list of scores": (
        {"prompt": "Hi", "responses": ["Yo", "No"], "scores": [1, 0]},
        "rated",
        ((m("u", "Hi"),), (Response((m("a", "Yo"),), 1.0), Response((m("a", "No"),), 0.0))),
    ),
    "one rated answer": ({"prompt": "Hi", "response": "Yo", "score": 0.5}, "rated", ((m("u", "Hi"),), (Response((m("a", "Yo"),), 0.5),))),
    "labelled steps": (
        {"prompt": "Hi", "completions": ["Yo.", "So 4."], "labels": [True, 0.25]},
        "stepwise",
        ((m("u", "Hi"),), (Response((m("a", "Yo.\nSo 4."),)),)),
    ),
    "text": ({"text": "Once upon a time."}, "text", ((), (Response((m("x", "Once upon a time."),)),))),
    "prompts alone": ({"prompt": "Hi"}, "prompt", ((m("u", "Hi"),), ())),
    "null fields are absent": ({"prompt": "Hi", "completion": "Yo", "label": None, "chosen": None}, "prompt_completion", ANSWERED),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes(case: str, tmp_path: Path) -> None:
    row, shape, (prompt, responses) = SHAPES[case]
    source = quiet(write(tmp_path / "train.jsonl", row))
    better = ((0, 1),) if shape == "pair" else ()
    tags = {k: v for k, v in row.items() if k.startswith("score_")}
    tags |= {"steps": ("Yo.", "So 4."), "step_labels": (1.0, 0.25)} if shape == "stepwise" else {}
    assert source.shape == shape
    assert list(source) == [Record(prompt, responses, better, "train.jsonl:1", "train.jsonl:1", tags)]


def test_every_shape_has_a_case() -> None:
    assert {shape for _, shape, _ in SHAPES.values()} == set(NAMES)


def test_ids_tags_and_tools_are_kept(tmp_path: Path) -> None:
    row = {"id": 7, "messages": CHAT, "tools": '[{"name": "add"}]', "topic": "greeting"}
    (record,) = quiet(write(tmp_path / "a.jsonl", row))
    assert (record.id, record.tags, record.tools) == ("7", {"id": 7, "topic": "greeting"}, ({"name": "add"},))


def test_turns_of_weight_zero_are_remembered(tmp_path: Path) -> None:
    row = {"system": "S", "messages": [CHAT[0], CHAT[1] | {"weight": 0}, CHAT[0] | {"weight": 0}, CHAT[1] | {"weight": 1}]}
    (record,) = quiet(write(tmp_path / "a.jsonl", row))
    assert record.tags == {"untrained": (2,)}


def test_what_is_recognised_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    path = write(tmp_path / "a.jsonl", {"question": "Hi", "answer": "Yo", "level": "easy"})
    list(read(str(path), say=said.append))
    assert said == [
        f'{path}: read as shape "question_answer" (a question and its answer: prompt = question, completion = answer); '
        'not trained on, kept as tags: "level".'
    ]


def test_a_shape_is_forced_and_fields_are_renamed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "Hi", "code": "Yo"})
    assert [r.prompt for r in quiet(path)] == [()]
    forced = quiet(path, shape="prompt_completion:prompt=text,completion=code")
    (record,) = forced
    assert (record.prompt, record.responses) == ANSWERED
    assert forced.fingerprint != quiet(path).fingerprint


ROWS = [{"prompt": "Hi é", "completion": "Yo"}, {"prompt": 'a "b", c', "completion": "two\nlines"}]


def records_of(path: Path, **options: Any) -> list[tuple[str, str, str]]:
    return [(r.prompt[0].content, r.responses[0].messages[0].content, r.source) for r in quiet(path, **options)]


def test_every_format_gives_the_same_records(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in ROWS)
    (tmp_path / "a.jsonl").write_text(lines, "utf-8")
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode().replace(b"\n", b"\r\n"))
    (tmp_path / "blank.jsonl").write_text("\n" + lines.replace("\n", "\n\n"), "utf-8")
    (tmp_path / "lines.json").write_text(lines, "utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "a.json").write_text(json.dumps(ROWS, indent=2), "utf-8")
    (tmp_path / "data.json").write_text(json.dumps({"version": 1, "data": ROWS}), "utf-8")
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps(ROWS).encode()))
    for name, comma in (("a.csv", ","), ("a.tsv", "\t")):
        with open(tmp_path / name, "w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle, delimiter=comma)
            writer.writerows([list(ROWS[0]), *(list(r.values()) for r in ROWS)])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    sources = {
        **dict.fromkeys(("a.jsonl", "bom.jsonl", "lines.json", "a.jsonl.gz"), (":1", ":2")),
        **dict.fromkeys(("a.json", "data.json", "a.json.gz", "a.parquet"), ("#1", "#2")),
        **dict.fromkeys(("a.csv", "a.tsv"), (":2", ":3")),
        "blank.jsonl": (":2", ":4"),
    }
    for name, places in sources.items():
        expected = [(r["prompt"], r["completion"], name + place) for r, place in zip(ROWS, places, strict=True)]
        assert records_of(tmp_path / name) == expected, name


def test_datasets_folders_and_splits(tmp_path: Path) -> None:
    import datasets

    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": data, "test": data.select([1])}).save_to_disk(str(tmp_path / "two"))
    assert [r[:2] for r in records_of(tmp_path / "one")] == [tuple(r.values()) for r in ROWS]
    assert [r[:2] for r in records_of(tmp_path / "two", split="test")] == [tuple(ROWS[1].values())]


def test_folders_of_files_and_splits(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00002.jsonl", ROWS[0])
    write(tmp_path / "train-00001-of-00002.jsonl", ROWS[1])
    write(tmp_path / "test.jsonl", ROWS[1])
    assert [r[2] for r in records_of(tmp_path, split="train")] == ["train-00000-of-00002.jsonl:1", "train-00001-of-00002.jsonl:1"]
    with pytest.raises(UserError, match=r"holds the splits test, train; say which with split=NAME"):
        quiet(tmp_path)


def test_hub_ids_go_through_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load(name: str, config: str | None) -> Any:
        asked.append((name, config))
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = quiet("someone/some-data:main")
    assert asked == [("someone/some-data", "main")]
    assert [r.source for r in source] == ["someone/some-data:main#1", "someone/some-data:main#2"]
    assert len(source.fingerprint) == 64


def test_iterating_is_lazy_and_repeatable(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *ROWS)
    with open(path, "a", encoding="utf-8") as handle:
        handle.write("not json\n")
    source = quiet(path)
    first = iter(source)
    assert [next(first).source, next(first).source] == ["a.jsonl:1", "a.jsonl:2"]
    with pytest.raises(UserError, match=r"a\.jsonl:3: not JSON"):
        next(first)
    limited = quiet(path, limit=2)
    assert list(limited) == list(limited)
    assert limited.count() == 2


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.jsonl", *ROWS), write(tmp_path / "b.jsonl", ROWS[0])
    assert quiet(a).fingerprint == quiet(a).fingerprint
    assert len({quiet(a).fingerprint, quiet(b).fingerprint, quiet(a, limit=1).fingerprint, quiet(a, shape="prompt").fingerprint}) == 4


def test_plain_text_files_are_cut_between_paragraphs_and_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tempering.data import formats

    monkeypatch.setattr(formats, "PIECE", 20)
    text = "one two\nthree\n\nfour five\nsix\n" + "x" * 45 + "\nend\n"
    (tmp_path / "a.txt").write_text(text, "utf-8")
    records = list(quiet(tmp_path / "a.txt"))
    pieces = [r.responses[0].messages[0].content for r in records]
    assert "".join(pieces) == text
    assert pieces[0] == "one two\nthree\n\n"
    assert max(map(len, pieces)) <= 20
    assert [r.source for r in records][:2] == ["a.txt:1", "a.txt:4"]
    assert [r.tags["begins"] for r in records] == [True] + [False] * (len(records) - 1)
    assert [r.tags["ends"] for r in records] == [False] * (len(records) - 1) + [True]


def test_a_line_of_ten_megabytes_is_read_or_refused_by_the_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "a" * 10_000_000})
    (record,) = quiet(path)
    assert len(record.responses[0].messages[0].content) == 10_000_000
    with pytest.raises(UserError, match=r"a.jsonl:1: the line is longer than 1 MiB; .* max_line_mib=N"):
        quiet(path, max_line_mib=1)


REAL = {
    "alpaca/alpaca_slice.jsonl.gz": ("instruction", 4615, "user", "assistant"),
    "chat_demos/fastchat_dummy_conversation.jsonl": ("sharegpt", 250, "user", "assistant"),
    "chat_demos/identity.jsonl": ("instruction", 91, "user", "assistant"),
    "chat_demos/sharegpt_zh_multiturn.jsonl": ("sharegpt", 127, "user", "assistant"),
    "c4_demo/c4_demo.jsonl": ("text", 150, None, "text"),
    "dolly/databricks_dolly_15k.jsonl": ("instruction", 500, "user", "assistant"),
    "dpo_demo/dpo_en_demo.jsonl.gz": ("pair", 299, "user", "assistant"),
    "dpo_demo/v1_dpo_demo.jsonl": ("pair", 10, "user", "assistant"),
    "gsm8k/train.jsonl.gz": ("question_answer", 7473, "user", "assistant"),
    "hh_rlhf/harmless_base_test.jsonl.gz": ("pair", 1126, "user", "assistant"),
    "ifeval/input_data.jsonl": ("prompt", 541, "user", None),
    "kto_demo/kto_en_demo.jsonl": ("unpaired", 300, "user", "assistant"),
    "knowundo/privacy_retention_train.jsonl": ("prompt_completion", 441, "user", "assistant"),
    "muse/books_forget_qa.jsonl": ("question_answer", 100, "user", "assistant"),
    "pistol/sample_data_1.jsonl": ("question_answer", 400, "user", "assistant"),
    "rwku/forget_level1.jsonl": ("question_answer", 320, "user", "assistant"),
    "rwku/passage.jsonl": ("text", 30, None, "text"),
    "rwku/reject.jsonl": ("instruction", 120, "user", "assistant"),
    "text_to_sql/sql_create_context.jsonl": ("question_answer", 334, "user", "assistant"),
    "tinyshakespeare/input.txt.gz": ("text", 18, None, "text"),
    "tofu/forget01.jsonl": ("prompt_completion", 40, "user", "assistant"),
    "tofu/retain90.jsonl": ("question_answer", 1200, "user", "assistant"),
    "tool_calling/glaive_toolcall_en_demo.jsonl": ("sharegpt", 300, "user", "assistant"),
    "tool_calling/reason_tool_use_demo_50.jsonl": ("messages", 50, "user", "assistant"),
    "ultrafeedback/train_clean.jsonl.gz": ("pair", 498, "user", "assistant"),
    "wikitext2/valid.txt.gz": ("text", 18, None, "text"),
    "xstest/xstest_prompts.jsonl": ("prompt", 448, "user", None),
}


@pytest.mark.parametrize("name", REAL)
def test_real_data(name: str) -> None:
    path = shared(f"data/{name}")
    shape, count, asker, answerer = REAL[name]
    source = quiet(path)
    records = list(source)
    first = records[0]
    assert (source.shape, len(records)) == (shape, count)
    assert (first.prompt[-1].role if first.prompt else None) == asker
    assert (first.responses[0].messages[0].role if first.responses else None) == answerer
    assert first.source == f"{path.name}:1"
    assert len(first.responses) == {"pair": 2, "prompt": 0}.get(shape, 1)
    assert all(turn.content for turn in first.prompt)


@pytest.mark.parametrize("name", ["arc/easy_test.jsonl", "mmlu/dev.jsonl", "piqa/valid.jsonl", "winogrande/train_s.jsonl", "adult_income/adult.csv"])
def test_real_data_that_is_no_training_data_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r":[12]: the row has the fields .*, in which no shape is recognised; name the fields"):
        quiet(shared(f"data/{name}"))
