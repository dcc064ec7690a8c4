"""Judging and comparing: which of two sets of answers is better, by whom, and how sure that is.

    verdicts.py   questions, verdicts, and a duel: every item asked in both orders;  rates.py  win rates, also with length held equal
    ratings.py    Bradley-Terry strengths and Elo ratings with intervals;  agreement.py  Cohen's kappa, Krippendorff's alpha
    judges.py     who judges: a model behind any sampler, pairwise or by marks, or a program (the gold reward of a world)
    accuracy.py   how often a reward model or an implicit reward finds the better answer of a pair

A verdict that cannot be read is counted and never guessed.
"""
