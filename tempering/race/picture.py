"""Gain against what was kept, one mark a method."""

from __future__ import annotations

from markupsafe import Markup

from tempering.race.result import Race
from tempering.report.scatter import STYLE, Axis, Ends, Mark, scatter
from tempering.stats import Interval

__all__ = ["STYLE", "picture"]


def picture(race: Race, *, alone: bool = False) -> Markup:
    """The drawing as <svg>.

    Args:
        alone: with its own style and name space, for a file of its own.
    """
    lanes = [lane for lane in race.lanes if lane.keep is not None] or list(race.lanes)
    share = race.share
    marks = []
    for lane in lanes:
        told = f"{lane.method}: gain {lane.gain.point:+.3f}" + (f", kept {lane.keep.point:.1%}" if lane.keep else "")
        kept: Ends = _ends(lane.keep) if lane.keep else (1.0, None, None)
        marks.append(Mark(lane.method, kept, _ends(lane.gain), told, lane.method == race.lanes[0].method))
    said = "; ".join(
        f"{lane.method}: gain {_said(lane.gain.point, share)}" + (f", kept {lane.keep.point:.1%}" if lane.keep else "") for lane in lanes
    )
    across = Axis("kept of what it knew", lambda v: f"{100 * v:.4g}%", 1.0 if lanes[0].keep else None)
    up = Axis(f"gain on {race.gain_on}{', nats a token' if race.margin else ', points' if share else ''}", lambda v: _said(v, share))
    return scatter(marks, across, up, f"Gain against kept. {said}.", alone=alone)


def _ends(interval: Interval) -> Ends:
    return interval.point, interval.low, interval.high


def _said(value: float, share: bool) -> str:
    return (f"{100 * value:.4g}" if share else f"{value:.4g}").replace("-", "\u2212")
