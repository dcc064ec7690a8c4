"""lm-evaluation-harness as a source of probes: local task files only, nothing is fetched."""

from __future__ import annotations

import json
import re

import pytest

from tempering.errors import UserError
from tempering.methods.probes.lm_eval_task import LmEvalTask
from tempering.types import Policy
from tests.conftest import make_llama, make_tokenizer, shared

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

ROWS = [
    {"question": "Where is the hat?", "choices": ["on", "in the other hand", "there"], "answer": 0},
    {"question": "Is the end near?", "choices": ["an answer", "no"], "answer": 1},
    {"question": "Who?", "choices": ["the rain", "Ann", "I"], "answer": 2},
]
HEAD = "dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {file}\ntest_split: test\n"
CHOICE = """task: mini_choice
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""
GENERATE = """task: mini_generate
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 6, do_sample: false}}
metric_list:
  - metric: exact_match
"""
ROLLING = """task: mini_rolling
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list:
  - metric: word_perplexity
"""
ARC = """task: arc_local
output_type: multiple_choice
doc_to_text: "{{{{question.stem}}}}\\nAnswer:"
doc_to_target: "{{{{(question.choices | map(attribute='label') | list).index(answerKey)}}}}"
doc_to_choice: "{{{{question.choices | map(attribute='text') | list}}}}"
metric_list:
  - metric: acc
"""


def policy() -> Policy:
    return Policy(make_llama(), make_tokenizer(), "tiny")


def task_file(folder, body: str) -> str:
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    file = folder / f"{body.split()[1]}.yaml"
    file.write_text((body + HEAD).format(file=data))
    return str(file)


def harness_own(file: str, model: Policy) -> list[dict]:
    """The same task with the harness's own Hugging Face model class."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lm = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=1, device="cpu")
    results = simple_evaluate(lm, tasks=[file], task_manager=TaskManager(include_defaults=False), bootstrap_iters=0)
    return next(iter(results["samples"].values()))


def test_choices_equal_the_harness_own_model(tmp_path):
    file, p = task_file(tmp_path, CHOICE), policy()
    theirs = harness_own(file, p)
    mine = LmEvalTask(task=file)(p)
    assert (mine.probe, mine.metric, mine.kind, mine.higher_is_better) == ("mini_choice", "acc", "binary", True)
    assert [s.id for s in mine.items] == ["mini_choice:0", "mini_choice:1", "mini_choice:2"]
    assert [s.score for s in mine.items] == [s["acc"] for s in theirs]
    assert [s.score for s in LmEvalTask(task=file, metric="acc_norm")(p).items] == [s["acc_norm"] for s in theirs]
    logps = [[float(pair[0]) for pair in s["filtered_resps"]] for s in theirs]
    for item, expected in zip(mine.items, logps, strict=True):
        found = [float(number) for number in re.findall(r"-?\d+\.\d+", item.output)]
        assert found == pytest.approx(expected, abs=1e-3)
    assert len(LmEvalTask(task=file, limit=2)(p).items) == 2


def test_generation_equals_the_harness_own_model(tmp_path):
    file, p = task_file(tmp_path, GENERATE), policy()
    mine = LmEvalTask(task=file)(p)
    assert [s.output for s in mine.items] == [str(s["filtered_resps"]) for s in harness_own(file, p)] and mine.metric == "exact_match"


def test_rolling_log_likelihood_equals_the_harness_own_model():
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from tempering.methods.probes.lm_eval_task import _language_model

    p = policy()
    theirs = HFLM(pretrained=p.model, tokenizer=p.tokenizer, batch_size=1, device="cpu")
    # the second is longer than the model's 512 positions: windows
    texts = ("the rain in the other hand", "is there an end? " * 60)
    requests = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    mine = _language_model(p, 8, 4).loglikelihood_rolling(requests)
    assert mine == pytest.approx(theirs.loglikelihood_rolling(requests, disable_tqdm=True), rel=1e-4)


def test_wrong_tasks(tmp_path):
    p = policy()
    for probe, message in [
        (LmEvalTask(task=str(tmp_path / "none.yaml")), "there is no task file"),
        (
            LmEvalTask(task=task_file(tmp_path, CHOICE), metric="f1"),
            "metric 'f1' gives no number for each document of mini_choice",
        ),
        (LmEvalTask(task=task_file(tmp_path, CHOICE), filter="strict"), "has no filter 'strict', it has none"),
        (LmEvalTask(task=task_file(tmp_path, ROLLING)), "metric 'word_perplexity' gives no number for each document"),
    ]:
        with pytest.raises(UserError, match=message):
            probe(p)


def test_real_questions_through_a_local_task(tmp_path):
    data = shared("data/arc/easy_test.jsonl")
    file = tmp_path / "arc_local.yaml"
    file.write_text((ARC + HEAD).format(file=data))
    found = LmEvalTask(task=str(file), limit=4)(policy())
    assert len(found.items) == 4 and {s.score for s in found.items} <= {0.0, 1.0} and found.items[0].prompt.endswith("\nAnswer:")
