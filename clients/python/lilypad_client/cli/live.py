"""A live view of a model, redrawn at most ten times a second."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from lilypad_client.cli import chart
from lilypad_client.cli.terminal import console, printable

if TYPE_CHECKING:
    from rich.console import Group

# A terminal over SSH shows no more than this, and drawing is slower than reading.
MAX_REDRAWS_PER_S = 10
SHOWN_POINTS = 60


class Picture:
    """Charts of each metric's latest values, or a line per update if output cannot be redrawn."""

    def __init__(self, model: str) -> None:
        from rich.live import Live  # noqa: PLC0415  (slow to import)

        self._out = console()
        self._redraws = self._out.is_terminal and not self._out.is_dumb_terminal
        self._model = model
        self._heading = f"{model}: waiting for the first update"
        self._points: dict[str, deque[float]] = {}
        # Guards the picture's content; never held while Live's own lock is taken.
        self._lock = threading.Lock()
        self._drawn_at = 0.0
        self._later: threading.Timer | None = None
        self._live = Live(get_renderable=self._compose, console=self._out, auto_refresh=False)

    def __enter__(self) -> Self:
        if self._redraws:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            later, self._later = self._later, None
        if later is not None:
            later.cancel()
        # Draws the updates since the last redraw.
        self._live.stop()

    def add(self, update: Any) -> None:
        heading = f"{self._model} at {update.timestamp:%H:%M:%S}"
        if not update.complete:
            heading += "; updates were left out: lilypad samples list has them"
        if not self._redraws:
            values = " ".join(f"{name}={value:.4g}" for name, value in update.metrics.items())
            self._out.print(f"{heading}  {values}", soft_wrap=True)
            return
        with self._lock:
            self._heading = heading
            for name, value in update.metrics.items():
                self._points.setdefault(name, deque(maxlen=SHOWN_POINTS)).append(value)
            if self._later is not None:
                return
            pause_s = self._drawn_at + 1 / MAX_REDRAWS_PER_S - time.monotonic()
            if pause_s > 0:
                # Drawn then even if no other update follows.
                self._later = threading.Timer(pause_s, self._draw)
                self._later.daemon = True
                self._later.start()
                return
        self._draw()

    def _draw(self) -> None:
        with self._lock:
            self._later = None
            self._drawn_at = time.monotonic()
        self._live.refresh()

    def _compose(self) -> Group:
        from rich.console import Group  # noqa: PLC0415  (slow to import)
        from rich.text import Text  # noqa: PLC0415

        with self._lock:
            lines = [self._heading]
            for name, points in self._points.items():
                lines += chart.lines(name, list(points), self._out.width)
        return Group(*(Text(printable(line)) for line in lines))
