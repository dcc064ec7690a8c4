"""The model card: front matter that a YAML reader reads, a ledger table with the ledger's numbers, and nothing untrusted that Markdown acts on."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from tempering import report
from tempering.errors import UserError
from tempering.ledger import Ledger, compare
from tempering.report.card import code, escape_markdown
from tempering.types import ItemScore, ProbeScores, Scores

EVIL = "a|b\n# head <script>x</script> [link](http://evil.example) ![i](x) `tick` **bold** http://evil.example www.evil.example $x$ \u202e"


def scores(right: list[int], name: str = "sums", side: Any = "target") -> Scores:
    items = tuple(ItemScore(f"{name}-{i}", float(i in right)) for i in range(100))
    return Scores("m", (ProbeScores(name, "accuracy", "binary", True, items, side),))


def ledger(name: str = "sums", side: Any = "target") -> Ledger:
    return compare(scores(list(range(40)), name, side), scores(list(range(4, 70)), name, side))


def front(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


CONFIGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"recipe": "sft", "values": {"model": "builtin:smollm2-135m", "data": "my.jsonl", "scope": {"kind": "lora"}}},
        {"library_name": "peft", "tags": ["tempering", "sft", "lora"], "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
         "base_model_relation": "adapter"},
    ),
    (
        {"recipe": "dpo", "values": {"model": "some-one/Base_7B.v2", "data": "some-one/pairs", "scope": {"kind": "full"}}},
        {"library_name": "transformers", "tags": ["tempering", "dpo", "full"], "base_model": "some-one/Base_7B.v2", "base_model_relation": "finetune",
         "datasets": ["some-one/pairs"]},
    ),
    ({"model": "/home/me/model", "data": "data/train.jsonl"}, {"library_name": "transformers", "tags": ["tempering"]}),
    ({"model": "../model: [x]\n- y", "recipe": "sft\nlicense: evil"}, {"library_name": "transformers", "tags": ["tempering", "sft\nlicense: evil"]}),
]  # fmt: skip


@pytest.mark.parametrize(("config", "expected"), CONFIGS)
def test_front_matter(config: dict[str, Any], expected: dict[str, Any]) -> None:
    assert front(report.model_card(config)) == {"pipeline_tag": "text-generation", **expected}


def test_the_ledger_in_short() -> None:
    made = ledger()
    card = report.model_card({"recipe": "sft", "model": "builtin:tiny"}, {}, made)
    assert made.sentence() in card
    row = "| sums (target) | 100 | 40% | 66% | +26 | 95%: +16 to +36 | 90% | 30 / 4 | gained |"
    assert row in card.splitlines()
    assert report.model_card({"recipe": "sft", "model": "builtin:tiny"}, {}, json.loads(made.to_json())) == card


def test_without_a_ledger_it_says_so() -> None:
    assert "It was not measured: there is no ledger." in report.model_card({"model": "builtin:tiny"})


def test_a_mapping_that_is_no_ledger_is_refused() -> None:
    with pytest.raises(UserError, match="the ledger of the model card is not a ledger"):
        report.model_card({"model": "builtin:tiny"}, {}, {"probes": []})


def test_where_it_came_from() -> None:
    lock = {"data": {"train": {"sha256": "ab12", "rows": 7}}, "versions": {"torch": "2.13.0"}, "machine": {"cpus": 2}}
    card = report.model_card({"model": "builtin:tiny"}, lock, None, command="temper run sft --data 'a ```b'")
    assert "- train.sha256: `ab12`\n- train.rows: `7`" in card
    assert "- torch: `2.13.0`" in card and "cpus" not in card
    assert card.endswith("## Command\n\n````sh\ntemper run sft --data 'a ```b'\n````\n")
    assert "## Command" not in report.model_card({"model": "builtin:tiny"}, lock)


def test_nothing_untrusted_acts_as_markdown() -> None:
    config = {"recipe": EVIL, "values": {"model": EVIL, "data": EVIL, "scope": {"kind": EVIL}}}
    card = report.model_card(config, {"data": {EVIL: EVIL}, "versions": {EVIL: EVIL}}, ledger(EVIL, "keep"), command=EVIL)
    assert "\u202e" not in card
    body = card.split("---\n", 2)[2]
    html = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(body)
    tags = {tag.lower() for tag in re.findall(r"<\s*([a-zA-Z0-9]+)", html)}
    assert tags == {"h1", "h2", "p", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    assert [len(re.findall(r"<t[hd]", row)) for row in rows] == [9, 9]
    assert len(re.findall("<h1>", html)) == 1


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain, 1.5% (ok)", "plain, 1.5% (ok)"),
        ("a_b*c*", r"a\_b\*c\*"),
        ("two\n lines", "two lines"),
        ("<b> & |", r"&lt;b&gt; &amp; \|"),
        ("see http://x.y and WWW.x.y", r"see http\://x.y and WWW\.x.y"),
    ],
)
def test_escape_markdown(text: str, escaped: str) -> None:
    assert escape_markdown(text) == escaped


@pytest.mark.parametrize(("text", "span"), [("a", "`a`"), ("a`b", "``a`b``"), ("`a``", "``` `a`` ```"), ("", "` `"), ("a|b\nc", "`a\u2223b c`")])
def test_code_spans(text: str, span: str) -> None:
    assert code(text) == span
