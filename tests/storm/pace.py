"""The machine's pace: the share of a core that a mostly idle process gets when it works.

Limits of time are meant for a machine that has a core left. One that is shared with other work,
or that its host holds up, gets as much longer as it is slower: measured by a process of its own
that does the same small work over and over.
"""

import bisect
import subprocess
import sys
import threading
from typing import Self

# Each measurement: some five milliseconds of work, every tenth of a second.
WORK = """
import sys, time
while True:
    begin = time.monotonic()
    sum(range(200_000))
    print(begin, time.monotonic() - begin, flush=True)
    time.sleep(0.1)
"""


class Pace:
    """A measurement of the pace while the block runs; times are those of `time.monotonic`."""

    def __init__(self) -> None:
        self._moments: list[float] = []
        self._durations_s: list[float] = []

    def __enter__(self) -> Self:
        command = [sys.executable, "-I", "-S", "-c", WORK]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._reading.join()
        self._process.communicate()

    def note(self, moment: float, duration_s: float) -> None:
        """Add a measurement, which must be later than all earlier measurements."""
        self._moments.append(moment)
        self._durations_s.append(duration_s)

    def share(self, begin: float, end: float) -> float:
        """Return the share of a core between two moments; 1 where nothing was measured."""
        first = max(bisect.bisect_left(self._moments, begin) - 1, 0)
        last = max(bisect.bisect_right(self._moments, end), first + 1)
        durations_s = self._durations_s[first:last]
        return min(self._durations_s) * len(durations_s) / sum(durations_s) if durations_s else 1.0

    def elapsed(self, begin: float, end: float) -> float:
        """Return how long the time between two moments would be on a machine with a free core."""
        return (end - begin) * self.share(begin, end)

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            moment, duration_s = line.split()
            self.note(float(moment), float(duration_s))
