"""Control tokens of controllable preference optimisation: the wanted scores as text before the prompt, and what a response is worth under them."""

from __future__ import annotations

from collections.abc import Mapping

from tempering.types import Response


def prefix(wanted: Mapping[str, float]) -> str:
    """<helpfulness:5><honesty:2> and a line break, in the order given; "" where nothing is wanted."""
    return "".join(f"<{name}:{value:g}>" for name, value in wanted.items()) + ("\n" if wanted else "")


def condition(response: Response, control: tuple[str, ...]) -> dict[str, float]:
    """The controlled aspects that a response was rated on; all of them where none are named."""
    return {name: response.aspects[name] for name in (control or sorted(response.aspects)) if name in response.aspects}


def worth(response: Response, wanted: Mapping[str, float], weights: Mapping[str, float], strength: float) -> float:
    """R = sum of w_i g_i: g_i = -strength |wanted_i - rated_i| where i is controlled, and the rating itself where it is not."""
    return sum(
        weights.get(name, 1.0) * (-strength * abs(wanted[name] - rated) if name in wanted else rated) for name, rated in response.aspects.items()
    )
