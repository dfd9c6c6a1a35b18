"""Synthetic series of known truth: the events in each, and their times.

`draw(kind, seed)` gives the same series for the same seed. Half of the changes
are exactly three times the noise, the others up to six times.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Times = NDArray[np.int64]

MINUTE = 60_000_000
HOUR, DAY = 60 * MINUTE, 1_440 * MINUTE
# 1 January 2026 in microseconds since 2000; a series ends up to 200 days later.
BEGIN = 9_497 * DAY
INTERVALS = (1, 5, 60)
WINDOWS = (7, 30, 365)
MIN_SIZE = 3.0
MAX_SIZE = 6.0
# Curves move by up to this much: a training loss falls far.
MAX_CURVE = 60.0
# The shortest changes drawn, in samples and in hours.
MIN_SAMPLES, MIN_HOURS = 12, 1.0


@dataclass(frozen=True)
class Truth:
    """One event; `end` is None while it lasts, `size` is in the noise's standard deviations."""

    kind: str
    begin: int
    end: int | None
    size: float


@dataclass
class Series:
    kind: str
    interval: int  # minutes
    days: int
    at: Times
    value: Floats
    noise: float
    truths: list[Truth] = field(default_factory=list)
    detail: str = ""
    curve: Floats | None = None  # of each sample, without its noise


@dataclass
class Draft:
    """A series under construction: values in standard deviations of its noise, at regular times."""

    random: np.random.Generator
    interval: int
    days: int
    at: Times
    value: Floats
    truths: list[Truth] = field(default_factory=list)
    detail: str = ""
    curve: Floats | None = None

    @property
    def step(self) -> int:
        return self.interval * MINUTE

    def size(self) -> float:
        size = (
            MIN_SIZE
            if self.random.random() < 0.5
            else float(self.random.uniform(MIN_SIZE, MAX_SIZE))
        )
        return size * float(self.random.choice([-1, 1]))

    def shortest(self) -> int:
        """Return the shortest length of a change, in samples."""
        return max(MIN_SAMPLES, math.ceil(MIN_HOURS * 60 / self.interval))


def white(random: np.random.Generator, count: int) -> Floats:
    return random.normal(size=count)


def autocorrelated(random: np.random.Generator, count: int, most: float = 0.9) -> Floats:
    """Draw AR(1) noise of standard deviation 1."""
    share = float(random.uniform(0.2, most))
    innovations = random.normal(size=count) * math.sqrt(1 - share**2)
    innovations[0] = random.normal()
    # In blocks, by powers of the share: as quick as a filter, without scipy.
    reach = max(int(-12 / math.log10(share)), 1)
    weights = share ** np.arange(min(reach, count))
    size = 1 << (count + len(weights)).bit_length()
    spectrum = np.fft.rfft(innovations, size) * np.fft.rfft(weights, size)
    return np.fft.irfft(spectrum, size)[:count]


def heavy_tailed(random: np.random.Generator, count: int) -> Floats:
    """Draw Student's t or log-normal noise of standard deviation 1."""
    if random.random() < 0.7:
        degrees = float(random.uniform(3, 6))
        return random.standard_t(degrees, count) / math.sqrt(degrees / (degrees - 2))
    spread = float(random.uniform(0.3, 0.8))
    values = random.lognormal(0, spread, count)
    variance = (math.exp(spread**2) - 1) * math.exp(spread**2)
    return (values - math.exp(spread**2 / 2)) / math.sqrt(variance)


def any_noise(random: np.random.Generator, count: int) -> tuple[str, Floats]:
    name = str(random.choice(["white", "autocorrelated", "heavy-tailed"]))
    if name == "autocorrelated":
        return name, autocorrelated(random, count, most=0.6)
    return name, {"white": white, "heavy-tailed": heavy_tailed}[name](random, count)


