"""A client's position in a model's history, as text that the client stores and returns."""

import re
import zlib

from common.contracts.alerts import AlertEvent
from common.contracts.history import MAX_ARRIVAL, Position, arrival_of, last_arrival_of, us_of
from common.contracts.timestamps import MAX_TIME_US, now_us, to_us

# A sample recorded longer ago than this has been published: a commit takes at most 5 s
# (metrics.writer), and other clocks may be behind ours.
MARGIN_S = 7.0
# A sample that arrived this long before the newest one received counts as received, from any
# writer. So an old cursor reaches no further back than a new one.
SETTLED_S = 60.0
# Writers remembered, and alerts of the last minute.
MAX_PLACES = MAX_ALERTS = 16

_TEXT = re.compile(
    r"c1((?:\.[0-9a-f]{1,16}){2})"
    r"((?:\.[0-9a-f]{1,16}-[0-9a-f]{1,16}){0,16})"
    r"((?:~[0-9a-f]{1,8}-[0-9a-f]{1,16}){0,16})"
)


class Cursor:
    """The position of a client, which advances with the updates that it receives.

    The samples of one writer are published in the order of their arrival, those of two
    writers in any order, so each writer has a place of its own. Alerts come nearly in the
    order of their times: every alert up to `alerted` was received, and the later ones are
    remembered one by one in `alerts`, by fingerprint.
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
        """Return the cursor of a client that subscribes now."""
        return cls.at(now_us() - int(MARGIN_S * 1e6))

    @classmethod
    def at(cls, moment: int) -> "Cursor":
        """Return the cursor of a client that has received everything up to a time.

        Args:
            moment: in microseconds since 2000.
        """
        return cls(last_arrival_of(moment), moment, [])

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read a cursor from text.

        Raises:
            ValueError: the text is no cursor; the message is a sentence for the caller.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError("send an RFC 3339 time, or the `cursor` of an update, unchanged")
        floor, alerted = (int(part, 16) for part in match[1].split(".")[1:])
        places = [_pair(text) for text in match[2].split(".")[1:]]
        alerts = dict(_pair(text) for text in match[3].split("~")[1:])
        arrivals = [floor, *(arrival for arrival, _ in places)]
        times = [alerted, *(at for _, at in places), *alerts.values()]
        if max(arrivals) > MAX_ARRIVAL or max(times) > MAX_TIME_US:
            raise ValueError("not a cursor of this server; send the `cursor` of an update")
        return cls(floor, alerted, places, alerts)

    @property
    def text(self) -> str:
        if self._text is None:
            places = "".join(f".{arrival:x}-{at:x}" for arrival, at in self.places.values())
            alerts = "".join(f"~{which:x}-{at:x}" for which, at in self.alerts.items())
            self._text = f"c1.{self.floor:x}.{self.alerted:x}{places}{alerts}"
        return self._text

    @property
    def position(self) -> Position:
        return Position(floor=self.floor, alerted=self.alerted, places=[*self.places.values()])

    def advance(self, arrival: int, at: int) -> None:
        """Count a sample as received; ignore one without an arrival (0)."""
        place = (arrival, at)
        if arrival <= 0 or place <= self.places.get(arrival & 255, (0, 0)):
            return
        self.places[arrival & 255] = place
        self._text = None
        # A clock that is ahead (a writer's, or this cursor's) must not hide other writers' samples.
        settled = min(us_of(arrival), now_us()) - int(SETTLED_S * 1e6)
        if arrival_of(settled) > self.floor:
            self.floor = arrival_of(settled)
            self.places = {n: place for n, place in self.places.items() if place[0] > self.floor}
        if len(self.places) > MAX_PLACES:
            oldest, _ = self.places.pop(min(self.places, key=self.places.__getitem__))
            self.floor = max(self.floor, oldest)

    def add_alert(self, news: AlertEvent) -> None:
        """Count an alert as received."""
        if self.covers(news) or news.at is None:
            return
        self.alerts[_fingerprint(news)] = to_us(news.at)
        self._text = None
        settled = max(self.alerts.values()) - int(SETTLED_S * 1e6)
        if len(self.alerts) > MAX_ALERTS:
            settled = max(settled, min(self.alerts.values()))
        if settled > self.alerted:
            self.alerted = settled
            self.alerts = {which: at for which, at in self.alerts.items() if at > settled}

    def covers(self, news: AlertEvent) -> bool:
        """Whether the client has received an alert; true for an alert without a time."""
        return news.at is None or (
            to_us(news.at) <= self.alerted or _fingerprint(news) in self.alerts
        )


def _pair(text: str) -> tuple[int, int]:
    first, _, second = text.partition("-")
    return int(first, 16), int(second, 16)


def _fingerprint(news: AlertEvent) -> int:
    """Return a 32-bit hash of an alert's id and type."""
    return zlib.crc32(f"{news.id} {news.type}".encode())
