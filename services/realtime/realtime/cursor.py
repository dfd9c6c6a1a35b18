"""How far a client has heard a model, as text that it keeps and hands back."""

import re
import time
from datetime import datetime

from common.contracts.monitoring import EPOCH, LAST_ARRIVAL, LAST_TIME, MICROSECOND, Heard

# What was recorded so long ago, in seconds, has been told: a commit takes at
# most five (metrics.writer.PATIENCE), and other clocks may be behind ours.
MARGIN = 7.0
# Writers that are remembered; each restart of the metrics service is another one.
MOST_PLACES = 16

_TEXT = re.compile(r"c1((?:\.[0-9a-f]{1,16}){2})((?:\.[0-9a-f]{1,16}-[0-9a-f]{1,16}){0,16})")


class Cursor:
    """What `common.contracts.monitoring.Heard` says, while it goes on.

    A writer's samples are told in the order of their arrival, two writers'
    in any order; so there is a place for each.
    """

    __slots__ = ("_text", "alerted", "floor", "places")

    def __init__(self, floor: int, alerted: int, places: list[tuple[int, int]]) -> None:
        self.floor = floor
        self.alerted = alerted
        self.places = {arrival & 255: (arrival, at) for arrival, at in places}
        self._text: str | None = None

    @classmethod
    def now(cls) -> "Cursor":
        """Of whoever begins to hear."""
        moment = int((time.time() - EPOCH.timestamp() - MARGIN) * 1e6)
        return cls(moment * 256 + 255, moment, [])

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Raises ValueError with a sentence."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError("since is a time as RFC 3339 has it, or the cursor of an update")
        floor, alerted = (int(part, 16) for part in found[1].split(".")[1:])
        places = [tuple(int(n, 16) for n in pair.split("-")) for pair in found[2].split(".")[1:]]
        arrivals = [floor, *(arrival for arrival, _ in places)]
        times = [alerted, *(at for _, at in places)]
        if max(arrivals) > LAST_ARRIVAL or max(times) > LAST_TIME:
            raise ValueError("there is no such cursor")
        return cls(floor, alerted, [(arrival, at) for arrival, at in places])

    @property
    def text(self) -> str:
        if self._text is None:
            places = "".join(f".{arrival:x}-{at:x}" for arrival, at in self.places.values())
            self._text = f"c1.{self.floor:x}.{self.alerted:x}{places}"
        return self._text

    @property
    def heard(self) -> Heard:
        return Heard(floor=self.floor, alerted=self.alerted, places=[*self.places.values()])

    def hear(self, arrival: int, at: int) -> None:
        """A sample was told; 0 is the arrival of one that has none."""
        place = (arrival, at)
        if arrival > 0 and place > self.places.get(arrival & 255, (0, 0)):
            self.places[arrival & 255] = place
            self._text = None
            if len(self.places) > MOST_PLACES:
                oldest, _ = self.places.pop(min(self.places, key=self.places.__getitem__))
                self.floor = max(self.floor, oldest)

    def covers(self, arrival: int, at: int) -> bool:
        """Whether a sample was told, by the place of its writer."""
        return (arrival, at) <= self.places.get(arrival & 255, (0, 0))

    def hear_alert(self, at: datetime | None) -> None:
        if at is not None and (moment := microseconds(at)) > self.alerted:
            self.alerted = moment
            self._text = None


def microseconds(at: datetime) -> int:
    """Since 2000."""
    return (at - EPOCH) // MICROSECOND
