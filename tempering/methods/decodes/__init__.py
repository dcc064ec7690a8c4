"""Decodes: logits to logits while sampling, one file each."""
