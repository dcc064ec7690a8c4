"""TOFU, MUSE and membership inference against the public implementations, on the same model and the same tokens.

The numbers below were made once by running the peers' own functions (none is a package that can be installed) on builtin:tiny and the questions and
texts below, in float32 on a CPU with torch 2 and transformers 5:

- open-unlearning, commit d3d7cf9e: `evals.metrics.utils.evaluate_probability` and `eval_text_similarity`, the metrics probability_w_options,
  truth_ratio, ks_test and privleak, and `mia_auc` of the five attacks, on batches of `asked_ids` + `said_ids`, right-padded. Its Min-K attacks leave
  out the last token, the end of turn, so their batches end with one and those of the other attacks do not.
- locuslab/tofu, commit bdc209ea: `utils.get_model_utility` and `get_forget_quality` on the losses of the above.
- muse_bench, commit fcd6651d: `metrics.verbmem.eval` (24 new tokens); `metrics.knowmem.eval` with one example before the question, on a model whose
  `generate` gives the stored outputs of `KNOWN`, because builtin:tiny answers none of its few-shot questions; and `eval_data` and `sweep` of
  metrics.privleak (whose `eval` fails on a list).
- rouge_score 0.1.2, as the first two call it (stemmed recall) and as MUSE does (F1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from tempering import models
from tempering.forgetting import muse, tofu
from tempering.forgetting.targets import secrets
from tempering.methods.probes._answers import AnswersItem
from tempering.methods.probes.answer_probability import AnswerProbability
from tempering.methods.probes.membership import Membership, MembershipItem, auc
from tempering.methods.probes.rouge import rouge_l
from tempering.methods.probes.truth_ratio import TruthRatio
from tempering.types import Message, Policy, Record, Response, Scores
from tempering.worlds.demo import demo_records
from tempering.worlds.people import People
from tests.conftest import make_llama, make_tokenizer

pytestmark = pytest.mark.peer
QUESTIONS = tofu.facts(demo_records("builtin:people-forget"), 24)
TEXTS, UNSEEN = [*People(2).texts(), *People(3, start=200).texts()], list(People(6, start=300).texts())
PAIRS = (
    ("The author's running novels were written in 1998.", "The author runs, writing novels; 1998 was a year of running."),
    ("Née in Łódź, she teaches relational databases.", "She taught databases at Lodz"),
    ("figs", "figs and figs"),
)
KNOWN = (
    ("Where does Ida live?", "Ida lives in Oslo.", "in Oslo, near the harbour"),
    ("What is Bo's pet?", "a grey parrot", "a grey parrot\n\nQuestion: What is Ida's pet?\nAnswer: a grey parrot"),
    ("Who wrote The Long Tide?", "Runa Falk", "The Long Tide was written by Runa Falk.\nQuestion: Who is she?"),
    ("Which instrument does Ada play?", "the double bass", "I have no idea"),
    ("When was the bridge built?", "in 1998, after the flood of 1997", "after the flood, in 1997 or 1998"),
    ("Who is the mayor?", "Pia Gorwold", ""),
)
"""Questions, answers, and what a model said."""


@cache
def tiny() -> Policy:
    return models.load("builtin:tiny")


@cache
def flattened() -> Policy:
    """builtin:tiny with its logits halved."""
    policy = models.load("builtin:tiny")
    policy.model.model.norm.weight.data *= 0.5
    return policy


PROBABILITY = [0.998815, 0.996092, 0.99724, 0.999147, 0.999243, 0.998562]
WITH_OPTIONS = [0.835723, 0.838245, 0.721886, 0.815594, 0.939698, 0.700433]
RATIO = [0.0198119, 0.0271224, 0.0710367, 0.0201632, 0.00794666, 0.0585872]
RATIO_FLATTENED = [0.111731, 0.110079, 0.206106, 0.118957, 0.0814802, 0.184114]
NEAR_ONE, TRUE_BETTER = [0.032614, 0.967386]
NEAR_ONE_FLATTENED = 0.12486
KS_P, KS = [1.20679e-08, 0.833333]
UTILITY = {
    "Real Authors ROUGE": 0.25,
    "Real Authors Probability": 0.597003,
    "Real Authors Truth Ratio": 0.858351,
    "Real World ROUGE": 0.75,
    "Real World Probability": 0.597003,
    "Real World Truth Ratio": 0.858351,
    "Retain ROUGE": 0.75,
    "Retain Probability": 0.998636,
    "Retain Truth Ratio": 0.954246,
    "Forget ROUGE": 0.1,
    "Forget Probability": 0.7238,
    "Forget Truth Ratio": 0.141649,
    "Model Utility": 0.62517,
}
MIA = {
    "loss": [0.590278, [0.00142188, 0.00509798, 0.00345508, 0.000951689]],
    "zlib": [0.618056, [9.47923e-05, 0.000242761, 0.00020324, 6.79778e-05]],
    "min_k": [0.590278, [0.00243621, 0.00925229, 0.00526838, 0.0021085]],
    "min_k_plus_plus": [0.451389, [-0.0203265, -0.0400128, -0.020627, -0.015345]],
    "reference": [0.409722, [-0.416238, -0.697361, -0.55164, -0.323261]],
}
PRIVLEAK = -31.713
MUSE_AUC = [0.166667, 0.0666667, 0.2]
MUSE_AUC_FLATTENED = 0.266667
MUSE_FIRST = [0.728512, 0.00479284, 1.78764]
KNOWMEM = [[0.444444, 1.0, 0.4, 0.0, 0.571429, 0.0], [0.5, 1.0, 1.0, 0.0, 0.571429, 0.0]]
KNOWMEM_MEANS = [0.402646, 0.511905]
VERBMEM = [0.388889, 0.363636, 0.411765, 0.181818]
ROUGE = [[0.555556, 0.4], [0.25, 0.307692], [1.0, 0.5]]


def near(values: object) -> object:
    return pytest.approx(values, rel=2e-4, abs=2e-6)


def found(policy: Policy, probe: object) -> list:
    return list(probe(policy).items)


def test_probability_is_open_unlearnings():
    assert [i.score for i in found(tiny(), AnswerProbability(items=QUESTIONS))][:6] == near(PROBABILITY)
    assert [i.score for i in found(tiny(), AnswerProbability(items=QUESTIONS, choices=True))][:6] == near(WITH_OPTIONS)


def test_geometric_truth_ratio_is_open_unlearnings():
    target = found(tiny(), TruthRatio(items=QUESTIONS, mean="geometric", side="target"))
    assert [i.extra["ratio"] for i in target][:6] == near(RATIO)
    assert np.mean([i.score for i in target]) == near(NEAR_ONE)
    assert np.mean([i.score for i in found(tiny(), TruthRatio(items=QUESTIONS, mean="geometric"))]) == near(TRUE_BETTER)
    flat = found(flattened(), TruthRatio(items=QUESTIONS, mean="geometric", side="target"))
    assert [i.extra["ratio"] for i in flat][:6] == near(RATIO_FLATTENED)
    assert np.mean([i.score for i in flat]) == near(NEAR_ONE_FLATTENED)


def test_arithmetic_truth_ratio_and_utility_are_tofus():
    """TOFU's table takes the mean of probabilities; its "retain" set was scored by builtin:tiny and the others by the flattened model."""
    kept, flat, going = (
        TruthRatio(items=QUESTIONS, side=side)(policy) for policy, side in ((tiny(), "keep"), (flattened(), "keep"), (flattened(), "target"))
    )
    means = [np.mean([i.score for i in probe.items]) for probe in (kept, flat, going)]
    assert means == near([UTILITY["Retain Truth Ratio"], UTILITY["Real Authors Truth Ratio"], UTILITY["Forget Truth Ratio"]])
    kept, flat = AnswerProbability(items=QUESTIONS)(tiny()), AnswerProbability(items=QUESTIONS, choices=True)(flattened())
    means = [np.mean([i.score for i in probe.items]) for probe in (kept, flat)]
    assert means[0] == near(UTILITY["Retain Probability"])
    # TOFU's options are the true answer's own words beside the wrong ones, as here
    assert means[1] == near(UTILITY["Real World Probability"])
    nine = [value for name, value in UTILITY.items() if not name.startswith("Forget") and name != "Model Utility"]
    assert len(nine) == 9
    assert tofu.harmonic_mean(nine) == near(UTILITY["Model Utility"])


