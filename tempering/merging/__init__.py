"""Merging models: weights read lazily, tensor by tensor, and written as they are made, in memory that does not grow with the models.

`read` opens what a user names as a mapping from names to tensors, `config` is what is wanted (a mergekit file, or the same from flags), `plan` says
of every tensor of the result what goes into it, `write` is the sharded, resumable writer, `run` puts them together.
"""
