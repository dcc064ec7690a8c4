"""ROUGE-L (Lin 2004) of greedy answers: the longest common subsequence of words, over the words of the expected answer (recall) or balanced with
those of the output (F1).

TOFU (arXiv:2401.06121) takes the recall of an answer to a question. MUSE (arXiv:2407.06460) takes F1: of the continuation of a forgotten text
(VerbMem: `cut` measures against as many tokens as may be generated) and of short answers to questions (KnowMem: few-shot prompts and stop strings,
see `forgetting.muse`). PISTOL (S034, arXiv:2406.16810) makes one number of it on either side (`forgetting.pistol.deviation`).

Words: "any" takes runs of letters and digits of every script, without case. The package rouge_score keeps ASCII letters only ("ascii"), TOFU and
OpenUnlearning also stem them with Porter's stemmer ("stemmed", which needs nltk). On plain English "any" and "ascii" are the same.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tempering.errors import UserError
from tempering.items import ProbeValue, answer_ids, mean, read_items
from tempering.methods.probes._answers import AnswersItem, asked_ids, shown
from tempering.types import ItemScore, Policy, ProbeScores

CATALOGUE = ("S092", "S144", "S034")
Words = Literal["any", "ascii", "stemmed"]


def words(text: str, how: Words = "any") -> list[str]:
    """The words that are compared.

    Raises:
        UserError: stems are asked for and nltk is not installed.
    """
    if how == "any":
        return re.findall(r"[^\W_]+", text.casefold())
    found = re.findall(r"[a-z0-9]+", text.lower())
    if how == "ascii":
        return found
    try:
        stem = importlib.import_module("nltk.stem.porter").PorterStemmer().stem
    except ImportError as error:
        raise UserError('words "stemmed" need Porter\'s stemmer: install nltk, or take words "any"') from error
    return [stem(word) if len(word) > 3 else word for word in found]


def common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, by bits (Hyyrö 2004): a 0 in `row` at i says that the length grows at a[i]."""
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        hit = row & places.get(word, 0)
        row = (row + hit | row - hit) & full
    return len(a) - row.bit_count()


def rouge_l(output: str, answer: str, how: Words = "any") -> tuple[float, float, float]:
    """(precision, recall, F1); all 0 where either has no words."""
    theirs, ours = words(answer, how), words(output, how)
    same = common(theirs, ours)
    if not same:
        return 0.0, 0.0, 0.0
    precision, recall = same / len(ours), same / len(theirs)
    return precision, recall, 2 * precision * recall / (precision + recall)


def rouge_1(output: str, answer: str, how: Words = "any") -> float:
    """Recall of single words: how many of the answer's the output has, each as often as it stands there (PISTOL)."""
    theirs, ours = Counter(words(answer, how)), Counter(words(output, how))
    return (theirs & ours).total() / theirs.total() if theirs else 0.0


class Rouge(ProbeValue):
    """Mean ROUGE-L of greedy answers. On the side of what is to go, less is better."""

    kind: Literal["rouge"] = "rouge"
    name: str = "rouge"
    items: str | tuple[AnswersItem, ...]
    """A JSON-lines file or items ({"prompt", "answer"})."""
    measure: Literal["recall", "f1", "rouge_1"] = "recall"
    words: Words = "any"
    max_new_tokens: int = Field(default=128, gt=0)
    stop: tuple[str, ...] = ()
    cut: bool = False
    """Compare with the first `max_new_tokens` tokens of the answer only."""

    def asks(self, policy: Policy, answered: object) -> list[tuple[int, ...]]:
        """The prompts whose greedy answers it will want; all of them at first, when nothing is `answered`."""
        items = read_items(self.items, AnswersItem, self.limit) if answered is None and not self.stop else ()
        return [asked_ids(policy, item.prompt, self.chat) for item in items]

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.sample import sample

        items = read_items(self.items, AnswersItem, self.limit)
        prompts = [asked_ids(policy, item.prompt, self.chat) for item in items]
        scored = []
        for item, (episode,) in zip(items, sample(policy, prompts, max_new_tokens=self.max_new_tokens, stop=self.stop), strict=True):
            expected = item.answer
            if self.cut:
                expected = policy.tokenizer.decode(answer_ids(policy, expected)[: self.max_new_tokens], skip_special_tokens=True)
            precision, recall, f1 = rouge_l(episode.text, expected, self.words)
            numbers = {"precision": precision, "recall": recall, "f1": f1, "rouge_1": rouge_1(episode.text, expected, self.words)}
            scored.append(ItemScore(item.id, numbers[self.measure], shown(item.prompt), episode.text, expected, numbers))
        name = {"recall": "ROUGE-L recall", "f1": "ROUGE-L F1", "rouge_1": "ROUGE-1 recall"}[self.measure]
        summary = {key: mean([s.extra[key] for s in scored]) for key in ("recall", "f1")}
        return ProbeScores(self.name, name, "continuous", self.side == "keep", tuple(scored), self.side, summary)