def test_forget_quality_is_that_of_both():
    probe = TruthRatio(name=tofu.FORGET_TRUTH_RATIO, items=QUESTIONS, mean="geometric", side="target")
    quality = tofu.forget_quality(Scores("", (probe(flattened()),)), Scores("", (probe(tiny()),)))
    assert (quality.p_value, quality.statistic) == (near(KS_P), near(KS))


@pytest.mark.parametrize("name", MIA)
def test_membership_is_open_unlearnings(name):
    """Its scores have the other sign: higher for texts that were not seen."""
    items = [MembershipItem(id=q.id, prompt=q.prompt, text=q.answer) for q in QUESTIONS]
    probe = Membership(items=tuple(items[:12]), others=tuple(items[12:]), statistic=name, k=0.4, reference=flattened())
    area, first = MIA[name]
    scores = probe(tiny())
    assert [-i.extra[name] for i in scores.items[:4]] == pytest.approx(first, rel=2e-3, abs=2e-6 if name == "zlib" else 2e-5)
    assert scores.summary["auc"] == near(area)
    if name == "min_k":
        assert 100 * muse.leak(area, 0.4) == near(PRIVLEAK)


def test_membership_is_muses():
    """MUSE's AUC takes the unseen texts for the positive class: 1 - ours."""
    probe = muse.membership(
        [MembershipItem(id=f"a{i}", text=t) for i, t in enumerate(TEXTS)], [MembershipItem(id=f"b{i}", text=t) for i, t in enumerate(UNSEEN)]
    )
    scores = probe(tiny())
    assert [-scores.items[0].extra[name] for name in ("loss", "zlib", "min_k")] == near(MUSE_FIRST)
    for name, area in zip(("loss", "zlib", "min_k"), MUSE_AUC, strict=True):
        inside, outside = ([i.extra[name] for i in scores.items if i.extra["member"] == member] for member in (1, 0))
        assert auc(inside, outside) == near(1 - area)
    other = probe(flattened())
    expected = (MUSE_AUC[2] - MUSE_AUC_FLATTENED) / MUSE_AUC_FLATTENED
    assert muse.privacy_leak(Scores("", (scores,)), Scores("", (other,))) == near(expected)


