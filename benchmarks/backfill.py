"""A live record of one account during another account's backfill, through the edge.

On the embedded PostgreSQL, or on the server of `TEST_DATABASE_URL`, which may have TimescaleDB.
"""

import asyncio
import contextlib
import json
import os
import statistics
import time
from datetime import UTC, datetime, timedelta

import numpy as np

from benchmarks.monitoring import LIMITS, METRICS, SERVICES, Connection
from benchmarks.report import Report, figure
from integration import external_database
from integration.caller import Account
from local.services import Service
from local.stack import Stack

# Samples of the backfill, samples of one call (the maximum), and their age in days.
SAMPLES = 1_000_000
CALL = 50_000
DAYS = (3, 30)
QUIET_S = 10.0
EVERY_S = 0.02


class StackOnExternalDatabase(Stack):
    """A stack whose metrics service uses an external database, if there is one."""

    def __init__(self) -> None:
        super().__init__(services=SERVICES, environment=LIMITS, flood_limit=1_000_000)
        self.external: external_database.ExternalDatabase | None = None
        self._rest = contextlib.ExitStack()

    def start(self) -> None:
        self.external = self._rest.enter_context(external_database.database())
        if self.external:
            external_database.execute(self.external.url, "create schema metrics")
        super().start()

    def close(self) -> None:
        super().close()
        self._rest.close()

    def environment_of(self, service: Service, replica: int = 0) -> dict[str, str]:
        environment = super().environment_of(service, replica)
        if self.external and service.name == "metrics":
            environment["DATABASE_URL"] = self.external.url
        return environment

    def extension(self) -> str:
        """Return the database's version of TimescaleDB, "" if it has none."""
        url = self.external.url if self.external else self.postgres.url("metrics")
        found = external_database.execute(
            url, "select extversion from pg_extension where extname = 'timescaledb'"
        )
        return str(found[0][0]) if found else ""


def measure() -> Report:
    """Run the benchmark; `BACKFILL=5000000` records more samples, which takes ten minutes."""
    wanted = int(os.environ.get("BACKFILL", SAMPLES))
    with StackOnExternalDatabase() as stack:
        version = stack.extension()
        server = f"TimescaleDB {version}" if version else "plain PostgreSQL"
        report = Report(f"A live record beside a backfill of {wanted:,} samples, on {server}")
        live, late = Account(stack.url), Account(stack.url)
        asyncio.run(_measure(stack, live, late, wanted, report))
        for account in (live, late):
            account.http.close()
    return report


async def _measure(stack: Stack, live: Account, late: Account, wanted: int, report: Report) -> None:
    record = Connection(stack, live, "/v1/api/monitor/record")
    await record.open()
    await _post(record, time.perf_counter() + QUIET_S / 2, asyncio.Event())
    quiet = await _post(record, time.perf_counter() + QUIET_S, asyncio.Event())
    done = asyncio.Event()
    start = time.perf_counter()
    filling = asyncio.create_task(_fill(late, wanted, done))
    beside = await _post(record, float("inf"), done)
    accepted = await filling
    merged = time.perf_counter() - start
    median = statistics.median(quiet) * 1e3
    report.add(
        figure("live record beside it, median", statistics.median(beside) * 1e3, "ms",
               against=("when it is quiet", median), at_most=2 * median)
    )  # fmt: skip
    report.add(
        figure("live record beside it, 99th percentile", float(np.quantile(beside, 0.99)) * 1e3,
               "ms", against=("when it is quiet", float(np.quantile(quiet, 0.99)) * 1e3))
    )  # fmt: skip
    report.add(figure("live record beside it, slowest", max(beside), "s", at_most=5.0))
    report.add(figure("late samples accepted", wanted / accepted, "samples/s"))
    report.add(figure("late samples merged", wanted / merged, "samples/s"))


async def _post(connection: Connection, end: float, done: asyncio.Event) -> list[float]:
    """Post live records until `end`, or until `done` is set; return the seconds of each."""
    metrics = dict.fromkeys(METRICS, 1.0)
    body = json.dumps({"modelId": "live", "metrics": metrics}).encode()
    seconds: list[float] = []
    while time.perf_counter() < end and not done.is_set():
        start = time.perf_counter()
        await connection.post(body)
        seconds.append(time.perf_counter() - start)
        await asyncio.sleep(EVERY_S)
    return seconds


async def _fill(account: Account, wanted: int, done: asyncio.Event) -> float:
    """Record late samples, and wait until they are merged; return when all were accepted."""
    try:
        start = time.perf_counter()
        body = _body()
        for number in range(max(wanted // CALL, 1)):
            await asyncio.to_thread(
                _record, account, body.replace(b"backfill", f"b{number:07d}".encode())
            )
        accepted = time.perf_counter() - start
        await asyncio.to_thread(_merged, account)
        return accepted
    finally:
        done.set()


def _body() -> bytes:
    now = datetime.now(UTC)
    random = np.random.default_rng(1)
    moments = CALL // len(METRICS)
    days = np.linspace(*DAYS, moments)
    records = [
        {
            "modelId": "backfill",
            "timestamp": (now - timedelta(days=float(ago))).isoformat(),
            "metrics": dict(zip(METRICS, random.lognormal(3, 0.5, len(METRICS)).round(4).tolist(),
                                strict=True)),
        }
        for ago in days
    ]  # fmt: skip
    return json.dumps({"records": records}).encode()


def _record(account: Account, body: bytes) -> None:
    """Post one call of late samples; retry as `Retry-After` says while too many are staged."""
    headers = {**account.headers, "X-Lilypad-Beta": "v2", "Content-Type": "application/json"}
    while True:
        answer = account.http.post("/v2/api/monitor/record", content=body, headers=headers)
        if answer.status_code not in {429, 503}:
            assert answer.status_code == 200, answer.text
            return
        time.sleep(float(answer.headers.get("retry-after", 1)))


def _merged(account: Account) -> None:
    """Wait until none of the account's samples is staged."""
    while account.http.get("/v1/api/monitor/storage", headers=account.headers).json()["data"][
        "stagedSamples"
    ]:
        time.sleep(1)
