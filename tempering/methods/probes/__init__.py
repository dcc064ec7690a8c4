"""Probes: what is measured, one file each. A probe is a value that is called with a policy and returns item-level scores."""