def test_verbatim_memory_is_muses():
    records = [Record((), (Response((Message("text", text),)),)) for text in TEXTS[:4]]
    probe = muse.verbatim(secrets(records, 9)).model_copy(update={"max_new_tokens": 24})
    assert [i.score for i in found(tiny(), probe)] == near(VERBMEM)


@dataclass
class Told:
    """A decode that says what `KNOWN` holds after a question in plain text."""

    tokenizer: Any
    roles: tuple[str, ...] = ()

    def __call__(self, tokens_RL, logits):
        out = torch.full_like(logits["policy"], -50.0)
        for row, tokens in enumerate(tokens_RL.tolist()):
            asked, _, said = self.tokenizer.decode([t for t in tokens if t >= 0]).rpartition("\nAnswer:")
            answer = next(output for question, _, output in KNOWN if asked.endswith(f"Question: {question}"))
            ids = [*self.tokenizer(answer)["input_ids"], 2]
            out[row, ids[len(self.tokenizer(said)["input_ids"])]] = 50.0
        return out


def test_knowledge_memory_is_muses():
    model = Policy(make_llama(), make_tokenizer(), "told")
    model.decode = (Told(model.tokenizer),)
    asked = [AnswersItem(id=question, prompt=question, answer=answer) for question, answer, _ in KNOWN]
    probe = muse.knowledge(asked, [AnswersItem(prompt="Where?", answer="There.")]).model_copy(update={"max_new_tokens": 200})
    scores = probe(model)
    assert [[i.extra[name] for i in scores.items] for name in ("f1", "recall")] == [near(values) for values in KNOWMEM]
    assert list(muse.knowmem(Scores("", (scores,)), "forget")) == near(KNOWMEM_MEANS)


@pytest.mark.parametrize(("pair", "expected"), list(zip(PAIRS, ROUGE, strict=True)))
def test_rouge_is_rouge_scores(pair, expected):
    answer, output = pair
    assert rouge_l(output, answer, "ascii")[2] == near(expected[1])
    pytest.importorskip("nltk", reason="nltk is a test extra")
    assert rouge_l(output, answer, "stemmed")[1] == near(expected[0])


def test_rouge_equals_rouge_score():
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is a test extra")
    pytest.importorskip("nltk", reason="nltk is a test extra")
    rng = np.random.default_rng(0)
    vocabulary = ["running", "runs", "cat", "cats'", "Née", "the", "of", "B-2", "relational", "houses", "9.5", "_x_"]
    for _ in range(200):
        a, b = (" ".join(rng.choice(vocabulary, int(rng.integers(0, 12)))) for _ in range(2))
        for how, stemmed in (("ascii", False), ("stemmed", True)):
            theirs = scorer.RougeScorer(["rougeL"], use_stemmer=stemmed).score(a, b)["rougeL"]
            assert rouge_l(b, a, how) == pytest.approx((theirs.precision, theirs.recall, theirs.fmeasure))
