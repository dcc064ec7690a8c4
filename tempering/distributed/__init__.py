"""More than one process: who takes which share of a step, where each weight lies, and who may write. Nothing outside of this package knows ranks."""
