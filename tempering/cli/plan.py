"""`temper plan RECIPE`: the flags of `temper run`, and instead of the run what it would need."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tempering.cli.show import say, table
from tempering.cli.values import Given, Signature
from tempering.index import load_recipe

if TYPE_CHECKING:
    from tempering.planning.terms import Plan

GIB = 2**30


@dataclass(frozen=True)
class PlanOptions:
    """Options of a plan, whatever the recipe."""

    config: str | None = None
    """YAML or JSON file of values for this recipe, or an earlier run's folder; flags win over it."""
    switches: bool = False
    """Also try the settings that save memory where the run fits without them."""
    json: bool = False
    """Print one JSON object instead of tables."""
    debug: bool = False
    """Show tracebacks."""


def command(spec: str, recipe: Callable[..., Any]) -> Callable[..., int]:
    """The plan command of one recipe."""
    from tempering.cli import run as single

    return single.command(spec, recipe, act, PlanOptions)


def act(signature: Signature, given: Sequence[Given], options: PlanOptions) -> int:
    """Resolve the values, plan, and print."""
    from tempering.cli.run import Generic, resolve
    from tempering.display import Display
    from tempering.planning.switches import plan as planned

    arguments, _ = resolve(signature, given, Generic(config=options.config))
    notes: Callable[[str], None] = Display().say
    found = planned(signature.recipe, arguments, switches="all" if options.switches else "needed", say=notes)
    say(json.dumps(found.as_dict(), indent=2, ensure_ascii=False)) if options.json else show(found)
    return 0


def show(found: Plan) -> None:
    """Print a plan: the terms, the switches, one sentence."""
    peak = max(1, found.peak)
    rows = [
        (term.name, f"{term.bytes / GIB:.2f}", f"{100 * term.bytes / peak:.0f}%" if term.at_peak else "", term.about)
        for term in sorted(found.terms, key=lambda t: (not t.at_peak, -t.bytes))
    ]
    rows += [("peak", f"{found.peak / GIB:.2f}", "100%", found.moment)]
    title = f"{found.recipe} on {found.model}: {found.parameters:,} parameters, {found.trainable:,} trained, {found.tokens:,} tokens a pass"
    table(("memory", "GiB", "of peak", "what it is"), rows, title=title, right=(1, 2), wrap=(3,))
    if found.switches:
        say()
        table(("with", "peak GiB", ""), [(s.flag, f"{s.peak / GIB:.2f}", _verdict(s.peak, found.free)) for s in found.switches], right=(1,))
    say()
    say(found.sentence())


def _verdict(peak: int, free: int | None) -> str:
    return "" if free is None else "fits" if peak <= free else "does not fit"


def plan(recipe: str | Callable[..., Any], *, switches: Literal["needed", "all"] = "needed", **values: Any) -> Plan:
    """What a run will need: `tp.plan("sft", model="builtin:tiny", data="my.jsonl", scope="full").sentence()`.

    Args:
        recipe: its name, `path/to/file.py:function`, or the function itself.
        switches: "needed" tries the settings that save memory where the run does not fit; "all" always.
        values: the recipe's arguments, as for `tp.run`.

    Raises:
        UserError: wrong values or input, or a model that cannot be traced.
    """
    from tempering.cli.run import Generic, resolve
    from tempering.planning.switches import plan as planned

    signature = Signature(load_recipe(recipe), recipe) if isinstance(recipe, str) else Signature(recipe)
    arguments, _ = resolve(signature, signature.from_python(values), Generic())
    return planned(signature.recipe, arguments, switches=switches)
