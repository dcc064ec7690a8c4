"""Exact loss masks, against expectations written by hand, on the behaviours of five chat templates."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tempering.data import DataError, prompt_ids, render, with_template
from tempering.errors import UserError
from tempering.types import Message, Segment
from tests.conftest import make_tokenizer

TEMPLATES = Path(__file__).parent.parent / "fixtures" / "templates"
EXTRA = [
    "<|begin|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
]
FAMILIES = {
    "chatml": ("<|endoftext|>", "<|im_end|>"),
    "llama3": ("<|begin|>", "<|eot_id|>"),
    "gemma": ("<s>", "<end_of_turn>"),
    "mistral": ("<s>", "</s>"),
    "qwen": ("<|endoftext|>", "<|im_end|>"),
    "qwen_marked": ("<|endoftext|>", "<|im_end|>"),
}


def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    made = make_tokenizer((TEMPLATES / f"{family}.jinja").read_text("utf-8").rstrip("\n"))
    made.add_special_tokens({"additional_special_tokens": EXTRA})
    made.bos_token, made.eos_token = FAMILIES[family]
    return made


def turns(*said: str) -> tuple[Message, ...]:
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool", "x": "text"}
    return tuple(Message(roles[text[0]], text[2:]) for text in said)


def assistants(messages: Sequence[Message]):
    return lambda i: messages[i].role == "assistant"


def runs(segment: Segment, tokenizer) -> list[tuple[str, bool]]:
    """The text of each run of tokens and whether it is trained."""
    groups = groupby(zip(segment.ids.tolist(), segment.weight.tolist(), strict=True), key=lambda pair: pair[1] > 0)
    return [(tokenizer.decode([i for i, _ in group]), on) for on, group in groups]


PLAIN_CHAT = turns("s:Be kind.", "u:Hi there", "a:Hello!", "u:Bye", "a:See you.")
NO_SYSTEM = PLAIN_CHAT[1:]
THOUGHT = turns("u:2+2?", "a:<think>\nadd\n</think>\n\nIt is 4.")

EXPECTED = {
    "chatml": (
        PLAIN_CHAT,
        [
            ("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n", False),
            ("Hello!<|im_end|>", True),
            ("\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n", False),
            ("See you.<|im_end|>", True),
            ("\n", False),
        ],
    ),
    "llama3": (
        PLAIN_CHAT,
        [
            (
                "<|begin|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\nHi there<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
                False,
            ),
            ("Hello!<|eot_id|>", True),
            ("<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", False),
            ("See you.<|eot_id|>", True),
        ],
    ),
    "gemma": (
        NO_SYSTEM,
        [
            ("<s><start_of_turn>user\nHi there<end_of_turn>\n<start_of_turn>model\n", False),
            ("Hello!<end_of_turn>", True),
            ("\n<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n", False),
            ("See you.<end_of_turn>", True),
            ("\n", False),
        ],
    ),
    "mistral": (
        PLAIN_CHAT,
        [
            ("<s>[INST] Be kind.\n\nHi there[/INST]", False),
            (" Hello!</s>", True),
            ("[INST] Bye[/INST]", False),
            (" See you.</s>", True),
        ],
    ),
    "qwen": (
        THOUGHT,
        [
            ("<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n", False),
            ("<think>\nadd\n</think>\n\nIt is 4.<|im_end|>", True),
            ("\n", False),
        ],
    ),
    "qwen_marked": (
        turns("u:2+2?", "a:<think>\nadd\n</think>\n\nIt is 4.", "u:Sure?", "a:Yes."),
        [
            ("<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n", False),
            ("It is 4.<|im_end|>", True),
            ("\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n", False),
            ("Yes.<|im_end|>", True),
            ("\n", False),
        ],
    ),
}


@pytest.mark.parametrize("family", EXPECTED)
def test_masks_are_those_written_by_hand(family: str) -> None:
    tokenizer = tokenizer_of(family)
    messages, expected = EXPECTED[family]
    segment = render(tokenizer, messages, trained=assistants(messages), source="train.jsonl:1")
    assert runs(segment, tokenizer) == expected
    whole = tokenizer.apply_chat_template([{"role": m.role, "content": m.content} for m in messages])["input_ids"]
    assert segment.ids.tolist() == whole
    assert segment.source == "train.jsonl:1"
    assert (segment.ids.dtype, segment.weight.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("family", EXPECTED)
def test_what_precedes_the_last_answer_is_the_prompt_at_inference(family: str) -> None:
    tokenizer = tokenizer_of(family)
    messages, _ = EXPECTED[family]
    last = len(messages) - 1
    segment = render(tokenizer, messages, trained=lambda i: i == last)
    prompt = prompt_ids(tokenizer, messages[:last])
    assert segment.ids[: len(prompt)].tolist() == prompt
    assert np.flatnonzero(segment.weight)[0] == len(prompt)
    assert sum(on for _, on in runs(segment, tokenizer)) == 1


def test_ids_and_mask_by_hand() -> None:
    vocab = {"<|im_start|>": 0, "<|im_end|>": 1, "user": 2, "assistant": 3, "\n": 4, "hi": 5, "yo": 6, "?": 7}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|\w+"), "isolated")
    inner.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", unk_token="?")
    tokenizer.chat_template = (TEMPLATES / "chatml.jinja").read_text("utf-8")
    segment = render(tokenizer, turns("u:hi", "a:yo"), trained=lambda i: i == 1)
    assert segment.ids.tolist() == [0, 2, 4, 5, 1, 4, 0, 3, 4, 6, 1, 4]
    assert segment.weight.tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0]
    assert prompt_ids(tokenizer, turns("u:hi")) == [0, 2, 4, 5, 1, 4, 0, 3, 4]


def test_everything_but_the_first_token_is_trained_on_request() -> None:
    tokenizer = tokenizer_of("llama3")
    segment = render(tokenizer, NO_SYSTEM, trained=lambda i: True)
    assert segment.weight.tolist() == [0.0] + [1.0] * (len(segment.ids) - 1)
    assert not render(tokenizer, NO_SYSTEM, trained=None).weight.any()


def test_a_conversation_that_begins_with_the_assistant() -> None:
    tokenizer = tokenizer_of("chatml")
    messages = turns("a:Welcome.", "u:Hi", "a:Yes?")
    assert [text for text, on in runs(render(tokenizer, messages, trained=assistants(messages)), tokenizer) if on] == [
        "Welcome.<|im_end|>",
        "Yes?<|im_end|>",
    ]


def test_plain_text_has_bos_by_convention_and_eos_and_trains_all() -> None:
    tokenizer = make_tokenizer(None)
    assert runs(render(tokenizer, turns("x:ab"), trained=lambda i: True), tokenizer) == [("a", False), ("b<|im_end|>", True)]
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    assert runs(render(tokenizer, turns("x:ab"), trained=lambda i: True), tokenizer) == [("<|endoftext|>", False), ("ab<|im_end|>", True)]
    assert tokenizer.decode(prompt_ids(tokenizer, turns("x:ab"))) == "<|endoftext|>ab"


def test_tools_and_calls_are_rendered() -> None:
    tokenizer = tokenizer_of("qwen")
    call = {"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}
    messages = (Message("user", "1+1?"), Message("assistant", "", (call,)), Message("tool", "2"), Message("assistant", "It is 2."))
    tools = ({"type": "function", "function": {"name": "add"}},)
    segment = render(tokenizer, messages, trained=assistants(messages), tools=tools)
    trained = [text for text, on in runs(segment, tokenizer) if on]
    assert trained == ['<tool_call>{"name": "add", "arguments": {"x": 1}}</tool_call><|im_end|>', "It is 2.<|im_end|>"]
    assert tokenizer.decode(segment.ids).startswith('<|im_start|>system\n{"type": "function", "function": {"name": "add"}}\n<|im_end|>\n')


REFUSED = {
    "history rewritten": ("qwen", (*THOUGHT, *turns("u:Sure?", "a:Yes.")), {}, "history_rewritten", ["turn 1 (assistant)", "train_on"]),
    "no system role": ("gemma", PLAIN_CHAT, {}, "template_refuses", ["System role not supported", "leave it out"]),
    "tools not shown": ("chatml", NO_SYSTEM, {"tools": ({"name": "add"},)}, "tools_ignored", ["tools", "remove the tools"]),
    "call not shown": (
        "chatml",
        (Message("user", "1+1?"), Message("assistant", "", ({"type": "function", "function": {"name": "add", "arguments": {}}},))),
        {},
        "tools_ignored",
        ["turn 1", "'add'", "content"],
    ),
    "text and chat": ("chatml", turns("x:text", "u:Hi"), {}, "mixed", ["record of their own"]),
    "no messages": ("chatml", (), {}, "no_turns", ["at least one turn"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_source_turn_and_mend(case: str) -> None:
    family, messages, options, code, words = REFUSED[case]
    with pytest.raises(DataError) as caught:
        render(tokenizer_of(family), messages, trained=assistants(messages), source="a.jsonl:7", **options)
    assert caught.value.code == code
    assert str(caught.value).startswith("a.jsonl:7: ")
    assert [w for w in words if w not in str(caught.value)] == []


def test_the_last_turn_of_a_template_that_strips_thoughts_is_exact() -> None:
    tokenizer = tokenizer_of("qwen")
    messages = (*THOUGHT, *turns("u:Sure?", "a:<think>\nhm\n</think>\n\nYes."))
    assert runs(render(tokenizer, messages, trained=lambda i: i == 3), tokenizer) == [
        (
            "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\nIt is 4.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n",
            False,
        ),
        ("<think>\nhm\n</think>\n\nYes.<|im_end|>", True),
        ("\n", False),
    ]


def test_a_generation_prompt_that_training_text_lacks_is_refused() -> None:
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = tokenizer.chat_template.replace(r"{{ '<|im_start|>assistant\n' }}", r"{{ '<|im_start|>assistant\n<think>' }}")
    with pytest.raises(DataError, match="another generation prompt") as caught:
        render(tokenizer, turns("u:Hi", "a:Yes"), trained=lambda i: i == 1, source="a.jsonl:1")
    assert caught.value.code == "prompt_differs"


def test_markers_that_miss_a_turn_are_refused() -> None:
    tokenizer = tokenizer_of("qwen_marked")
    tokenizer.chat_template = tokenizer.chat_template.replace("message['role'] == 'assistant'", "message['role'] == 'assistant' and loop.last")
    messages = turns("u:a", "a:b", "u:c", "a:d")
    with pytest.raises(DataError, match="show 1 answers, but the conversation has 2"):
        render(tokenizer, messages, trained=assistants(messages))


def straddling() -> PreTrainedTokenizerFast:
    """A tokenizer that joins two line ends into one token, so that an answer that begins with one merges with the header's."""
    inner = Tokenizer(models.BPE(vocab={"<|im_end|>": 0, "\n": 1, "\n\n": 2, "x": 3, "y": 4}, merges=[("\n", "\n")]))
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>")
    made.chat_template = "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %}{{ '\n' }}{% else %}{{ eos_token }}{% endif %}{% endfor %}"
    return made


