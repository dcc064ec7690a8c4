"""`temper trade`, `temper audit`, `temper purge`: ways to forget compared, what was asked to be forgotten, and what a run still holds of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tempering.cli.show import clean, say, table
from tempering.errors import UserError


def trade(
    *methods: str,
    rates: str = "1e-4,3e-4,1e-3",
    tune: int | None = None,
    floor: float = 0.9,
    retain_loss: str | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    out: Path | None = None,
) -> int:
    """Forget the same rows in several ways, each at several learning rates: a table and a picture of what came out against what was kept.

    The same command goes on where it was; one with another method or rate runs what is new. Everything is measured with one seed.

    Args:
        methods: forget methods by name, for example npo simnpo gradient_ascent.
        rates: learning rates to try, the same for all methods.
        tune: look for each method's rate and number of steps with this many tokens of training in all, and run only what is found; --set
            look_every=5 says how often is looked.
        floor: how likely a token of the retain rows must stay, against before, at what is found.
        retain_loss: what holds the rest in every method that takes any retain term: none, nll or kl; by default each has its own.
        set_: a value of the recipe `forget` for all of them, NAME=VALUE: --set model=runs/x/model --set forget=f.jsonl --set retain=r.jsonl
            --set steps=60; may be repeated.
        out: where it goes; runs/trade-... by default, the same for the same command.
    """
    from tempering import index
    from tempering.cli.race import parse_rates
    from tempering.forgetting import trade as trading
    from tempering.forgetting import tune as tuning
    from tempering.home import write_atomic

    tried, known = parse_rates(rates), {entry.name: entry for entry in index.methods("objective") if entry.family == "forget"}
    wrong = "no method is named" if not methods else next((f"{name!r} is no way to forget" for name in methods if name not in known), "")
    if wrong:
        raise UserError(f"temper trade: {wrong}; there are {', '.join(known)}")
    if (tune is not None and tune < 1) or not 0 <= floor <= 1:
        raise UserError(f"--tune is a number of tokens above 0 and --floor one from 0 to 1, got {tune} and {floor:g}")
    recipe, values = _values(set_ or [], ("method", "optimizer.lr", "lr", "audit", "look_tokens", *(("until",) if tune else ())))
    if values["attacks"] == "none":
        raise UserError("--set attacks=none: a trade is judged by what attacks get out; take all or plain")
    named = hashlib.sha256(repr((methods, tried, tune, retain_loss, values)).encode()).hexdigest()[:8]
    folder = out or Path("runs") / f"trade-{'-'.join(methods[:4])}-{named}"
    say(f"trade {folder}: {len(methods)} methods at {len(tried)} rates")
    ways = {name: tuning.way_of(name, retain_loss) for name in methods}
    if tune is None:
        deals, search, notes = list(trading.legs(recipe, values, ways, tried, folder, say)), None, list[str]()
    else:
        found = tuning.search(recipe, values, ways, tried, tune, folder, say)
        picks = [tuning.chosen([seen for seen in found if seen.method == name], floor) for name in ways]
        deals = list(trading.runs(recipe, [tuning.stopped(values, ways[pick.method], pick) for pick in picks], folder, say))
        write_atomic(folder / "search.json", json.dumps(tuning.plain(found, picks), indent=1))
        drawn = {"oracle": trading.oracle_leak(deals) is not None}
        write_atomic(folder / "search.svg", str(tuning.picture(found, picks, alone=True, **drawn)) + "\n")
        search, notes = tuning.picture(found, picks, **drawn), [tuning.rule(floor, tune)]
    facts = {"model": str(values["base"] or values["model"]), "forget": str(values["forget"]), "retain": str(values["retain"] or "what goes with it")}
    notes = [*trading.notes(deals, tuned=tune is not None), *notes]
    write_atomic(folder / "trade.json", json.dumps({"facts": facts, "deals": trading.plain(deals), "notes": notes}, indent=1))
    write_atomic(folder / "trade.svg", str(trading.picture(deals, alone=True)) + "\n")
    write_atomic(folder / "trade.html", trading.page(deals, facts, notes, search))
    say()
    table(trading.HEADINGS, [trading.cells(deal) for deal in trading.best(deals)], right=range(3, len(trading.HEADINGS)), wrap=(0, 2))
    for note in notes:
        say(note)
    say(f"trade {folder / 'trade.html'}")
    return 0


def requests(
    method: str,
    /,
    *,
    number: Annotated[int, Parameter(name=["--number", "-n"])] = 4,
    set_: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    out: Path | None = None,
) -> int:
    """Forget in several requests, one after the other, and show what drifts: what comes back of earlier ones, and what is lost since the start.

    Args:
        method: how to forget, for example npo.
        number: into how many requests the forget rows are cut, in their order.
        set_: a value of the recipe `forget` for all of them, NAME=VALUE; may be repeated.
        out: where it goes; runs/requests-... by default, the same for the same command.
    """
    from tempering import index
    from tempering.forgetting import sequence
    from tempering.home import write_atomic

    known = [entry.name for entry in index.methods("objective") if entry.family == "forget"]
    if method not in known:
        raise UserError(f"temper requests: {method!r} is no way to forget; there are {', '.join(known)}")
    if number < 1:
        raise UserError(f"--number: expected 1 or more, got {number}")
    recipe, values = _values(set_ or [], ("method", "base", "limit"))
    folder = out or Path("runs") / f"requests-{method}-{number}-{hashlib.sha256(repr(values).encode()).hexdigest()[:8]}"
    say(f"requests {folder}: {number} of them, by {method}")
    found = list(sequence.steps(recipe, values, method, number, folder, say))
    write_atomic(folder / "requests.json", json.dumps(sequence.plain(found), indent=1))
    say()
    names = sequence.headings(found[0])
    table(names, [sequence.cells(step, found[0]) for step in found], right=range(1, len(names)), wrap=range(len(names)))
    say(f"Changes in brackets are against the first model. {folder / 'requests.json'}")
    return 0


def _values(given: list[str], own: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """The recipe `forget` and its values, with those given laid over them."""
    from tempering import index
    from tempering.cli.values import Signature

    pairs = [text.partition("=") for text in given]
    if bad := next((text for text, (name, sign, _) in zip(given, pairs, strict=True) if not name or not sign), None):
        raise UserError(f"--set {bad}: expected NAME=VALUE, for example --set steps=60")
    if taken := next((name for name, _, _ in pairs if name in own or name.startswith("method.")), None):
        raise UserError(f"--set {taken}=...: this command sets it itself")
    recipe = index.load(index.recipe_of_family("forget"))
    signature = Signature(recipe, "forget")
    return recipe, signature.resolve(signature.from_python({name: value for name, _, value in pairs}))


def audit(log: Path, /, *, head: Annotated[str | None, Parameter()] = None) -> int:
    """Check the chain of an audit log of forgetting, and list its requests.

    Args:
        log: the file that runs with --audit append to.
        head: hash of the last line, where it was noted; without it, lines cut off at the end go unseen.
    """
    from tempering.forgetting.audit import verify

    lines = verify(log, head)
    rows = []
    for record in map(json.loads, lines):
        data = record.get("data", {}).get("forget", {})
        kept = record.get("kept")
        method = record.get("method", {}).get("kind", "")
        rows.append(
            (
                str(record["request"]),
                clean(str(record.get("when", ""))),
                clean(str(method)),
                clean(f"{data.get('rows', '?')} rows, sha256 {str(data.get('sha256', ''))[:12]}"),
                "" if kept is None else f"{100 * float(kept):.1f}%",
                clean(str(record.get("verdict", ""))),
            )
        )
    table(("request", "when", "method", "what was to go", "kept", "verdict"), rows, wrap=(3, 5))
    say(f"{len(lines)} requests; the chain holds{'' if head else ' (the end is only checked with --head)'}.")
    return 0


def purge(run: Path, /) -> int:
    """Remove the words that a run of forgetting still holds: tokenised rows in the store, texts in its scores and report.

    Args:
        run: the run's folder.
    """
    from tempering.forgetting.purge import purge as purged

    for sentence in purged(run):
        say(f"removed: {clean(sentence)}" if not sentence.startswith("there was") else sentence)
    return 0
