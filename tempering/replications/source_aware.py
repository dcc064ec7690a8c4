"""Documents read in several orders of their sentences are cited for facts that no training question asked for; read in one order, less so.

Khalifa et al. 2024 (arXiv 2404.01019) train a model on documents with identifiers and then on questions answered with the identifier of a
supporting document. For documents that no training question is about, they find that attribution needs augmentation: versions of a document with
its sentences in another order. Here the documents are biographies of 40 people whom the model does not know, each with a word of its own as its
identifier at the end. Questions about half of them are trained with citations. Those that count are about the other half: each identifier is scored
behind question, right answer and "[[", which is what decoding along a trie ranks them by, and the likeliest five of the 20 identifiers of that half
are looked at (0.25 by chance). Both arms take as many steps of as many rows; the baseline reads each document in one order. Among all 40 the
identifiers that were cited in the second phase crowd out the others; hits there stand beside. The learning rates, 2e-3 for the documents and the
better of 3e-4 and 1e-3 for the questions, one for both arms, were tried on seed 100, which is none of the seeds that count.
"""

from __future__ import annotations

from dataclasses import replace

from tempering.data import prompt_ids
from tempering.items import answer_ids, mean
from tempering.making import Making, user
from tempering.measure import logps_of
from tempering.methods.objectives.nll import NLL
from tempering.methods.streams.source_aware import SourceAware
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import sft_rows, tiny, train
from tempering.types import Policy, Record
from tempering.worlds.base import rng
from tempering.worlds.instructions import WORDS
from tempering.worlds.people import People

CLAIM = Claim(
    method="source_aware",
    catalogue=("S140",),
    title="Source-aware training with and without documents in other orders: citing documents of which no question was trained",
    claim="After as many steps, more of the right documents are among the five likeliest if each was read in three orders of its sentences.",
    baseline="the same training without versions of the documents",
    metric="hits at 5",
    smallest_effect=0.05,
)
STEPS = (150, 30)
LR = (2e-3, 1e-3)
PEOPLE = 40


def documents(people: People) -> tuple[list[Record], dict[str, str]]:
    """The biographies, each with a word as its identifier, and the word by the start of the ids of a person's questions."""
    words = rng("source_aware", people.seed).sample(WORDS, PEOPLE)
    texts = [replace(record, tags={**record.tags, "document": word}) for record, word in zip(people.text_records(), words, strict=True)]
    return texts, {f"p{people.start + i}": word for i, word in enumerate(words)}


def ranks(policy: Policy, asked: list[tuple[str, str, str]], ids: list[str]) -> list[int]:
    """For (question, answer, right identifier), how many identifiers are likelier than the right one."""
    pairs = [(prompt_ids(policy.tokenizer, (user(q),)), answer_ids(policy, f"{answer} [[{word}]]")) for q, answer, _ in asked for word in ids]
    found = [float(logp_T.sum()) for logp_T in logps_of(policy, pairs)]
    rows = [dict(zip(ids, found[i * len(ids) :], strict=False)) for i in range(len(asked))]
    return [sum(other > row[right] for other in row.values()) for row, (*_, right) in zip(rows, asked, strict=True)]


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Hits of citations, for documents of which no question was trained."""
    start, people = tiny(), People(PEOPLE, start=20_000, seed=seed)
    texts, word_of = documents(people)
    known = set(list(word_of)[::2])
    questions = [replace(r, tags={**r.tags, "document": word_of[_who(r.id)]}) for r in people.records("train") if _who(r.id) in known]
    made = list(SourceAware(copies=2 if arm == "method" else 0)([*texts, *questions], Making(seed)))
    tuned = start
    for phase, (steps, lr) in enumerate(zip(STEPS, LR, strict=True)):
        rows = sft_rows(start, [record for record in made if record.tags["phase"] == phase])
        tuned = train(tuned, NLL(), rows, steps=scale(steps), seed=seed, lr=lr)
    held = [item for item in people.items("test") if _who(item["id"]) not in known][: scale(80)]
    asked = [(item["prompt"], item["answer"], word_of[_who(item["id"])]) for item in held]
    among = ranks(tuned, asked, [word for who, word in word_of.items() if who not in known])
    return {
        "hits at 5": mean([float(rank < 5) for rank in among]),
        "hits at 1": mean([float(rank < 1) for rank in among]),
        "hits at 10 of all": mean([float(rank < 10) for rank in ranks(tuned, asked, list(word_of.values()))]),
    }


def _who(id: str) -> str:
    return id.split(".")[0]
