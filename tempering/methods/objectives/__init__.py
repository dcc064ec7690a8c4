"""What is wanted: losses on named parts of a batch; one paper, one file."""
