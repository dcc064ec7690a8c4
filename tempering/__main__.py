"""`python -m tempering` is the `temper` program."""

from __future__ import annotations

from tempering.cli import script

if __name__ == "__main__":
    script()
