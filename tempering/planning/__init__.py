"""What a run will need, said before it: parameters, memory term by term, and which switch makes it fit.

The recipe is rehearsed: it runs as always, with a model whose tensors have shapes and no contents (`rehearse.py`), up to its first training. Two
steps of the training loop itself are then traced on a shallow copy of the model while a meter counts the bytes that are alive (`trace.py`,
`meter.py`), so that whatever the engine, an objective or a scope keeps or throws away is in the count without anybody writing it down twice.
`terms.py` carries the counts to the model's depth and adds them up; `switches.py` does it again with each setting that could save memory.
"""

from __future__ import annotations
