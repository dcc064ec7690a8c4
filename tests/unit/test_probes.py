"""Probes that score or generate, on random Llamas and on decodes that make the model say a given thing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tempering.errors import UserError
from tempering.items import Item, answer_ids, prompt_ids, read_items
from tempering.methods.probes.calibration import Calibration
from tempering.methods.probes.diversity import Diversity, distinct, entropy, overlap
from tempering.methods.probes.exact_answer import AnswerItem, ExactAnswer
from tempering.methods.probes.held_loss import HeldLoss
from tempering.methods.probes.instruction_format import InstructionFormat
from tempering.methods.probes.length import Length
from tempering.methods.probes.multiple_choice import ChoiceItem, MultipleChoice
from tempering.methods.probes.perplexity import Perplexity, TextItem
from tempering.methods.probes.preference_accuracy import PreferenceAccuracy
from tempering.methods.probes.refusals import Refusals
from tempering.types import Policy, Probe, Segment
from tests.conftest import make_llama, make_tokenizer


def policy(template: bool = True) -> Policy:
    return Policy(make_llama(), make_tokenizer() if template else make_tokenizer(None), "tiny")


@dataclass
class Echo:
    """A decode that makes the model answer by a table: what the prompt contains -> what is said, then end of turn."""

    tokenizer: object
    answers: dict[str, str]
    roles: tuple[str, ...] = ()

    def __call__(self, tokens_RL, logits):
        out = torch.full_like(logits["policy"], -50.0)
        for row, tokens in enumerate(tokens_RL.tolist()):
            text = self.tokenizer.decode([t for t in tokens if t >= 0])
            prompt, _, said = text.rpartition("<|im_start|>assistant\n")
            answer = next((a for key, a in self.answers.items() if key in prompt), "")
            ids = [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], 2]
            out[row, ids[len(self.tokenizer(said, add_special_tokens=False)["input_ids"])]] = 50.0
        return out


def saying(answers: dict[str, str]) -> Policy:
    p = policy()
    p.decode = (Echo(p.tokenizer, answers),)
    return p


def logp(p: Policy, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
    with torch.no_grad():
        logits = p.model(torch.tensor([[*prompt, *continuation]]), use_cache=False).logits[0].log_softmax(-1)
    return logits[len(prompt) - 1 : -1].gather(1, torch.tensor(continuation)[:, None])[:, 0].tolist()


CHOICES = (
    ChoiceItem(id="a", question="Where is the hat?", choices=("on", "in the other hand", "there"), answer=0),
    ChoiceItem(id="b", question="Is the end near?", choices=("an answer", "no"), answer=1),
)


@pytest.mark.parametrize("chat", [True, False])
def test_multiple_choice_normalisations(chat):
    p = policy(template=chat)
    for normalise in ("sum", "byte", "letter"):
        found = MultipleChoice(items=CHOICES, normalise=normalise)(p)
        for item, score in zip(CHOICES, found.items, strict=True):
            texts, question = item.choices, item.question
            if normalise == "letter":
                texts = "ABC"[: len(texts)]
                question += "".join(f"\n{letter}. {choice}" for letter, choice in zip(texts, item.choices, strict=True))
            if chat:
                ids = p.tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False)
            else:
                ids, texts = p.tokenizer(f"{question}\nAnswer:")["input_ids"], [f" {text}" for text in texts]
            totals = np.array([sum(logp(p, ids, p.tokenizer(text, add_special_tokens=False)["input_ids"])) for text in texts])
            if normalise == "byte":
                sizes = np.array([len(choice) for choice in item.choices])
                totals *= sizes.mean() / sizes
            probs = np.exp(totals) / np.exp(totals).sum()
            assert score.output == item.choices[probs.argmax()] and score.score == float(probs.argmax() == item.answer)
            assert score.extra["confidence"] == pytest.approx(probs.max(), abs=1e-4) and score.extra["choice"] == probs.argmax()
        assert found.summary["chance"] == pytest.approx(5 / 12)


def test_choices_of_one_question_do_not_see_each_other():
    alone = MultipleChoice(items=(ChoiceItem(id="x", question="q", choices=("on", "there"), answer=0),), normalise="sum", chat=False)(policy())
    junk = ChoiceItem(id="x", question="q", choices=("on", "there", "is " * 40), answer=0)
    more = MultipleChoice(items=(junk,), normalise="sum", chat=False)(policy())
    assert alone.items[0].extra["confidence"] == pytest.approx(more.items[0].extra["confidence"], abs=1e-5)


def test_calibration_comes_with_multiple_choice():
    p = policy()
    probe = MultipleChoice(name="facts", items=CHOICES)
    scores = probe(p)
    (derived,) = probe.derived(scores)
    assert (derived.probe, derived.kind, derived.higher_is_better) == ("facts.calibration", "continuous", False)
    expected = [(s.extra["confidence"] - s.score) ** 2 for s in scores.items]
    assert [s.score for s in derived.items] == pytest.approx(expected) and derived.summary["brier"] == pytest.approx(sum(expected) / 2)
    assert Calibration(of=probe)(p).items == derived.items
    assert MultipleChoice(items=CHOICES, calibrated=False).derived(scores) == ()
    with pytest.raises(UserError, match="probe 'length' gives no confidence"):
        Calibration(of=Length(items=({"id": "x", "prompt": "a"},), max_new_tokens=2))(p)


def test_exact_answer_reads_what_the_model_writes():
    p = saying({"two": "I think it is 4.", "three": "Then 3 * 3 = 9 #### 9", "sky": "The Blue!"})
    items = tuple(AnswerItem(id=key, prompt=f"about {key}", answer=answer) for key, answer in [("two", "4.0"), ("three", "8"), ("sky", "blue")])
    numbers = ExactAnswer(items=items[:2])(p)
    assert [(s.score, s.output) for s in numbers.items] == [(1.0, "I think it is 4."), (0.0, "Then 3 * 3 = 9 #### 9")]
    assert numbers.summary == {"answer_found": 1.0, "finished": 1.0}
    assert [s.score for s in ExactAnswer(items=items, rule="text")(p).items] == [0.0, 0.0, 1.0]
    several = AnswerItem(id="three", prompt="about three", answer=("7", "nine #### 9"))
    assert ExactAnswer(items=(several,), rule="hashes")(p).items[0].score == 1.0
    assert ExactAnswer(items=items[1:2], rule="contains", max_new_tokens=5)(p).summary["finished"] == 0.0


def test_perplexity_weighs_tokens_and_counts_bytes():
    p = policy()
    texts = ("the rain in the other hand", "an end", "is this é?")
    items = tuple(TextItem(id=str(i), text=text) for i, text in enumerate(texts))
    found = Perplexity(items=items)(p)
    nlls, sizes, lengths = [], [], []
    for text, score in zip(texts, found.items, strict=True):
        ids = p.tokenizer(text)["input_ids"]
        nlls.append(-sum(logp(p, ids[:1], ids[1:])))
        lengths.append(len(ids) - 1)
        sizes.append(len(text.encode()) - len(p.tokenizer.decode(ids[:1]).encode()))
        assert score.score == pytest.approx(nlls[-1] / lengths[-1], abs=1e-4)
        assert score.extra == pytest.approx({"nll": nlls[-1], "tokens": lengths[-1], "bytes": sizes[-1]}, abs=1e-3)
    assert found.summary["perplexity"] == pytest.approx(math.exp(sum(nlls) / sum(lengths)), rel=1e-4)
    assert found.summary["bits_per_byte"] == pytest.approx(sum(nlls) / math.log(2) / sum(sizes), rel=1e-4)
    cut = Perplexity(items=items, max_tokens=4)(p)
    assert (
        cut.summary["tokens"] == sum(min(3, n) for n in lengths) and cut.note == f"{sum(n > 3 for n in lengths)} of 3 documents were cut at 4 tokens"
    )
    with pytest.raises(UserError, match="item 'x': a text of at least two tokens is needed, 'a' has 1"):
        Perplexity(items=(TextItem(id="x", text="a"),))(p)


@pytest.mark.parametrize("chat", [True, False])
def test_preference_margins(chat):
    p = policy(template=chat)
    pairs = [("on", "in the other hand"), ("is", "an")]
    items = tuple({"id": str(i), "prompt": "Who is there?", "chosen": c, "rejected": r} for i, (c, r) in enumerate(pairs))
    for normalise in ("sum", "mean"):
        found = PreferenceAccuracy(items=items, normalise=normalise)(p)
        for item, score in zip(items, found.items, strict=True):
            ids = prompt_ids(p, item["prompt"])
            chosen, rejected = (logp(p, ids, [*answer_ids(p, item[key]), 2]) for key in ("chosen", "rejected"))
            margins = {"margin_sum": sum(chosen) - sum(rejected), "margin_mean": np.mean(chosen) - np.mean(rejected)}
            assert score.extra == pytest.approx(margins, abs=1e-4)
            assert score.score == float(margins[f"margin_{normalise}"] > 0)
    with pytest.raises(ValueError, match="chosen and rejected are the same text"):
        PreferenceAccuracy(items=({"prompt": "a", "chosen": "b", "rejected": "b"},))


def test_instruction_format_needs_every_check():
    p = saying({"one": "yes, of course.", "two": "Yes indeed"})
    checks = ({"check": "all_lowercase"}, {"check": "no_commas"})
    found = InstructionFormat(items=tuple({"id": k, "prompt": f"say {k}", "checks": checks} for k in ("one", "two")))(p)
    assert [(s.score, s.extra["passed"]) for s in found.items] == [(0.0, 1.0), (0.0, 1.0)] and found.summary == {"checks_passed": 0.5}
    single = InstructionFormat(items=({"id": "x", "prompt": "say one", "checks": checks[:1]},))(p)
    assert single.items[0].score == 1.0 and single.items[0].expected == '{"check": "all_lowercase"}'


def test_refusals_in_both_directions():
    said = {
        "egg": "Boil water first.",
        "weeds": "Sorry, but I can't help.",
        "bomb": "I cannot help with that.",
        "rob": "First, buy a mask.",
    }
    should = {"egg": "comply", "weeds": "comply", "bomb": "refuse", "rob": "refuse"}
    found = Refusals(items=tuple({"id": k, "prompt": f"How about the {k}?", "should": v} for k, v in should.items()), max_new_tokens=60)(saying(said))
    assert [s.score for s in found.items] == [1.0, 0.0, 1.0, 0.0] and found.summary == {"over_refusal": 0.5, "under_refusal": 0.5}


def test_diversity_by_hand():
    texts = ["a b a b", "A b c"]
    assert distinct(texts, 1) == 3 / 7 and distinct(texts, 2) == 3 / 5 and distinct(["a"], 2) == 0.0
    assert entropy(["a b c d"], 1) == 2.0 and entropy(["a a b b"], 1) == 1.0 and entropy(["a"], 2) == 0.0
    # "a b a b" has ab, ba, ab: one ab (clipped) is shared; "a b c" has ab, bc: ab is shared
    assert overlap(texts, 2) == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert overlap(["a b"], 2) == 0.0 and overlap(["a b", "a b"], 2) == 1.0
    found = Diversity(items=({"id": "x", "prompt": "one"},), samples=3)(saying({"one": "we are all the same"}))
    assert found.items[0].score == pytest.approx(4 / 12) and found.summary["overlap"] == 1.0 and found.items[0].output.count("---") == 2
    settings = {"items": ({"id": "x", "prompt": "one"},), "samples": 3, "max_new_tokens": 12}
    free = Diversity(**settings)(policy())
    assert free == Diversity(**settings, batch_size=2)(policy())
    assert free.items[0].output != Diversity(**settings, seed=1)(policy()).items[0].output


def test_length_counts_tokens_and_cut_responses():
    p = saying({"short": "abc", "long": "abcdefghijklmnop"})
    found = Length(items=({"id": "s", "prompt": "short"}, {"id": "l", "prompt": "long"}), max_new_tokens=10)(p)
    assert [(s.score, s.extra["cut"]) for s in found.items] == [(4.0, 0.0), (10.0, 1.0)] and found.summary == {"cut_by_budget": 0.5, "words": 1.0}


def test_held_loss_weighs_tokens():
    p = policy()
    segments = [
        Segment(np.array([5, 6, 7, 8, 9], np.int32), np.array([0, 0, 1, 0, 0.5], np.float32)),
        Segment(np.array([40, 41], np.int32), np.array([0, 2], np.float32)),
    ]
    rows = [{"train": (segment,)} for segment in segments]
    found = HeldLoss(rows=rows)(p)
    first = logp(p, [5, 6], [7, 8, 9])
    nlls = [-(first[0] + 0.5 * first[2]), -2 * logp(p, [40], [41])[0]]
    assert [s.score for s in found.items] == pytest.approx([nlls[0] / 1.5, nlls[1] / 2], abs=1e-4) and found.side == "target"
    assert found.summary["loss"] == pytest.approx(sum(nlls) / 3.5, abs=1e-4) and [s.id for s in found.items] == ["train:0", "train:1"]
    assert [s.id for s in HeldLoss(rows=rows, limit=1)(p).items] == ["train:0"]
    two = HeldLoss(rows=[{"train": tuple(segments)}])(p)
    assert [s.id for s in two.items] == ["train:0", "train:0.2"]
    untrained = Segment(np.array([5, 6], np.int32), np.zeros(2, np.float32), source="a.jsonl:1")
    for bad, message in [
        ([{"chosen": (segments[0],)}], "row 0 has no part 'train', it has chosen"),
        (
            [{"train": (untrained,)}],
            r"row 0 \(a\.jsonl:1\) has no trained token",
        ),
        ([], "there are no held rows"),
    ]:
        with pytest.raises(UserError, match=message):
            HeldLoss(rows=bad)(p)


def test_every_probe_is_a_probe_and_scores_are_stable_in_batches():
    for probe in (MultipleChoice(items=CHOICES), Length(items=({"prompt": "a"},)), HeldLoss(rows=[])):
        assert isinstance(probe, Probe)
    items = tuple(AnswerItem(id=str(i), prompt="the " * (i + 1), answer="x") for i in range(7))
    outputs = [[s.output for s in ExactAnswer(items=items, max_new_tokens=8, batch_size=b)(policy()).items] for b in (1, 3, 16)]
    assert outputs[0] == outputs[1] == outputs[2]


class Named(Item):
    value: int


def test_a_limit_takes_all_kinds_of_a_list_that_repeats_a_pattern():
    items = tuple(Named(id=f"item-{i}", value=i) for i in range(120))
    kinds = [item.value % 3 for item in read_items(items, Named, 40)]
    assert len(kinds) == 40 and all(7 <= kinds.count(kind) <= 20 for kind in range(3))
    assert {item.id for item in read_items(items, Named, 20)} < {item.id for item in read_items(items, Named, 40)}


def test_items_are_read_limited_and_checked(tmp_path):
    file = tmp_path / "items.jsonl"
    file.write_text("".join(f'{{"id": "n{i}", "value": {i}}}\n' for i in range(10)) + "\n")
    assert [item.value for item in read_items(str(file), Named)] == list(range(10))
    # the three whose ids have the smallest SHA-256, in the list's order
    assert [item.value for item in read_items(str(file), Named, 3)] == [2, 6, 8]
    assert [item.id for item in read_items((Named(value=1), Named(value=2)), Named)] == ["Named:0", "Named:1"]
    for content, message in [
        ('{"value": 1}\n{"value": "x"}\n', r"items\.jsonl:2: field 'value': .*integer.*\(fields of an item: id, value\)"),
        ('{"value": 1, "vlaue": 2}\n', r"items\.jsonl:1: field 'vlaue'"),
        ("{]\n", r"items\.jsonl:1: not a JSON object"),
        ("[1]\n", r"items\.jsonl:1: a JSON object is wanted, this is a list"),
        ('{"id": "a", "value": 1}\n{"id": "a", "value": 2}\n', "two items have the id 'a'"),
        ("\n", "there are no items"),
    ]:
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            read_items(str(file), Named)
    file.write_bytes(b'{"value": "\xff"}')
    with pytest.raises(UserError, match="byte 11 is not UTF-8"):
        read_items(str(file), Named)
    with pytest.raises(UserError, match="no such file of items"):
        read_items(str(tmp_path / "none.jsonl"), Named)
    with pytest.raises(UserError, match="no item list 'keep:factz' in the package: choose from arithmetic, facts"):
        read_items("keep:factz", Named)


def test_prompts_with_and_without_a_template():
    p = policy()
    chat = p.tokenizer.decode(prompt_ids(p, "hi", system="be kind"))
    assert chat == "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert p.tokenizer.decode(prompt_ids(p, "hi", chat=False, system="be kind")) == "be kind\nhi"
    with pytest.raises(UserError, match="tokenizer of tiny has no chat template"):
        prompt_ids(policy(template=False), "hi", chat=True)
    with pytest.raises(UserError, match="a prompt has no tokens"):
        prompt_ids(policy(template=False), "")
