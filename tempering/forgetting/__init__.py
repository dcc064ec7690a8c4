"""Forgetting: what is to go, whether it is gone, and what went with it. Recipes put these together with losses of the family "forget".

`targets` turns data into secrets that can be asked for; the attacks are probes (`methods/probes`, on `_attack.py`), so the ledger compares them item
by item like any other; `verdict` reads the worst of them against the model that never saw the data, if there is one.
"""
