"""Proof of a method: hand-worked cases, mutations of its file that the cases must notice, and properties every objective keeps.

`hand.check(case)` computes one case, `mutants.check(path)` changes the file in every way it knows and expects some case to fail, `contract.check`
holds an objective to what is true of all. Tests of one's own methods may import all of it; nothing else in the package does.
"""
