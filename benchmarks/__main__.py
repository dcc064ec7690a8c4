"""Runs benchmarks and stores their results: all of them, or those named.

python -m benchmarks                        # all, about an hour on two cores
python -m benchmarks dpo sampling           # these
python -m benchmarks --quick                # all in small sizes: whether they run, not what they say; nothing is stored
python -m benchmarks --precision fp32       # not what suits the processor: results of float32 stand in files of their own
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback

from benchmarks import harness, precision

ALIKE = ("roofline", "merge")
"""What is the same in whatever precision models train."""
NAMES = ("roofline", "startup", "sft_full", "sft_lora", "dpo", "sampling", "on_policy_step", "growth", "merge")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--rounds", type=int, help=f"turns of every contender, {harness.ROUNDS} by default")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds, nothing stored")
    parser.add_argument("--precision", choices=tuple(precision.CHOICES), help="of everyone's matrix products; bf16 where the processor has it")
    args = parser.parse_args()
    if args.precision:
        os.environ[precision.VARIABLE] = args.precision
    if unknown := [name for name in args.names if name not in NAMES]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    failed = []
    for name in args.names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        try:
            rows = module.measure(rounds=args.rounds, quick=args.quick)
        # One benchmark that fails must not take the results of the others with it.
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        harness.show(rows)
        if not args.quick:
            print(harness.store(name if name in ALIKE else precision.stem(name), rows))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
