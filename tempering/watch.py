"""What sees a run while it trains: the progress line, the trackers it is logged to, and the profiler where one was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tempering.display import Display
from tempering.logs import Logs, first_process
from tempering.profiling import Window, profiling


@contextmanager
def watching(display: Display, logs: Logs, steps: int, window: Window | None, folder: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """The training phase; inside it `fit` calls what is given with the metrics of every step.

    Args:
        steps: how many the run takes.
        window: the steps to profile; None profiles nothing and costs nothing.
        folder: the run's, where a profile is written.
    """
    logs.open()
    profiled = profiling(window, folder, display.say) if window is not None and first_process() else nullcontext()
    with display.phase("training", steps) as phase, profiled as stepped:

        def step(metrics: Mapping[str, Any]) -> None:
            phase.advance(metrics["step"], steps, f"loss {metrics['loss']:.4f}  {metrics['tokens_per_s']:.0f} tokens/s")
            logs.metrics(metrics)
            if stepped is not None:
                stepped()

        yield step