def test_a_token_that_straddles_the_mask_is_refused_or_split() -> None:
    messages = turns("u:x", "a:\ny")
    with pytest.raises(DataError, match=r"straddles the start of turn 1 \(assistant\)") as caught:
        render(straddling(), messages, trained=assistants(messages), source="a.jsonl:1")
    assert caught.value.code == "straddle"
    split = render(straddling(), messages, trained=assistants(messages), boundary="split")
    assert (split.ids.tolist(), split.weight.tolist()) == ([3, 1, 1, 4, 0], [0, 0, 1, 1, 1])
    assert prompt_ids(straddling(), messages[:1]) == [3, 1]


def test_a_token_that_straddles_the_end_is_refused() -> None:
    tokenizer = straddling()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %}{{ '\n' }}{% endif %}{% endfor %}"
    with pytest.raises(DataError, match=r"straddles the end of turn 1 \(assistant\)"):
        render(tokenizer, turns("u:x", "a:y\n", "u:\nx"), trained=lambda i: i == 1)


def test_base_models_need_a_template_chosen_by_name(tmp_path: Path) -> None:
    base = make_tokenizer(None)
    with pytest.raises(DataError, match="template=plain") as caught:
        render(base, NO_SYSTEM, trained=None)
    assert caught.value.code == "no_template"
    plain = with_template(base, "plain")
    assert base.chat_template is None
    assert runs(render(plain, PLAIN_CHAT, trained=assistants(PLAIN_CHAT)), plain) == [
        ("Be kind.\n\nUser: Hi there\n\nAssistant:", False),
        (" Hello!<|im_end|>", True),
        ("\n\nUser: Bye\n\nAssistant:", False),
        (" See you.<|im_end|>", True),
        ("\n\n", False),
    ]
    own = tmp_path / "own.jinja"
    own.write_text("{{ messages[0].content }}", "utf-8")
    assert prompt_ids(with_template(base, str(own)), turns("u:ab")) == base("ab")["input_ids"]
    with pytest.raises(UserError, match="neither"):
        with_template(base, "no_such_file.jinja")


def test_a_template_that_writes_bos_gives_one_bos() -> None:
    tokenizer = tokenizer_of("llama3")
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", bos)])
    assert render(tokenizer, NO_SYSTEM, trained=None).ids.tolist().count(bos) == 1
    assert prompt_ids(tokenizer, NO_SYSTEM[:1]).count(bos) == 1
