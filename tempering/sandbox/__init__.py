"""Untrusted code: programs that a model wrote are run where they can harm nothing, and judged where they can fake nothing.

    run.py        what a run may use and how it ended; one program, or many at once
    launcher.py   the processes between us and a program: namespaces, limits, the watch, the sweep (stands alone)
    verdict.py    tests of an answer's functions, in a process that the answer cannot reach
    inside_answer.py, inside_tests.py, values.py   what runs inside (these stand alone)

docs/rewards.md says what each level of isolation stops and what it does not.
"""
