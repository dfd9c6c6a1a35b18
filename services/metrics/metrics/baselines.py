"""Baselines: the usual values of a metric, from the shape of its last month.

Rules that compare with what is usual use the model that trend and advice come from, so that
none of them reports what the others call a season. Each replica keeps the baselines that it
needs for an hour, for minutes where a metric has none yet.
"""

import asyncio
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from common.contracts.alerts import Rule
from common.contracts.timestamps import DAY_US
from common.postgres import Connection, Database
from metrics import window
from metrics.arrays import Floats, Times
from metrics.findings import sample_noise
from metrics.shape import Shape, describe
from metrics.snapshot import begin_snapshot
from metrics.window import EMPTY, History

# The default window of /monitor: two weekends and more.
WINDOW = timedelta(days=30)
# A season and a level that lasts change no sooner; what does is an incident until then.
BASELINE_LIFETIME_S = 3600.0
# A model with a metric that has no baseline yet is looked at again so soon.
YOUNG_LIFETIME_S = 300.0
# Models whose baselines are kept, about 3 KB each; the longest unrenewed are evicted first.
MAX_MODELS = 10_000
SERIES = """
select model, metric, id from series
where account = %s and model = any(%s) and metric = any(%s)
"""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The usual values of one metric.

    Attributes:
        level: the usual level without its season, at the time `at`.
        slope: by which the level moves in a microsecond.
        deviation: of the noise, of single samples or of cells, whichever is greater.
        first: when the week began, in microseconds since 2000.
        width: of a cell, in microseconds.
        week: the season's part of each cell of a week; one cell if there is no season.
    """

    level: float
    at: int
    slope: float
    deviation: float
    first: int
    width: int
    week: Floats

    def level_at(self, at: int) -> float:
        return self.level + self.slope * (at - self.at)

    def season(self, at: Times, sign: int = 0) -> Floats:
        """Return how far the season moves the value at each of some times.

        A season is known to a cell: with a sign, the greatest (1) or least (-1) part of
        the cells around each time.
        """
        if len(self.week) == 1:
            return np.zeros(len(at))
        place = (at - self.first) / self.width
        middle = np.floor(place).astype(np.int64)
        near = np.stack([self.week[(middle + shift) % len(self.week)] for shift in (-1, 0, 1)])
        if sign:
            return np.asarray(near.max(axis=0) if sign > 0 else near.min(axis=0))
        # Between the middles of two cells, each of which is the mean of its samples.
        ahead = place - middle - 0.5
        other = np.where(ahead > 0, near[2], near[0])
        return np.asarray(near[1] + (other - near[1]) * np.abs(ahead))


def baseline(history: History) -> Baseline | None:
    """Return the baseline of a metric; None for a counter, or if too little is known."""
    shape = describe(history)
    if shape.cells is None or shape.counter:
        return None
    slope = shape.slope
    noise = shape.noise.deviation if shape.noise is not None else 0.0
    if shape.season is not None:
        # A wave of another period cannot be told in advance, since its phase drifts.
        noise = math.hypot(noise, shape.season.amplitude)
    return Baseline(
        level=shape.usual,
        at=int(shape.cells.at[-1]),
        slope=slope.size / DAY_US if slope is not None and slope.end is None else 0.0,
        # Where few hours have many samples, those may be of a change.
        deviation=max(noise, sample_noise(history) if shape.cells.dense else 0.0),
        first=int(shape.cells.at[0]) // DAY_US * DAY_US,
        width=shape.cells.width,
        week=_week(shape),
    )


def _week(shape: Shape) -> Floats:
    return shape.season.week if shape.season else np.zeros(1)


class Baselines:
    """A cache of the baselines of models, computed on demand."""

    def __init__(self, database: Database) -> None:
        self.database = database
        # By account and model: until when they hold, and the baselines by metric.
        self._cached: dict[tuple[str, str], tuple[float, dict[str, Baseline]]] = {}

    def get(self, account: str, model: str) -> Mapping[str, Baseline]:
        """Return the cached baselines of a model by metric."""
        _, baselines = self._cached.get((account, model), (0.0, {}))
        return baselines

    def forget(self, account: str, model: str | None = None) -> None:
        """Evict the baselines of an account's model, or of all its models."""
        if model is not None:
            self._cached.pop((account, model), None)
            return
        self._cached = {key: entry for key, entry in self._cached.items() if key[0] != account}

    def expire_all(self) -> None:
        """Make all baselines expire within minutes, at random times to spread their renewal."""
        soon = time.monotonic()
        for key, (until, baselines) in self._cached.items():
            at = soon + random.uniform(0, YOUNG_LIFETIME_S)  # noqa: S311  (only to spread)
            self._cached[key] = min(until, at), baselines

    def lacking(self, account: str, models: Mapping[str, object]) -> list[str]:
        """Return the models whose baselines are missing or expired."""
        now = time.monotonic()
        return [m for m in models if self._cached.get((account, m), (-math.inf, {}))[0] < now]

    async def renew(self, account: str, models: list[str], known: list[Rule]) -> None:
        """Compute the baselines of some models, for the metrics of the rules."""
        # Still there in the end, unless what is computed may be older than a change.
        renewing = {model: (-math.inf, dict(self.get(account, model))) for model in models}
        self._cached.update({(account, model): entry for model, entry in renewing.items()})
        metrics = sorted({rule.metric for rule in known if rule.kind == "change" and rule.metric})
        async with self.database.connection() as connection:
            await begin_snapshot(connection)
            cursor = await connection.execute(SERIES, [account, models, metrics])
            rows = await cursor.fetchall()
            histories = await _read(connection, [id for *_, id in rows])
        baselines_by_model: dict[str, dict[str, Baseline]] = {model: {} for model in models}
        lacking_metrics: set[str] = set()
        for model, metric, id in rows:
            # A month's shape takes milliseconds, in which others are to be answered.
            computed = await asyncio.to_thread(baseline, histories.get(id, EMPTY))
            if computed is not None:
                baselines_by_model[model][metric] = computed
            else:
                lacking_metrics.add(model)
        now = time.monotonic()
        for model, baselines in baselines_by_model.items():
            entry = self._cached.pop((account, model), None)
            lifetime_s = YOUNG_LIFETIME_S if model in lacking_metrics else BASELINE_LIFETIME_S
            self._cached[account, model] = now + lifetime_s * (entry is renewing[model]), baselines
        while len(self._cached) > MAX_MODELS:
            del self._cached[next(iter(self._cached))]


async def _read(connection: Connection, ids: list[int]) -> dict[int, History]:
    if not ids:
        return {}
    month = await window.read(connection, ids, datetime.now(UTC) - WINDOW, summed=True)
    return month.histories
