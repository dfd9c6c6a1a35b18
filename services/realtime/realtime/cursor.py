"""How far a client has heard a model, as text that it keeps and hands back."""

import re
import time
import zlib
from datetime import datetime

from common.contracts.monitoring import (
    EPOCH,
    LAST_ARRIVAL,
    LAST_TIME,
    MICROSECOND,
    AlertNews,
    Heard,
)

# What was recorded so long ago, in seconds, has been told: a commit takes at
# most five (metrics.writer.PATIENCE), and other clocks may be behind ours.
MARGIN = 7.0
# What was recorded so long before the newest that was heard has been heard as
# well, whoever recorded it: so a cursor is no longer for being old.
SETTLED = 60.0
# Writers that are remembered, and alerts of the last minute.
MOST_PLACES = MOST_ALERTS = 16

_TEXT = re.compile(
    r"c1((?:\.[0-9a-f]{1,16}){2})"
    r"((?:\.[0-9a-f]{1,16}-[0-9a-f]{1,16}){0,16})"
    r"((?:~[0-9a-f]{1,8}-[0-9a-f]{1,16}){0,16})"
)


class Cursor:
    """What `common.contracts.monitoring.Heard` says, while it goes on.

    A writer's samples are told in the order of their arrival, two writers'
    in any order; so there is a place for each. Alerts are told nearly in the
    order of their times: up to `alerted` all have been heard, and later ones
    are remembered each.
    """

    __slots__ = ("_text", "alerted", "alerts", "floor", "places")

    def __init__(
        self,
        floor: int,
        alerted: int,
        places: list[tuple[int, int]],
        alerts: dict[int, int] | None = None,
    ) -> None:
        self.floor = floor
        self.alerted = alerted
        self.places = {arrival & 255: (arrival, at) for arrival, at in places}
        self.alerts = alerts or {}
        self._text: str | None = None

    @classmethod
    def now(cls) -> "Cursor":
        """Of whoever begins to hear."""
        moment = _now() - int(MARGIN * 1e6)
        return cls(moment * 256 + 255, moment, [])

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Raises ValueError with a sentence."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError("since is a time as RFC 3339 has it, or the cursor of an update")
        floor, alerted = (int(part, 16) for part in found[1].split(".")[1:])
        places = [_numbers(pair) for pair in found[2].split(".")[1:]]
        alerts = dict(_numbers(pair) for pair in found[3].split("~")[1:])
        arrivals = [floor, *(arrival for arrival, _ in places)]
        times = [alerted, *(at for _, at in places), *alerts.values()]
        if max(arrivals) > LAST_ARRIVAL or max(times) > LAST_TIME:
            raise ValueError("there is no such cursor")
        return cls(floor, alerted, places, alerts)

    @property
    def text(self) -> str:
        if self._text is None:
            places = "".join(f".{arrival:x}-{at:x}" for arrival, at in self.places.values())
            alerts = "".join(f"~{which:x}-{at:x}" for which, at in self.alerts.items())
            self._text = f"c1.{self.floor:x}.{self.alerted:x}{places}{alerts}"
        return self._text

    @property
    def heard(self) -> Heard:
        return Heard(floor=self.floor, alerted=self.alerted, places=[*self.places.values()])

    def hear(self, arrival: int, at: int) -> None:
        """A sample was told; 0 is the arrival of one that has none."""
        place = (arrival, at)
        if arrival <= 0 or place <= self.places.get(arrival & 255, (0, 0)):
            return
        self.places[arrival & 255] = place
        self._text = None
        # A clock that is ahead, the writer's or whose cursor it is, hides nobody's samples.
        settled = min(arrival // 256, _now()) - int(SETTLED * 1e6)
        if settled * 256 > self.floor:
            self.floor = settled * 256
            self.places = {n: place for n, place in self.places.items() if place[0] > self.floor}
        if len(self.places) > MOST_PLACES:
            oldest, _ = self.places.pop(min(self.places, key=self.places.__getitem__))
            self.floor = max(self.floor, oldest)

    def hear_alert(self, news: AlertNews) -> None:
        if self.has_heard(news) or news.at is None:
            return
        self.alerts[_fingerprint(news)] = microseconds(news.at)
        self._text = None
        settled = max(self.alerts.values()) - int(SETTLED * 1e6)
        if len(self.alerts) > MOST_ALERTS:
            settled = max(settled, min(self.alerts.values()))
        if settled > self.alerted:
            self.alerted = settled
            self.alerts = {which: at for which, at in self.alerts.items() if at > settled}

    def has_heard(self, news: AlertNews) -> bool:
        return news.at is None or (
            microseconds(news.at) <= self.alerted or _fingerprint(news) in self.alerts
        )


def microseconds(at: datetime) -> int:
    """Since 2000."""
    return (at - EPOCH) // MICROSECOND


def _now() -> int:
    return int((time.time() - EPOCH.timestamp()) * 1e6)


def _numbers(pair: str) -> tuple[int, int]:
    first, _, second = pair.partition("-")
    return int(first, 16), int(second, 16)


def _fingerprint(news: AlertNews) -> int:
    """Two alerts of the same minute have the same one once in four thousand million."""
    return zlib.crc32(f"{news.id} {news.type}".encode())
