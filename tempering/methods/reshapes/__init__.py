"""How a model is made larger or smaller: one idea, one file."""
