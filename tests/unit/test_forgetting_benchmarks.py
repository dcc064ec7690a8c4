"""TOFU, MUSE and membership inference: closed forms, limits, and libraries that compute the same."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tempering.errors import UserError
from tempering.forgetting import muse, tofu
from tempering.forgetting.benchmarks import benchmarks, sentence
from tempering.forgetting.targets import secrets
from tempering.measure import logps_and_moments, logps_of, measure
from tempering.methods.probes._answers import AnswersItem, said_ids
from tempering.methods.probes.answer_probability import AnswerProbability, share
from tempering.methods.probes.membership import (
    Membership,
    MembershipItem,
    auc,
    compressed,
    lowest,
    placements,
    standardised,
    tpr_at_fpr,
)
from tempering.methods.probes.rouge import Rouge, common, rouge_l, words
from tempering.methods.probes.truth_ratio import TruthRatio, closeness, ratio
from tempering.types import ItemScore, Message, Policy, ProbeScores, Record, Response, Scores
from tempering.worlds.demo import demo_records
from tests.conftest import make_llama, make_tokenizer, shared
from tests.unit.test_probes import saying

ITEMS = (
    AnswersItem(prompt="Where does Ida live?", answer="Ida lives in Oslo.", paraphrase="Oslo is her home.", wrong=("Rome is her home.", "Bergen.")),
    AnswersItem(prompt=(("user", "And Bo?"),), answer="in a tent", wrong=("in a very large house by the sea", "on a boat", "x")),
)


def policy(seed: int = 0) -> Policy:
    return Policy(make_llama(seed=seed), make_tokenizer(), f"seed {seed}")


def uniform() -> Policy:
    model = make_llama()
    torch.nn.init.zeros_(model.model.norm.weight)
    return Policy(model, make_tokenizer(), "uniform")


def scores(*probes: ProbeScores) -> Scores:
    return Scores("m", probes)


def of(name: str, values: Sequence[float], side: str = "keep") -> ProbeScores:
    items = tuple(ItemScore(f"i{i}", min(v, 1 / v) if v else 0.0, extra={"ratio": v}) for i, v in enumerate(values))
    return ProbeScores(name, "x", "continuous", True, items, side)


# ---------------------------------------------------------------------------------------------------------------------------------- truth ratio


def test_ratio_by_hand():
    true, wrong = math.log(0.5), [math.log(0.1), math.log(0.4)]
    assert ratio(true, wrong) == pytest.approx(0.25 / 0.5)
    assert ratio(true, wrong, "geometric") == pytest.approx(0.2 / 0.5)
    assert ratio(true, wrong[:1]) == pytest.approx(ratio(true, wrong[:1], "geometric"))
    assert closeness(4.0) == closeness(0.25) == 0.25
    assert (closeness(1.0), closeness(0.0)) == (1.0, 0.0)
    assert math.isfinite(ratio(-1e6, [0.0])), "no overflow"


@pytest.mark.parametrize("how", ["arithmetic", "geometric"])
def test_a_uniform_model_has_ratio_one_whatever_the_lengths(how):
    found = TruthRatio(items=ITEMS, mean=how)(uniform())
    assert [item.extra["ratio"] for item in found.items] == pytest.approx([1, 1], abs=1e-6)
    assert [item.score for item in found.items] == pytest.approx([0, 0], abs=1e-6)
    assert [item.score for item in TruthRatio(items=ITEMS, side="target")(uniform()).items] == pytest.approx([1, 1], abs=1e-6)


@pytest.mark.parametrize("ended", [True, False])
def test_truth_ratio_is_what_the_log_probs_say(ended):
    model = policy()
    found = TruthRatio(items=ITEMS, ended=ended)(model)
    for item, scored in zip(ITEMS, found.items, strict=True):
        turns = [{"role": "user", "content": item.prompt if isinstance(item.prompt, str) else item.prompt[0][1]}]
        prompt = model.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)

        def per_token(text: str, prompt: list[int] = prompt) -> float:
            answer = [*model.tokenizer(text)["input_ids"], *([2] if ended else [])]
            with torch.no_grad():
                logp = model.model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
            places = range(len(prompt), len(prompt) + len(answer))
            return sum(float(logp[i - 1, t]) for i, t in zip(places, answer, strict=True)) / len(answer)

        true = per_token(item.paraphrase or item.answer)
        r = sum(math.exp(per_token(text)) for text in item.wrong) / len(item.wrong) / math.exp(true)
        assert scored.extra["ratio"] == pytest.approx(r, rel=1e-4)
        assert scored.score == pytest.approx(max(0, 1 - r), abs=1e-4)


def test_without_wrong_answers_there_is_no_ratio():
    with pytest.raises(UserError, match="'wrong' is empty"):
        TruthRatio(items=(AnswersItem(prompt="x", answer="y"),))(policy())
    with pytest.raises(UserError, match="nothing to choose from"):
        AnswerProbability(items=(AnswersItem(prompt="x", answer="y"),), choices=True)(policy())
    with pytest.raises(UserError, match="has no tokens"):
        AnswerProbability(items=(AnswersItem(prompt="x", answer=""),), ended=False)(policy())


def test_probability():
    found = AnswerProbability(items=ITEMS, side="target")(policy())
    assert found.higher_is_better is False
    for item in found.items:
        assert item.score == pytest.approx(math.exp(item.extra["logp"] / item.extra["tokens"]))
    assert [item.score for item in AnswerProbability(items=ITEMS)(uniform()).items] == pytest.approx([1 / 274] * 2, rel=1e-4)
    chosen = AnswerProbability(items=ITEMS, choices=True)(uniform())
    assert [item.score for item in chosen.items] == pytest.approx([1 / 3, 1 / 4], rel=1e-4)
    assert chosen.higher_is_better is True
    # whole answers: all of a uniform model's probability is on the shortest
    whole = AnswerProbability(items=ITEMS[1:], choices=True, per="answer")(uniform())
    assert whole.items[0].score < 1e-9
    assert share([math.log(0.2), math.log(0.6)]) == pytest.approx(0.25)
    assert share([-1e5, 0.0]) < 1e-300


# ---------------------------------------------------------------------------------------------------------------------------------------- ROUGE


def test_rouge_by_hand():
    # in common: cat sat mat
    assert rouge_l("The dog sat by the cat on a mat", "cat sat, mat!") == pytest.approx((2 / 9, 2 / 3, 1 / 3))
    assert rouge_l("cat SAT mat", "Cat sat mat.") == (1, 1, 1)
    assert rouge_l("", "a") == rouge_l("a", "") == rouge_l("b", "a") == (0, 0, 0)
    assert words("Käthe's_9 lives") == ["käthe", "s", "9", "lives"]
    assert words("Käthe's", "ascii") == ["k", "the", "s"]


def test_common_subsequence_equals_the_table():
    rng = np.random.default_rng(1)
    for _ in range(200):
        a, b = ([str(x) for x in rng.integers(0, 4, int(rng.integers(0, 70)))] for _ in range(2))
        row = [0] * (len(b) + 1)
        for x in a:
            before = 0
            for j, y in enumerate(b, 1):
                before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
        assert common(a, b) == row[-1]


def test_an_exact_copier_has_rouge_one():
    copier = saying({"Ida": "Ida lives in Oslo.", "Bo": "the tent"})
    found = Rouge(items=ITEMS, side="target")(copier)
    assert [item.score for item in found.items] == [1, pytest.approx(1 / 3)]
    assert (found.higher_is_better, found.metric) == (False, "ROUGE-L recall")
    assert [item.score for item in Rouge(items=ITEMS, measure="f1")(copier).items] == [1, pytest.approx(2 / 5)]
    assert Rouge(items=ITEMS, stop=(" in",))(copier).items[0].score == 0.5


def test_a_cut_answer_is_compared_as_far_as_may_be_generated():
    copier = saying({"Ida": "one two three four"})
    item = AnswersItem(prompt="Ida", answer="one two three four five six")
    room = len(copier.tokenizer("one two three")["input_ids"])
    found = Rouge(items=(item,), measure="f1", max_new_tokens=room, cut=True)(copier).items[0]
    assert (found.score, found.expected) == (1, "one two three")
    assert Rouge(items=(item,), max_new_tokens=room)(copier).items[0].score == 0.5


# ----------------------------------------------------------------------------------------------------------- what is made of a set and of a run


def record(prompt: str, answer: str, **tags: object) -> Record:
    return Record((Message("user", prompt),), (Response((Message("assistant", answer),)),), id=prompt, source=f"f.jsonl:{prompt}", tags=tags)


def test_facts_take_wrong_answers_from_the_data():
    found = tofu.facts([record("a", "x", perturbed_answer=["y", "z"], paraphrased_answer="X!"), record("b", "w"), record("a", "x")], 10)
    assert [(f.id, f.answer, f.paraphrase, f.wrong) for f in found] == [("fact:0", "x", "X!", ("y", "z")), ("fact:1", "w", "", ())]
    assert [f.answer for f in tofu.facts([record(str(i), str(i)) for i in range(9)], 3)] == ["0", "3", "6"]
    with pytest.raises(UserError, match=r"f\.jsonl:a: field 'perturbed_answer' must be a list of texts"):
        tofu.facts([record("a", "x", perturbed_answer=[1])], 1)


def test_facts_of_a_world_take_rivals_of_the_same_kind():
    records = list(demo_records("builtin:people-forget"))
    kinds: dict[str, set[str]] = {}
    for r in records:
        kinds.setdefault(r.tags["kind"], set()).add(r.tags["answer"])
    found = tofu.facts(records, 1000)
    assert len(found) == len(records) == 280
    for fact, r in zip(found, records, strict=True):
        assert r.tags["answer"] not in fact.wrong
        assert set(fact.wrong) <= kinds[r.tags["kind"]]
        assert len(set(fact.wrong)) == len(fact.wrong) == min(5, len(kinds[r.tags["kind"]]) - 1)
    assert found == tofu.facts(records, 1000)


def test_choices_are_of_wrong_answers_or_of_other_questions():
    given = AnswersItem(id="a", prompt="A?", answer="1", wrong=("2", "3", "4", "5", "1"))
    (found,) = tofu.choices([given])
    assert (found.id, found.question, found.choices[found.answer]) == ("a", "A?", "1")
    assert sorted(found.choices) == ["1", "2", "3", "4"]
    bare = [AnswersItem(id=str(i), prompt=(("user", f"{i}?"),), answer=str(i % 3)) for i in range(4)]
    assert [sorted(item.choices) for item in tofu.choices(bare)] == [["0", "1", "2"]] * 4
    assert [item.choices[item.answer] for item in tofu.choices(bare)] == ["0", "1", "2", "0"]
    assert tofu.choices(bare[:2]) == (), "one wrong answer is no choice"


def test_real_tofu_rows_have_what_the_probes_need():
    from tempering.data import read

    for name, choices, wrong in (("forget10_perturbed", False, 5), ("real_authors_perturbed", True, 3), ("world_facts_perturbed", True, 3)):
        path = shared(f"data/tofu/{name}.jsonl")
        found = tofu.facts(read(str(path)), 10_000, name)
        rows = len(path.read_text(encoding="utf-8").splitlines())
        assert len(found) >= rows - 2, "questions that stand there twice count once"
        assert max(len(f.wrong) for f in found) >= wrong
        assert all(f.wrong for f in found)
        assert all(bool(f.paraphrase) is not choices for f in found)
        assert [p.name for p in tofu.probes(found, name, "keep", choices=choices)] == [f"{name}_{metric}" for metric in tofu.METRICS]


def test_model_utility():
    assert tofu.harmonic_mean([0.3, 0.3, 0.3]) == pytest.approx(0.3)
    assert tofu.harmonic_mean([1, 0.5, 0.25]) == pytest.approx(3 / 7)
    assert tofu.harmonic_mean([1, 0, 1]) == 0
    kept = [of("retain_probability", [0.2, 0.6]), of("retain_rouge", [0.5]), of("retain_truth_ratio", [0.25])]
    assert tofu.model_utility(scores(*kept, of("forget_rouge", [0.01], "target"), of("perplexity", [9]))) == pytest.approx(3 / (2.5 + 2 + 4))
    assert tofu.model_utility(scores(of("perplexity", [9]))) is None


def test_forget_quality():
    name, rng = tofu.FORGET_TRUTH_RATIO, np.random.default_rng(0)
    a, b = rng.lognormal(0, 1, 80).tolist(), rng.lognormal(0.4, 1, 80).tolist()
    itself = tofu.forget_quality(scores(of(name, a)), scores(of(name, a)))
    assert itself == tofu.ForgetQuality(1.0, 0.0, 80)
    found = tofu.forget_quality(scores(of(name, a)), scores(of(name, b)))
    # the statistic by its definition
    gaps = [abs(np.mean(np.array(a) <= x) - np.mean(np.array(b) <= x)) for x in (*a, *b)]
    assert found.statistic == pytest.approx(max(gaps))
    turned = tofu.forget_quality(scores(of(name, [1 / x for x in a])), scores(of(name, [1 / x for x in b])))
    assert turned.p_value == pytest.approx(found.p_value)
    assert tofu.forget_quality(scores(of(name, [0.01] * 80)), scores(of(name, [1.0] * 80))).p_value < 1e-20
    assert tofu.forget_quality(scores(), scores(of(name, a))) is None
    with pytest.raises(UserError, match="different items"):
        tofu.forget_quality(scores(of(name, a)), scores(of(name, a[1:])))


def test_privacy_leak():
    assert muse.leak(0.53, 0.53) == 0
    assert muse.leak(1.0, 0.47) == -1, "every forgotten text above every unseen one"
    assert muse.leak(0.0, 0.5) == 1
    assert muse.leak(0.5, 1.0) is None
    # MUSE's own direction: A is that of unseen texts
    assert muse.leak(0.8, 0.6) == pytest.approx(((1 - 0.8) - (1 - 0.6)) / (1 - 0.6))


def test_knowmem_is_of_the_few_shot_answers_or_of_those_as_taught():
    def rouge(name: str, f1: float, recall: float) -> ProbeScores:
        return ProbeScores(name, "x", "continuous", True, (ItemScore("a", recall),), "keep", {"f1": f1, "recall": recall})

    taught = (rouge("forget_rouge", 0.25, 0.5), rouge("retain_rouge", 0.75, 1.0))
    found = benchmarks(scores(*taught), scores(*taught, rouge("forget_knowledge", 0.0, 0.125)))
    keys = ("knowmem_forget", "knowmem_forget_recall", "knowmem_retain", "knowmem_retain_recall")
    assert [found["before"][key] for key in keys] == [0.25, 0.5, 0.75, 1.0]
    assert [found["after"][key] for key in keys] == [0.0, 0.125, 0.75, 1.0]
    assert "KnowMem of what goes (MUSE, ROUGE-L F1): 0.25 before, 0 after; of what stays: 0.75 before, 0.75 after" in sentence(found)
    assert muse.knowmem(scores(of("forget_rouge", [0.3])), "retain") is None


def test_questions_about_texts_are_asked_as_the_model_can_read_them():
    kept = [AnswersItem(id=str(i), prompt=f"K{i}", answer="x") for i in range(39)]
    gone = [AnswersItem(id="g", prompt="G", answer="y")]
    shots = "".join(f"Question: K{i}\nAnswer: x\n\n" for i in range(3))
    first, second = muse.about_texts(gone, kept, chat=False)
    assert [item.prompt for item in first.items] == [(("text", f"{shots}Question: G\nAnswer:"),)]
    assert [item.id for item in second.items] == [str(i) for i in range(3, 39)], "no question is shown and asked"
    assert len(muse.apart(kept * 3)[0]) == muse.SHOTS
    first, second = muse.about_texts(gone, kept, chat=True)
    assert (first.items, second.items) == (tuple(gone), tuple(kept))
    assert [(p.name, p.side, p.measure) for p in (first, second)] == [("forget_knowledge", "target", "f1"), ("retain_knowledge", "keep", "f1")]
    assert [p.name for p in muse.about_texts(gone, (), chat=True)] == ["forget_knowledge"]


def test_muse_prompts():
    shots = [AnswersItem(prompt="Q1", answer="A1")]
    probe = muse.knowledge([AnswersItem(id="q", prompt=(("user", "Who?"),), answer="Bo")], shots)
    assert probe.items[0].prompt == (("text", "Question: Q1\nAnswer: A1\n\nQuestion: Who?\nAnswer:"),)
    assert (probe.measure, probe.max_new_tokens, probe.side) == ("f1", 32, "target")
    told = Record((), (Response((Message("text", "one two three four five six"),)),))
    probe = muse.verbatim(secrets([told], 5))
    assert (probe.items[0].prompt, probe.items[0].answer, probe.cut) == ((("text", "one two three"),), "four five six", True)
    assert [(t.prompt, t.text) for t in muse.texts([told, record("a", "x")], 5, "m")] == [
        ("", "one two three four five six"),
        ((("user", "a"),), "x"),
    ]


# --------------------------------------------------------------------------------------------------------------------------- membership inference


def test_auc_and_tpr_by_hand():
    assert auc([3, 2], [1, 2, 0]) == pytest.approx(5.5 / 6)
    assert auc([1, 2, 3], [3, 1, 2]) == 0.5
    assert placements([3, 2], [1, 2, 0]) == (pytest.approx([1, 5 / 6]), pytest.approx([1, 0.75, 1]))
    assert tpr_at_fpr([3, 2, 1], [2, 0]) == pytest.approx(1 / 3)
    others = list(range(200))
    # two of 200 others may be above: the threshold is the third highest, 197
    assert tpr_at_fpr([197, 197.5, 198, 300], others) == 0.75
    assert tpr_at_fpr([0], [1], fpr=1.0) == 1


def test_auc_and_tpr_equal_sklearn():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is a test extra")
    rng = np.random.default_rng(0)
    for n, m in ((5, 7), (150, 100), (80, 333)):
        inside, outside = np.round(rng.normal(0.7, 1, n), 1), np.round(rng.normal(0, 1, m), 1)
        y, x = [1] * n + [0] * m, [*inside, *outside]
        assert auc(inside.tolist(), outside.tolist()) == pytest.approx(metrics.roc_auc_score(y, x))
        fpr, tpr, _ = metrics.roc_curve(y, x)
        assert tpr_at_fpr(inside.tolist(), outside.tolist()) == pytest.approx(tpr[fpr <= 0.01].max())


def test_lowest_and_standardised():
    assert lowest([-1, -5, -3, -2], 0.5) == -4
    assert lowest([-1, -5, -3, -2], 1.0) == pytest.approx(-11 / 4)
    assert lowest([-1, -5], 0.2) == -5, "at least one"
    assert standardised([-1, -2], [-3, -2], [0.5, 0.0]) == [4, 0]
    assert compressed("a" * 500) < compressed("the quick brown fox jumps over the lazy dog")


def test_moments_are_those_of_the_whole_distribution():
    model = policy()
    pairs = [([5, 9], [11, 12, 13]), ([5, 9], [40]), ([7], [8, 9, 10, 11])]
    found = logps_and_moments(model, pairs)
    for (prompt, rest), (logp, mu, sigma), plain in zip(pairs, found, logps_of(model, pairs), strict=True):
        with torch.no_grad():
            full = model.model(torch.tensor([[*prompt, *rest]])).logits[0].log_softmax(-1)[len(prompt) - 1 : -1].double()
        m = (full.exp() * full).sum(-1)
        torch.testing.assert_close(logp, plain)
        torch.testing.assert_close(mu.double(), m, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(sigma.double(), ((full.exp() * full**2).sum(-1) - m**2).sqrt(), rtol=1e-4, atol=1e-5)
    flat = logps_and_moments(uniform(), pairs)
    assert max(float(sigma.max()) for _, _, sigma in flat) < 1e-5


def member(i: int, text: str, prompt: str = "") -> MembershipItem:
    return MembershipItem(id=f"{text[:3]}{i}", text=text, prompt=prompt)


MEMBERS = tuple(member(i, text) for i, text in enumerate(["the cat is on the mat", "another day and another thing", "in the end"]))
OTHERS = (member(3, "this is it"), member(4, "on an island", "Where is he?"), *(member(i, text) for i, text in enumerate(["a b c d e", "xyz"], 5)))


def test_membership_is_what_the_log_probs_say():
    model, other = policy(), policy(1)
    probe = Membership(items=MEMBERS, others=OTHERS, statistic="loss", k=0.4, reference=other)
    found = measure(model, [probe]).probes
    assert [p.probe for p in found] == ["membership", *(f"membership.{name}" for name in ("zlib", "min_k", "min_k_plus_plus", "reference"))]
    items = {item.id: item for item in found[0].items}
    for item in (*MEMBERS, *OTHERS):
        if item.prompt:
            continue
        ids = model.tokenizer(item.text)["input_ids"]
        ours, theirs = (logps_of(p, [(ids[:1], ids[1:])])[0].double().numpy() for p in (model, other))
        extra = items[item.id].extra
        assert extra["loss"] == pytest.approx(ours.mean(), abs=1e-5)
        assert extra["zlib"] == pytest.approx(ours.mean() / compressed(item.text), abs=1e-6)
        assert extra["min_k"] == pytest.approx(np.sort(ours)[: max(1, int(0.4 * len(ours)))].mean(), abs=1e-5)
        assert extra["reference"] == pytest.approx(ours.mean() - theirs.mean(), abs=1e-5)
    prompted = OTHERS[1]
    said = said_ids(model, prompted.prompt, prompted.text, None, ended=False)
    assert said == tuple(model.tokenizer(prompted.text)["input_ids"])
    for p, name in zip(found, ("loss", "zlib", "min_k", "min_k_plus_plus", "reference"), strict=True):
        inside, outside = ([item.extra[name] for item in p.items if item.extra["member"] == is_member] for is_member in (1, 0))
        assert (len(inside), len(outside)) == (3, 4)
        assert np.mean([item.score for item in p.items]) == pytest.approx(auc(inside, outside)) == p.summary["auc"]
        assert p.summary["tpr_at_1_fpr"] == tpr_at_fpr(inside, outside)
        assert p.higher_is_better is False


def test_with_all_tokens_min_k_is_the_loss():
    found = Membership(items=MEMBERS, others=OTHERS, k=1.0)(policy())
    for item in found.items:
        assert item.extra["min_k"] == pytest.approx(item.extra["loss"])


def test_members_and_others_alike_have_auc_one_half():
    same = tuple(item.model_copy(update={"id": f"other {item.id}"}) for item in MEMBERS)
    probe = Membership(items=MEMBERS, others=same)
    found = measure(policy(), [probe]).probes
    assert [p.summary["auc"] for p in found] == pytest.approx([0.5] * 4)
    with pytest.raises(UserError, match="is a member and not one"):
        Membership(items=MEMBERS, others=MEMBERS)(policy())
    with pytest.raises(UserError, match="needs a reference model"):
        Membership(items=MEMBERS, others=same, statistic="reference")(policy())


def test_numbers_of_a_run():
    name = tofu.FORGET_TRUTH_RATIO

    def run(ratios: list[float], area: float, kept: float) -> Scores:
        told = ProbeScores(muse.MEMBERSHIP, "AUC", "continuous", False, (ItemScore("a", area),), "target", {"auc": area})
        return scores(of(name, ratios, "target"), told, of("retain_rouge", [kept]))

    before, after, oracle = run([0.01] * 40, 1.0, 0.8), run([0.9, 1.1] * 20, 0.6, 0.5), run([0.9, 1.1] * 20, 0.5, 0.8)
    found = benchmarks(before, after, oracle)
    assert found["before"]["privacy_leak"] == -1
    assert found["after"] == {
        "model_utility": 0.5,
        "forget_quality": {"p_value": 1.0, "statistic": 0.0, "n": 40},
        "privacy_leak": pytest.approx(-0.2),
    }
    assert benchmarks(before, after) == {"before": {"model_utility": 0.8}, "after": {"model_utility": 0.5}}
    assert sentence(benchmarks(before, after)) == "model utility (TOFU): 0.8 before, 0.5 after"
    assert "privacy leak (MUSE): -1 before, -0.2 after, 0 oracle" in sentence(found)
    assert sentence({"before": {}, "after": {}}) == ""
    both = scores(of("forget_rouge", [0.3], "target"), of("retain_rouge", [0.6]))
    assert benchmarks(both, both)["after"]["deviation"] == pytest.approx(50)
    assert "deviation (PISTOL, by ROUGE-L): 50 before, 50 after" in sentence(benchmarks(both, both))
