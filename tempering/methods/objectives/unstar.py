"""UnSTAR: questions that the model still answers right are learned with a wrong answer and a reason that makes it sound right (anti-samples).

    loss = - sum_t w_t log p(a_t | x, a_<t) / sum_t w_t   on the anti-samples a = (wrong answer, reason)

Sinha et al. 2024, arXiv 2410.17050 (S091). Before training the model is asked each question; one that it gets wrong is left alone, so a model that
knows none is not trained. For the others it is asked for a wrong answer of the same kind with a reason, which is dropped if it names the true one
(`forgetting/alternates.py`). This is one round of the paper's loop: the next is a run on the model that came out, until that says that nothing is
known. Paraphrases of the questions are what the forget file has; the paper's model writes new ones between rounds. Retain rows are in the mix as in
its algorithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tempering.cases import Case
from tempering.methods.objectives.idk import Idk

FAMILY = "forget"
CATALOGUE = ("S091",)
CONFUSED_WITH = {"idk": "imitates refusals and pushes nothing away", "altpo": "prefers another answer of the model's own"}


@dataclass(frozen=True)
class UnSTAR(Idk):
    """Negative log-likelihood of a wrong answer with a reason instead of each forget answer that is still known."""

    alternates: Annotated[int, Field(gt=0)] = 1
    """Anti-samples that the model is asked for, for each question."""
    part = "alternate"
    asks_for, only_known = "wrong", True


CASES = (
    Case(
        "anti-samples of two questions, beside the likelihood of the retain rows",
        UnSTAR(retain_weight=2.0),
        {"alternate": {"logp": [[-9, -2, -4], [-8]]}, "retain": {"logp": [[-1, -3], [-5]]}},
        weights={"alternate": [[0, 1, 0.5], [2]]},
        loss=(4 + 16) / 3.5 + 2 * 3,
        gradient={"alternate/logp": [[0, -1 / 3.5, -0.5 / 3.5], [-2 / 3.5]]},
        logs={"instead_nll": (2 + 4 + 8) / 3},
    ),
)
