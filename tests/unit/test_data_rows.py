"""Views of records: what is trained, what is cut, what is dropped and counted; and rows on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempering.data import DataError, RowReport, Table, best_response, pair_row, pairs, ranked_row, sft_row, text_row, text_rows, unpaired_row
from tempering.errors import UserError
from tempering.types import Message, Record, Response, Row, Segment
from tests.conftest import make_tokenizer

TOKENIZER = make_tokenizer()


def m(role: str, text: str) -> Message:
    return Message({"s": "system", "u": "user", "a": "assistant", "x": "text"}[role], text)


def record(*responses: Response, better: Any = (), prompt: str = "Hi", **more: Any) -> Record:
    return Record((m("u", prompt),), responses, better, "1", "a.jsonl:1", **more)


def answer(text: str, **more: Any) -> Response:
    return Response((m("a", text),), **more)


def trained(segment: Segment) -> str:
    return TOKENIZER.decode(segment.ids[segment.weight != 0])


TWO = record(Response((m("a", "one"), m("u", "and"), m("a", "two"))))
TRAIN_ON = {
    "assistant": ["one<|im_end|>two<|im_end|>"],
    "last": ["two<|im_end|>"],
    "each": ["one<|im_end|>", "two<|im_end|>"],
    "all": ["user\nHi<|im_end|>\n<|im_start|>assistant\none<|im_end|>\n<|im_start|>user\nand<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n"],
}


@pytest.mark.parametrize("train_on", TRAIN_ON)
def test_train_on(train_on: Any) -> None:
    row = sft_row(TWO, TOKENIZER, train_on=train_on)
    assert row is not None
    assert [trained(s) for s in row["train"]] == TRAIN_ON[train_on]


def test_each_turn_sees_its_own_history_only() -> None:
    row = sft_row(TWO, TOKENIZER, train_on="each")
    assert row is not None
    assert TOKENIZER.decode(row["train"][0].ids) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\none<|im_end|>\n"


def test_answers_in_the_prompt_are_context() -> None:
    history = Record((m("u", "Hi"), m("a", "old"), m("u", "And?")), (answer("new"), answer("bad")), ((0, 1),), source="a.jsonl:1")
    row, pair = sft_row(history, TOKENIZER), pair_row(history, TOKENIZER)
    assert row is not None and pair is not None
    assert [trained(s) for s in (*row["train"], *pair["chosen"], *pair["rejected"])] == ["new<|im_end|>", "new<|im_end|>", "bad<|im_end|>"]


def test_turns_of_weight_zero_are_context() -> None:
    row = sft_row(record(*TWO.responses, tags={"untrained": (1,)}), TOKENIZER)
    assert row is not None
    assert trained(row["train"][0]) == "two<|im_end|>"


def test_the_weight_of_a_response_scales_its_tokens() -> None:
    row = sft_row(record(answer("yo", weight=0.25)), TOKENIZER)
    assert row is not None
    assert set(row["train"][0].weight.tolist()) == {0.0, 0.25}


def test_sft_imitates_the_best_response() -> None:
    assert best_response(record(answer("a"), answer("b"), better=((1, 0),))) == 1
    assert best_response(record(answer("a", score=1.0), answer("b", score=3.0), answer("c", score=2.0))) == 1
    with pytest.raises(DataError, match=r"a\.jsonl:1: has 2 answers and none is best"):
        best_response(record(answer("a"), answer("b")))
    with pytest.raises(DataError, match="a prompt without an answer"):
        sft_row(record(), TOKENIZER)


# "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n" is 6 + 4 + 1 + 1 + 11 tokens, an answer "yes" 3, its end 1, the newline after it 1
PROMPT, ALL = (
    len(TOKENIZER(TOKENIZER.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False))["input_ids"]),
    5,
)
YES = record(answer("yes"))
# (how, max_length): the text that is left, what is trained of it, what the report counts
CUTS: dict[tuple[Any, int], tuple[int | None, str, dict[str, int], dict[str, int]]] = {
    ("refuse_answer", PROMPT + ALL): (PROMPT + ALL, "yes<|im_end|>", {}, {}),
    ("refuse_answer", PROMPT + ALL - 1): (PROMPT + ALL - 1, "yes<|im_end|>", {"context": 1}, {}),
    ("refuse_answer", PROMPT + ALL - 2): (None, "", {}, {"too long": 1}),
    ("drop", PROMPT + ALL - 1): (None, "", {}, {"too long": 1}),
    ("right", PROMPT + ALL - 2): (PROMPT + ALL - 2, "yes", {"answer": 1}, {}),
    ("right", PROMPT): (None, "", {}, {"too long": 1}),
    ("left", PROMPT + ALL - 2): (PROMPT + ALL - 2, "yes<|im_end|>", {"context": 1}, {}),
    ("left", ALL + 1): (ALL + 1, "yes<|im_end|>", {"context": 1}, {}),
    ("left", ALL): (None, "", {}, {"too long": 1}),
}


@pytest.mark.parametrize("case", CUTS)
def test_an_answer_is_never_cut_in_silence(case: Any) -> None:
    how, length = case
    left, text, cut, dropped = CUTS[case]
    report = RowReport()
    row = sft_row(YES, TOKENIZER, max_length=length, truncate=how, report=report)
    assert (len(row["train"][0].ids) if row else None) == left
    assert (trained(row["train"][0]) if row else "") == text
    assert (dict(report.cut), dict(report.dropped), report.records, report.kept) == (cut, dropped, 1, int(row is not None))
    if row:
        assert row["train"][0].weight[0] == 0
    for reason in (*cut, *dropped):
        assert report.sources[reason] == ["a.jsonl:1"]


def test_the_report_is_one_sentence() -> None:
    report = RowReport()
    for r in (YES, record(answer("yes" * 99)), record(answer("no", label=False))):
        sft_row(r, TOKENIZER, max_length=40, report=report)
    tokens = PROMPT + ALL
    assert report.sentence() == (
        f"1 of 3 records, {tokens} tokens, 4 of them trained; 1 dropped (too long: a.jsonl:1); 1 dropped (undesirable: a.jsonl:1)."
    )


def test_left_keeps_bos() -> None:
    tokenizer = make_tokenizer(
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    )
    row = sft_row(record(answer("yz"), prompt="bcdfg"), tokenizer, max_length=5, truncate="left")
    assert row is not None
    assert tokenizer.decode(row["train"][0].ids) == "<|endoftext|>gyz<|im_end|>"


def test_pairs() -> None:
    scored = record(answer("a", score=1.0), answer("b", score=3.0), answer("c", score=2.0))
    assert pairs(scored) == [(1, 0), (1, 2), (2, 0)]
    assert pairs(scored, "best_worst") == [(1, 0)]
    row = pair_row(scored, TOKENIZER)
    assert row is not None
    assert {part: [(trained(s), s.extras) for s in segments] for part, segments in row.items()} == {
        "chosen": [("b<|im_end|>", {"score": 3.0, "margin": 2.0})],
        "rejected": [("a<|im_end|>", {"score": 1.0, "margin": 2.0})],
    }
    own = pair_row(record(answer("a"), answer("b"), better=((0, 1),)), TOKENIZER)
    assert own is not None and (trained(own["chosen"][0]), trained(own["rejected"][0])) == ("a<|im_end|>", "b<|im_end|>")
    with pytest.raises(DataError, match="no preferred and rejected answer"):
        pair_row(YES, TOKENIZER)


def test_a_pair_is_dropped_when_one_side_is() -> None:
    report = RowReport()
    assert pair_row(record(answer("a"), answer("b" * 99), better=((0, 1),)), TOKENIZER, max_length=50, report=report) is None
    assert (dict(report.dropped), report.kept) == ({"too long": 1}, 0)


def test_unpaired() -> None:
    for label, value in ((True, 1.0), (False, 0.0)):
        row = unpaired_row(record(answer("a", label=label)), TOKENIZER)
        assert row is not None and row["train"][0].extras == {"label": value}
    with pytest.raises(DataError, match="no label"):
        unpaired_row(YES, TOKENIZER)
    taken = unpaired_row(record(answer("a"), answer("b"), better=((0, 1),)), TOKENIZER, response=1, label=False)
    assert taken is not None and (trained(taken["train"][0]), taken["train"][0].extras) == ("b<|im_end|>", {"label": 0.0})


def text(content: str, **tags: Any) -> Record:
    return Record((), (Response((m("x", content),)),), source="a.txt:1", tags=tags)


def test_windows_of_a_text_train_every_token_once() -> None:
    windows = text_row(text("bcdfgjk"), TOKENIZER, max_length=4)["train"]
    assert [TOKENIZER.decode(w.ids) for w in windows] == ["bcdf", "fgjk", "k<|im_end|>"]
    assert [trained(w) for w in windows] == ["cdf", "gjk", "<|im_end|>"]
    assert [len(row["train"]) for row in text_rows(text("bcdfgjk"), TOKENIZER, max_length=4)] == [1, 1, 1]
    same = sft_row(text("bcdfgjk"), TOKENIZER, max_length=4)
    assert same is not None and [w.ids.tolist() for w in same["train"]] == [w.ids.tolist() for w in windows]


def test_pieces_of_one_text_have_no_end_between_them() -> None:
    assert TOKENIZER.decode(text_row(text("bcd", begins=True, ends=False), TOKENIZER)["train"][0].ids) == "bcd"
    assert TOKENIZER.decode(text_row(text("bcd", begins=False, ends=True), TOKENIZER)["train"][0].ids) == "bcd<|im_end|>"


WRONG = {
    "truncate": ({"truncate": "middle"}, 'truncate is "middle", but must be one of: refuse_answer'),
    "train_on": ({"train_on": "user"}, 'train_on is "user", but must be one of: assistant'),
    "max_length": ({"max_length": 1}, "max_length is 1, but must be at least 2 tokens"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case: str) -> None:
    options, words = WRONG[case]
    with pytest.raises(UserError, match=words):
        sft_row(YES, TOKENIZER, **options)


# ------------------------------------------------------------------------------------------------------------------------------------- tables


def test_a_ranking_is_a_row_of_rated_answers() -> None:
    row = ranked_row(record(answer("a", score=1.0), answer("b"), answer("c", score=2.0)), TOKENIZER)
    assert row is not None
    assert [(trained(s), s.extras) for s in row["responses"]] == [("a<|im_end|>", {"score": 1.0}), ("c<|im_end|>", {"score": 2.0})]
    report = RowReport()
    assert ranked_row(record(answer("a", score=1.0), answer("b")), TOKENIZER, report=report) is None
    assert report.dropped == {"fewer than two rated answers": 1}


def segment(n: int, source: str = "", **extras: Any) -> Segment:
    rng = np.random.default_rng(n)
    return Segment(rng.integers(0, 9, n).astype(np.int32), rng.integers(0, 2, n).astype(np.float32), extras, source)


def rows() -> list[Row]:
    logp = [np.linspace(-1, 0, n, dtype=np.float32) for n in (3, 0, 5)]
    return [
        {"chosen": (segment(3, "é.jsonl:1", label=1.0, **{"reference.logp": logp[0]}),), "rejected": (segment(2, "b"), segment(4))},
        {"chosen": (), "rejected": ()},
        {
            "chosen": (segment(0, "", label=-0.5, **{"reference.logp": logp[1]}), segment(5, "c", label=2.0, **{"reference.logp": logp[2]})),
            "rejected": (),
        },
    ]


def plain(row: Row) -> Any:
    def number(value: Any) -> Any:
        return value if isinstance(value, float) else (value.dtype.str, value.tolist())

    return {p: [(number(s.ids), number(s.weight), {k: number(v) for k, v in s.extras.items()}, s.source) for s in row[p]] for p in row}


def test_a_table_gives_back_what_went_in(tmp_path: Path) -> None:
    Table.build(iter(rows()), tmp_path / "t")
    table = Table.open(tmp_path / "t")
    assert len(table) == 3
    assert [plain(r) for r in table] == [plain(r) for r in rows()]
    assert plain(table[-1]) == plain(rows()[2])
    with pytest.raises(IndexError):
        table[3]
    assert (table.lengths("chosen").tolist(), table.lengths("rejected").tolist(), table.row_lengths().tolist()) == ([3, 0, 5], [2, 4], [9, 0, 5])
    counted = sum(int(np.count_nonzero(s.weight)) for r in rows() for part in r.values() for s in part)
    assert (table.manifest["rows"], table.manifest["tokens"], table.manifest["trained_tokens"]) == (3, 14, counted)
    table.verify()


def test_an_empty_table(tmp_path: Path) -> None:
    assert list(Table.build([], tmp_path / "t")) == []


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    prints = [Table.build(r, tmp_path / str(i)).fingerprint for i, r in enumerate((rows(), rows(), rows()[:2], []))]
    assert prints[0] == prints[1] and len(set(prints)) == 3


def test_a_column_is_added(tmp_path: Path) -> None:
    table = Table.build(rows(), tmp_path / "t")
    per_token = [np.arange(n, dtype=np.float32) for n in (3, 0, 5)]
    wider = table.with_column("chosen", "new.logp", iter(per_token)).with_column("rejected", "score", [1.5, 2])
    assert [s.extras["new.logp"].tolist() for r in wider for s in r["chosen"]] == [[0, 1, 2], [], [0, 1, 2, 3, 4]]
    assert [s.extras for s in wider[0]["rejected"]] == [{"score": 1.5}, {"score": 2.0}]
    assert plain(table[0]) == plain(rows()[0])
    assert wider.fingerprint != table.fingerprint
    wider.verify()


COLUMNS = {
    "too few": (("chosen", "x", [1.0]), "has only 1 values for the 3 segments"),
    "too many": (("chosen", "x", [1.0] * 4), "has more values for the 3 segments"),
    "wrong length": (("chosen", "x", [np.zeros(2)] * 3), r"segment 0: the value must be a number or an array \[3\]"),
    "mixed kinds": (("chosen", "x", [1.0, np.zeros(0), 1.0]), "segment 1: the value is of kind"),
    "taken": (("chosen", "label", [1.0] * 3), 'has the column "label" already'),
    "no part": (("train", "x", []), 'has no part "train"; its parts are: chosen, rejected'),
    "no file name": (("chosen", "../x", [1.0] * 3), "make no file name"),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_wrong_columns_leave_the_table_as_it_was(case: str, tmp_path: Path) -> None:
    (part, name, values), words = COLUMNS[case]
    table = Table.build(rows(), tmp_path / "t")
    before = sorted(os.listdir(tmp_path / "t"))
    with pytest.raises(UserError, match=words):
        table.with_column(part, name, values)
    assert sorted(os.listdir(tmp_path / "t")) == before
    assert Table.open(tmp_path / "t").fingerprint == table.fingerprint


def broken() -> Iterator[Row]:
    yield rows()[0]
    raise UserError("a.jsonl:2: wrong")


BUILDS = {
    "the rows fail": (broken, r"a\.jsonl:2: wrong"),
    "other parts": (lambda: [rows()[0], {"train": ()}], r"row 1: has the parts \['train'\], but the first row has"),
    "other extras": (lambda: [{"train": (segment(2, "s", label=1.0), segment(2, "t"))}], 't: part "train": has the extras'),
    "wrong weights": (
        lambda: [{"train": (Segment(np.zeros(3, np.int32), np.zeros(2, np.float32), {}, "s"),)}],
        r"s: part .train.: ids \(3,\) and weights",
    ),
    "a part that is no file name": (lambda: [{"a/b": ()}], "make no file name"),
}


@pytest.mark.parametrize("case", BUILDS)
def test_a_build_that_fails_leaves_nothing(case: str, tmp_path: Path) -> None:
    make, words = BUILDS[case]
    with pytest.raises(UserError, match=words):
        Table.build(make(), tmp_path / "t")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempering.data.table as module

    def full(self: Any, values: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module._Array, "add", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); free space"):
        Table.build(rows(), tmp_path / "t")
    assert os.listdir(tmp_path) == []


def test_an_existing_folder_is_kept_unless_it_is_a_table_to_overwrite(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "thesis.txt").write_text("years")
    with pytest.raises(UserError, match="exists already; give another folder"):
        Table.build(rows(), tmp_path / "t", overwrite=True)
    Table.build(rows(), tmp_path / "u")
    with pytest.raises(UserError, match="overwrite=True"):
        Table.build(rows()[:1], tmp_path / "u")
    assert len(Table.build(rows()[:1], tmp_path / "u", overwrite=True)) == 1
    assert sorted(os.listdir(tmp_path)) == ["t", "u"]


def test_damage_is_found(tmp_path: Path) -> None:
    table = Table.build(rows(), tmp_path / "t")
    path = tmp_path / "t" / "chosen.ids"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"chosen\.ids: has 31 bytes, but the manifest says 32; the table is damaged, build it again"):
        Table.open(tmp_path / "t")
    path.write_bytes(b"\xff" + content[1:])
    with pytest.raises(UserError, match="checksum differs"):
        table.verify()
    manifest = json.loads((tmp_path / "t" / "manifest.json").read_text())
    (tmp_path / "t" / "manifest.json").write_text(json.dumps(manifest | {"version": 99}))
    with pytest.raises(UserError, match="version 99"):
        Table.open(tmp_path / "t")
    (tmp_path / "t" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="is no table of rows"):
        Table.open(tmp_path / "t")
