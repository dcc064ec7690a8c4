"""Methods by kind: one paper, one file, one public name. `tempering.index` finds them by walking these folders; there is no registry."""