def season(draft: Draft) -> tuple[str, Floats]:
    """Draw a season that repeats at least twice: daily, weekly, or both."""
    random = draft.random
    hours = draft.at / HOUR % 24
    days = draft.at // DAY % 7
    daily: dict[str, Callable[[], Floats]] = {
        "sine": lambda: np.sin((hours - random.uniform(0, 24)) * math.tau / 24),
        "two humps": lambda: (
            0.7 * np.sin((hours - random.uniform(0, 24)) * math.tau / 24)
            + 0.5 * np.sin((hours - random.uniform(0, 12)) * math.tau / 12)
        ),
        "office hours": lambda: np.where((hours >= 8) & (hours < 18), 1.0, 0.0),
        "nightly batch": lambda: np.where((hours >= 2) & (hours < 4), 1.5, 0.0),
    }
    which = ["daily", "weekly", "both"] if draft.days >= 14 else ["daily"]
    chosen = str(random.choice(which))
    shape = np.zeros(len(draft.at))
    names = []
    if chosen != "weekly":
        name = str(random.choice(list(daily)))
        shape = shape + daily[name]() * random.uniform(1, 8)
        names.append(name)
    if chosen != "daily":
        first = int(random.integers(0, 7))
        weekend = ((days - first) % 7) < int(random.integers(1, 3))
        shape = shape + np.where(weekend, random.uniform(1, 8) * random.choice([-1, 1]), 0.0)
        names.append("weekend")
    return " and ".join(names), shape


def _quiet(noise: Callable[[np.random.Generator, int], Floats]) -> Callable[[Draft], None]:
    def make(draft: Draft) -> None:
        draft.value = noise(draft.random, len(draft.at))

    return make


def _base(draft: Draft, seasonal: float = 0.3) -> None:
    draft.detail, draft.value = any_noise(draft.random, len(draft.at))
    if draft.random.random() < seasonal:
        name, shape = season(draft)
        draft.value = draft.value + shape
        draft.detail += f", {name}"


def _seasonal(draft: Draft) -> None:
    _base(draft, seasonal=1)


