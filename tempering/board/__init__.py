"""The executable literature: every paper of the catalogue, and how far it stands here.

`rows()` joins three things that a machine reads: the catalogue (catalogue.tsv), the files that say in `CATALOGUE` which papers they are about (the
index and `modules`, by syntax tree), and stored replications (JSON). No state is written down anywhere by hand. Nothing here imports torch.
"""

from __future__ import annotations

from tempering.board.catalogue import Paper, named, papers
from tempering.board.elsewhere import entries, modules
from tempering.board.evidence import Replication, replications
from tempering.board.states import STATES, Row, chosen, row_of, rows

__all__ = ["STATES", "Paper", "Replication", "Row", "chosen", "entries", "modules", "named", "papers", "replications", "row_of", "rows"]
