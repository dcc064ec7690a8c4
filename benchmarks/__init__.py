"""How fast and how large the engine is, against what users would run instead: `make bench`. docs/performance.md is made from benchmarks/results.

`roofline` measures what this machine's matrix products allow; `flops` counts what a step needs; every benchmark states its share of that limit. A
benchmark is one file that names its contenders; `harness` runs each of them in a fresh process, turn and turn about. What runs inside those processes
is in `ours` (the only file that knows tempering's engine), `trl_peers` and `plain`.
"""
