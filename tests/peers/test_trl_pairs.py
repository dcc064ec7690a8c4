"""Losses on pairs equal TRL 1.16.0's on its own rows: loss, gradient of every parameter, logged rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tempering.methods.objectives.aot import AOT
from tempering.methods.objectives.apo import APO
from tempering.methods.objectives.bco_pair import BCOPair
from tempering.methods.objectives.cpo import CPO
from tempering.methods.objectives.discopop import DiscoPOP
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.exo import EXO
from tempering.methods.objectives.f_dpo import FDPO
from tempering.methods.objectives.hinge import Hinge
from tempering.methods.objectives.ipo import IPO
from tempering.methods.objectives.ld_dpo import LDDPO
from tempering.methods.objectives.ln_dpo import LNDPO
from tempering.methods.objectives.nca import NCA
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.orpo import ORPO
from tempering.methods.objectives.robust_dpo import RobustDPO
from tempering.methods.objectives.sppo import SPPO
from tempering.methods.objectives.wpo import WPO
from tempering.types import Objective, Row, Segment
from tests.conftest import make_llama
from tests.peers.harness import PAIR_METRICS, assert_same, check_trl, our_step, trl_step

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]

DPO_TYPES: list[tuple[Objective, dict[str, Any]]] = [
    (DPO(beta=0.5), {"loss_type": "sigmoid"}),
    (Hinge(beta=0.5), {"loss_type": "hinge"}),
    (IPO(beta=0.5), {"loss_type": "ipo"}),
    (RobustDPO(beta=0.5, label_smoothing=0.2), {"loss_type": "robust", "label_smoothing": 0.2}),
    (EXO(beta=0.5, label_smoothing=0.01), {"loss_type": "exo_pair", "label_smoothing": 0.01}),
    (NCA(beta=0.5), {"loss_type": "nca_pair"}),
    (SPPO(beta=0.5), {"loss_type": "sppo_hard"}),
    (APO(beta=0.5), {"loss_type": "apo_zero"}),
    (APO(beta=0.5, anchor="down"), {"loss_type": "apo_down"}),
    (DiscoPOP(beta=0.5, tau=0.1), {"loss_type": "discopop", "discopop_tau": 0.1}),
    (LNDPO(beta=0.5), {"loss_type": "sigmoid_norm"}),
    (BCOPair(beta=0.5, shift=False), {"loss_type": "bco_pair"}),
    (AOT(beta=0.5), {"loss_type": "aot"}),
    (AOT(beta=0.5, paired=False, label_smoothing=0.1), {"loss_type": "aot_unpaired", "label_smoothing": 0.1}),
    (WPO(beta=0.5), {"loss_type": "sigmoid", "use_weighting": True}),
    (EXO(beta=0.5, label_smoothing=0.1, weighting=True), {"loss_type": "exo_pair", "label_smoothing": 0.1, "use_weighting": True}),
    (DPO(beta=0.5, sft=0.3), {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]}),
    (LDDPO(beta=0.5, ld_alpha=0.3), {"loss_type": "sigmoid", "ld_alpha": 0.3}),
    (IPO(beta=0.5, ld_alpha=0.3), {"loss_type": "ipo", "ld_alpha": 0.3}),
    (APO(beta=0.5, ld_alpha=0.0), {"loss_type": "apo_zero", "ld_alpha": 0.0}),
    (FDPO(beta=0.5, divergence="forward_kl"), {"loss_type": "sigmoid", "f_divergence_type": "forward_kl"}),
    (FDPO(beta=0.5), {"loss_type": "sigmoid", "f_divergence_type": "js_divergence"}),
    (FDPO(beta=0.5, divergence="alpha_divergence", divergence_alpha=0.3), {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3}),
    (Hinge(beta=0.5, divergence="js_divergence"), {"loss_type": "hinge", "f_divergence_type": "js_divergence"}),
    (IPO(beta=0.5, divergence="alpha_divergence"), {"loss_type": "ipo", "f_divergence_type": "alpha_divergence"}),
]


def words(settings: dict[str, Any]) -> str:
    return "-".join(str(value) for value in settings.values())


@pytest.mark.parametrize(("objective", "settings"), DPO_TYPES, ids=[words(settings) for _, settings in DPO_TYPES])
def test_dpo_s_loss_types(tmp_path: Path, objective: Objective, settings: dict[str, Any]) -> None:
    check_trl("dpo", objective, tmp_path, metrics=PAIR_METRICS, micro=70, tolerance=1e-5, beta=0.5, **settings)


CPO_TYPES: list[tuple[Objective, dict[str, Any]]] = [
    (CPO(beta=0.3), {"loss_type": "sigmoid"}),
    (CPO(beta=0.3, sft=0.5, label_smoothing=0.2), {"loss_type": "sigmoid", "cpo_alpha": 0.5, "label_smoothing": 0.2}),
    (CPO(beta=0.3, form="hinge"), {"loss_type": "hinge"}),
    (CPO(beta=0.3, sft=0.0, form="ipo"), {"loss_type": "ipo", "cpo_alpha": 0.0}),
]


@pytest.mark.parametrize(("objective", "settings"), CPO_TYPES, ids=[words(settings) for _, settings in CPO_TYPES])
def test_cpo_s_loss_types(tmp_path: Path, objective: Objective, settings: dict[str, Any]) -> None:
    check_trl("cpo", objective, tmp_path, metrics=PAIR_METRICS, micro=70, tolerance=1e-5, beta=0.3, **settings)


def test_orpo(tmp_path: Path) -> None:
    """TRL's likelihood term counts the prompt's tokens too: a part of its own here, whose prompts have weight."""
    model = make_llama(seed=1)
    theirs = trl_step("orpo", tmp_path, model, beta=0.3)

    def whole(segment: Segment) -> Segment:
        weight = segment.weight.copy()
        weight[1:] = 1.0
        return Segment(segment.ids, weight)

    rows: list[Row] = [{**row, "whole": tuple(whole(s) for s in row["chosen"])} for row in theirs.rows]
    ours = our_step(ORPO(beta=0.3, sft=0.0) + NLL("whole"), rows, model)
    assert_same(ours, theirs, PAIR_METRICS | {"log_odds": "log_odds_chosen"}, tolerance=1e-5)
