"""What git says about claims and results: a rule must stand in a commit before the result that it judges."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tempering.errors import UserError
from tempering.proof import claims
from tempering.proof.claims import Result
from tempering.proof.digest import ROOT, files_of, tree_digest


def git(*words: str, root: Path = ROOT) -> str | None:
    """What git says in a checkout, by default the package's; None where it fails or is not there."""
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def in_checkout() -> bool:
    """Whether this package is run from its own git checkout, and not from an installed copy."""
    top = git("rev-parse", "--show-toplevel")
    return bool(top) and Path(str(top)).resolve() == ROOT.resolve() and git("ls-files", "--error-unmatch", "tempering/__init__.py") is not None


def committed(name: str) -> str:
    """The commit that a record of this claim would rest on.

    Raises:
        UserError: a file that the result depends on is not committed, or differs from the last commit.
    """
    return commit_of([path.relative_to(ROOT).as_posix() for path in files_of(name)])


def commit_of(files: Sequence[str], root: Path = ROOT) -> str:
    """The last commit, where it holds all `files` (paths from the root) as they are now.

    Raises:
        UserError: it does not.
    """
    head = git("rev-parse", "HEAD", root=root)
    for short in files:
        if head is None or git("cat-file", "-e", f"HEAD:{short}", root=root) is None:
            raise UserError(
                f"{short} is not committed, and the rule of a verdict must stand in a commit before the result: commit it first, or --quick"
            )
        if git("status", "--porcelain", "--", short, root=root):
            raise UserError(f"{short} differs from the last commit, on which the result would rest: commit it first, or try it out with --quick")
    return str(head)


def unproven(name: str, result: Result, root: Path = ROOT) -> str:
    """What is wrong with the order of commits: "" if the claim stood, as it was run, before the commit that brought its result.

    The commit that the result names must lie before it. Where the history was rewritten since and that commit is gone, the claim must have stood
    unchanged in a parent of the result's commit.
    """
    stored, claim = f"replications/{name}.json", (claims.FOLDER / f"{name}.py").relative_to(ROOT).as_posix()
    brought = git("log", "-1", "--format=%H", "--", stored, root=root)
    if not brought:
        return ""  # Not committed yet: whoever commits it makes a later commit than that of the claim.
    parents = (git("log", "-1", "--format=%P", brought, root=root) or "").split()
    if git("cat-file", "-e", f"{result.commit}^{{commit}}", root=root) is not None:
        if result.commit == brought or git("merge-base", "--is-ancestor", result.commit, brought, root=root) is None:
            return f"{stored} rests on commit {result.commit[:12]}, which is not before {brought[:12]}, the commit that brought the result"
        parents = [result.commit]
    for parent in parents:
        text = git("show", f"{parent}:{claim}", root=root)
        if text is not None and tree_digest(text)[:12] == result.files.get(claim):
            return ""
    return f"{claim} did not stand as it was run in a commit before {brought[:12]}, the commit that brought the result"
