"""Merges: one tensor made of the same tensor of several models, by paper or by mergekit's name. One file, one method."""
