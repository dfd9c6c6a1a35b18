"""Metrics of the queue for operators: runs by state, waits, durations, lags."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

from benchmarker.runs import Row
from common.instruments import JOB_BOUNDS_S, Labels, MetricFamily, histograms
from common.postgres import Database

# A worker silent for a minute counts as absent.
STATE = """
select worker_class, 'jobs_waiting', count(*) from runs where state = 'queued' group by 1
union all
select worker_class, 'jobs_under_way', count(*) from runs where state = 'running' group by 1
union all
select worker_class, 'workers_present', count(*) from workers
    where seen_at > now() - interval '1 min' group by 1
union all
select '', 'outbox_lag_seconds', coalesce(max(extract(epoch from now() - finished_at)), 0)
    from outbox join runs on runs.id = run_id
"""
GAUGES = {
    "jobs_waiting": "Runs that no worker has started",
    "jobs_under_way": "Runs that a worker has started",
    "workers_present": "Workers that reported within a minute",
    "outbox_lag_seconds": "Age of the oldest figures that the metrics service has not confirmed",
}


class Observation:
    """Counts of this process, and the database's state as of the last sweep."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._started: Counter[Labels] = Counter()
        self._redelivered: Counter[Labels] = Counter()
        self._waits = histograms(JOB_BOUNDS_S)
        self._runs = histograms(JOB_BOUNDS_S)
        self._gauges: dict[str, dict[Labels, float]] = {name: {} for name in GAUGES}

    def count_start(self, row: Row) -> None:
        """Count a delivery of a run; `row` is its state before the delivery."""
        labels = row["worker_class"], row["kind"]
        if row["started_at"] is None:
            self._started[labels] += 1
            self._waits[labels].observe((datetime.now(UTC) - row["created_at"]).total_seconds())
        else:
            self._redelivered[labels] += 1

    def count_end(self, row: Row) -> None:
        """Count a run that has just ended."""
        if row["started_at"] is not None:
            duration = row["finished_at"] - row["started_at"]
            labels = row["worker_class"], row["kind"], row["state"]
            self._runs[labels].observe(duration.total_seconds())

    async def read(self) -> None:
        """Read the gauges from the database. Raises Unavailable."""
        async with self.database.connection() as connection:
            rows = await (await connection.execute(STATE.encode())).fetchall()
        self._gauges = {name: {} for name in GAUGES}
        for worker_class, name, value in rows:
            self._gauges[name][(worker_class,) if worker_class else ()] = float(value)

    def families(self) -> Iterator[MetricFamily]:
        """Yield the metrics of the queue."""
        by = ("class", "kind")
        yield MetricFamily("counter", "jobs_running", "Runs started", by, self._started)
        yield MetricFamily(
            "counter",
            "jobs_redelivered",
            "Runs delivered again: their worker stopped or was lost",
            by,
            self._redelivered,
        )
        yield MetricFamily(
            "histogram", "job_wait_seconds", "Time from a request to its run", by, self._waits
        )
        yield MetricFamily(
            "histogram", "job_run_seconds", "Duration of a run", (*by, "state"), self._runs
        )
        for name, samples in self._gauges.items():
            labels = () if name == "outbox_lag_seconds" else ("class",)
            yield MetricFamily("gauge", name, GAUGES[name], labels, samples)