def _step(draft: Draft) -> None:
    _base(draft)
    count, size = len(draft.at), draft.size()
    # A change counts as a step, rather than an incident, once it has lasted for a day.
    margin = max(draft.shortest(), 24 * 60 // draft.interval)
    place = int(draft.random.integers(margin, count - margin))
    draft.value[place:] += size
    draft.truths.append(Truth("step", int(draft.at[place]), None, size))


def _slope(draft: Draft) -> None:
    _base(draft)
    size = draft.size()
    draft.value += size * np.linspace(0, 1, len(draft.at))
    draft.truths.append(Truth("slope", int(draft.at[0]), None, size))


def _incident(draft: Draft) -> None:
    _base(draft)
    count, size, least = len(draft.at), draft.size(), draft.shortest()
    length = int(np.exp(draft.random.uniform(np.log(least), np.log(count / 5))))
    first = int(draft.random.integers(least, count - length - least))
    draft.value[first : first + length] += size
    begin, end = draft.at[first], draft.at[first + length]
    draft.truths.append(Truth("incident", int(begin), int(end), size))


def _bursts(draft: Draft) -> None:
    """Add outliers of one or two samples, which do not count as incidents."""
    _base(draft)
    count = int(draft.random.integers(1, 7))
    for place in (
        draft.random.choice(len(draft.at) // MIN_SAMPLES - 1, count, replace=False) * MIN_SAMPLES
    ):
        size = draft.random.uniform(5, 30) * draft.random.choice([-1, 1])
        draft.value[place : place + int(draft.random.integers(1, 3))] += size


def _gaps(draft: Draft) -> None:
    _base(draft)
    kept = np.ones(len(draft.at), bool)
    for _ in range(int(draft.random.integers(1, 5))):
        length = int(len(draft.at) * draft.random.uniform(0.01, 0.15))
        first = int(draft.random.integers(0, len(draft.at) - length))
        kept[first : first + length] = False
    draft.at, draft.value = draft.at[kept], draft.value[kept]


def _clock(draft: Draft) -> None:
    """Move the recorder's clock back or forth, and sometimes correct it again."""
    _base(draft, seasonal=0)
    count = len(draft.at)
    for _ in range(int(draft.random.integers(1, 4))):
        first = int(draft.random.integers(1, count - 1))
        last = count if draft.random.random() < 0.3 else min(first + count // 10, count)
        moved = int(draft.random.uniform(1, 360)) * MINUTE * int(draft.random.choice([-1, 1]))
        draft.at[first:last] += moved
    order = np.argsort(draft.at, kind="stable")
    at, value = draft.at[order], draft.value[order]
    first_of_each = np.concatenate([[True], np.diff(at) > 0])
    draft.at, draft.value = at[first_of_each], value[first_of_each]


def _counter(draft: Draft) -> None:
    count, random = len(draft.at), draft.random
    values = np.cumsum(random.gamma(random.uniform(0.5, 5), size=count))
    for place in np.sort(random.integers(1, count, int(random.integers(1, 21)))):
        values[place:] -= values[place]
    draft.value = values / max(values.std(), 1e-9)


def _curve(draft: Draft) -> None:
    """Move the level at a changing rate, as a training loss, a cooling cache or a growing index."""
    _base(draft)
    random = draft.random
    place = (draft.at - draft.at[0]) / (draft.at[-1] - draft.at[0])
    scale = float(np.exp(random.uniform(np.log(0.05), np.log(1.0))))
    shapes: dict[str, Callable[[], Floats]] = {
        "exponential": lambda: np.exp(-place / scale),
        "power law": lambda: (1 + place / (scale / 3)) ** -random.uniform(0.3, 2.0),
        "logarithm": lambda: np.log1p(place / (scale / 3)),
        "square root": lambda: np.sqrt(place),
        "quadratic": lambda: place ** random.uniform(1.7, 3.5),
        "S-curve": lambda: 1 / (1 + np.exp((random.uniform(0.2, 0.8) - place) / (scale / 4))),
    }
    name = str(random.choice(list(shapes)))
    shape = shapes[name]()
    # Reversed, it accelerates.
    if name not in {"power law", "logarithm", "square root"} and random.random() < 0.5:
        shape = shape[::-1]
        name += " reversed"
    size = float(np.exp(random.uniform(np.log(MIN_SIZE), np.log(MAX_CURVE))))
    size *= float(random.choice([-1, 1]))
    draft.curve = size * (shape - shape[0]) / (shape[-1] - shape[0])
    draft.value = draft.value + draft.curve
    draft.detail += f", {name} of {size:.1f}, {scale:.2f}"


KINDS: dict[str, Callable[[Draft], None]] = {
    "white noise": _quiet(white),
    "autocorrelated noise": _quiet(autocorrelated),
    "heavy-tailed noise": _quiet(heavy_tailed),
    "season": _seasonal,
    "step": _step,
    "slope": _slope,
    "incident": _incident,
    "bursts": _bursts,
    "gaps": _gaps,
    "clock jumps": _clock,
    "counter with resets": _counter,
    "curve": _curve,
}
CHANGES = ("step", "slope", "incident")
# Of these a slope may be stated, where it is true.
CURVES = ("curve",)


def draw(kind: str, seed: int, number: int) -> Series:
    """Draw a series of a kind; its number determines the interval and window."""
    interval = INTERVALS[number % 3]
    days = WINDOWS[number // 3 % 3]
    random = np.random.default_rng([seed, list(KINDS).index(kind), number])
    count = days * 1_440 // interval
    end = BEGIN + int(random.uniform(0, 200) * DAY)
    at = end - np.arange(count, 0, -1) * interval * MINUTE
    draft = Draft(random, interval, days, at.astype(np.int64), np.empty(0))
    KINDS[kind](draft)
    level = float(10 ** random.uniform(-3, 4))
    noise = level * float(random.uniform(0.01, 0.12))
    value = draft.value * noise + (level if kind != "counter with resets" else 0.0)
    curve = None if draft.curve is None else draft.curve * noise
    return Series(kind, interval, days, draft.at, value, noise, draft.truths, draft.detail, curve)


def numbered(seed: int, each: int) -> Iterator[Series]:
    for kind in KINDS:
        for number in range(each):
            yield draw(kind, seed, number)
