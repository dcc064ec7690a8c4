"""Optimizers that torch does not have: `--optimizer.name sophia`. A file here is found by its name (`optim.build`)."""
