"""Metrics through the whole stack: recorded, committed and read back."""

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import numpy as np
import psutil
import psycopg

from benchmarks import mlflow_peer
from benchmarks.report import Report, figure
from common.contracts.timestamps import EPOCH
from integration.caller import Account
from local import ports
from local.services import Service
from local.stack import Stack
from models.dtypes import MIB

SERVICES = (
    Service("gateway", replicas=2, database=True, http=True),
    Service("metrics", replicas=2, database=True),
)
LIMITS = {"RATE_API": "1000000000", "RATE_REGISTER": "1000000", "LOG_LEVEL": "WARNING"}
METRICS = ("throughput", "latency", "memory_usage", "gpu_memory_usage", "cost_per_inference")
BATCH = 1_000  # samples: 200 records of five metrics
SECONDS = 8.0
ROUNDS = 3
# PostgreSQL's binary COPY: a row of three fields, each with its length.
ROW = np.dtype(
    [("fields", ">i2"), ("l1", ">i4"), ("series", ">i4"), ("l2", ">i4"), ("at", ">i8"),
     ("l3", ">i4"), ("value", ">f8")]
)  # fmt: skip
COPY = "copy samples (series, at, value) from stdin (format binary)"
COPY_HEAD, COPY_TAIL = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"


class Connection:
    """A minimal client: one keep-alive connection that posts prepared bytes."""

    def __init__(self, stack: Stack, account: Account, path: str) -> None:
        self.port = stack.port
        self.head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{stack.port}\r\n"
            f"Authorization: Bearer {account.key}\r\nX-Lilypad-Beta: v2\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def post(self, body: bytes) -> bytes:
        self.writer.write(self.head + str(len(body)).encode() + b"\r\n\r\n" + body)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        content = await self.reader.readexactly(length)
        assert answer.startswith(b"HTTP/1.1 200"), answer + content
        return content


def measure() -> Report:
    """Measure recording and reading; LONG=1 adds 50 million samples and ten minutes of load."""
    long = bool(os.environ.get("LONG"))
    report = Report("Metrics through the edge to commit (2 gateways, 2 metrics services)")
    with Stack(services=SERVICES, environment=LIMITS, flood_limit=1_000_000) as stack:
        account = Account(stack.url)
        rows = recording(stack, account, report)
        against_mlflow(stack, account, report, rows)
        steadiness(stack, account, report, 600 if long else 60)
        refusal(stack, account, report)
        account.http.close()
    with Stack(services=SERVICES, environment=LIMITS, flood_limit=1_000_000) as stack:
        account = Account(stack.url)
        history(stack, account, report, [1, 10, 50] if long else [1, 10])
        account.http.close()
    return report


def recording(stack: Stack, account: Account, report: Report) -> float:
    # In turns, so that other load on the machine affects both equally; then the medians.
    pairs = [(batches(stack, account, 8), raw_copy(stack)) for _ in range(ROUNDS)]
    batch, raw = (statistics.median(column) for column in zip(*pairs, strict=True))
    report.add(
        figure(
            f"v2, batches of {BATCH}, 8 clients",
            batch,
            "samples/s",
            against=("raw binary COPY, same table", raw),
            ratio_at_least=0.4,
        )
    )
    rates = [singles(stack, account, 64) for _ in range(ROUNDS)]
    report.add(
        figure("v1, one at a time, 64 clients", statistics.median(rates), "requests/s",
               at_least=1_500)
    )  # fmt: skip
    return batch


def against_mlflow(stack: Stack, account: Account, report: Report, rows: float) -> None:
    """Record the same samples with MLflow, on the same server, in its own database."""
    with psycopg.connect(stack.postgres.url(database="postgres"), autocommit=True) as server:
        server.execute("create database mlflow")
    try:
        peer = mlflow_peer.measure(stack.postgres.url(database="mlflow"), ports.find(1)[0])
    except (subprocess.CalledProcessError, RuntimeError) as error:
        report.notes.append(f"MLflow was not measured: {error}")
        return
    name = "MLflow log_batch, same server"
    report.add(
        figure(
            f"v2, batches of {BATCH}, 8 clients",
            rows,
            "samples/s",
            against=(name, peer["rows"]),
            ratio_at_least=10,
        )
    )
    record = Connection(stack, account, "/v1/api/monitor/record")
    single = _median(record, [_single("alone")] * 300)
    report.add(
        figure("v1, one at a time, 1 client", 1 / single, "requests/s",
               against=("MLflow log_metric", peer["singles"]))
    )  # fmt: skip
    asyncio.run(post_all(Connection(stack, account, "/v2/api/monitor/record"), _bodies("read", 20)))
    monitor = Connection(stack, account, "/v1/api/monitor")
    body = json.dumps({"modelId": "read", "days": 30, "metrics": ["latency"]}).encode()
    seconds = _median(monitor, [body] * 50)
    report.add(
        figure(
            "/monitor: statistics and a plot of 4,000 samples",
            seconds * 1e3,
            "ms",
            against=(f"MLflow get_metric_history, {peer['points']:.0f} points", peer["read"]),
        )
    )


def steadiness(stack: Stack, account: Account, report: Report, seconds: int) -> None:
    """Compare the services' memory under load, after a sixth of the time and at the end."""
    services = [psutil.Process(stack.processes[f"metrics-{n}"].pid) for n in (1, 2)]
    used = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        singles(stack, account, 32)
        batches(stack, account, 2)
        used.append(sum(service.memory_info().rss for service in services) / MIB)
    early = max(used[: max(len(used) // 6, 1)])
    report.add(
        figure(f"memory of both services after {seconds} s of load", used[-1], "MiB",
               against=("early on", early), at_most=early * 1.2)
    )  # fmt: skip


def refusal(stack: Stack, account: Account, report: Report) -> None:
    """Measure the time until a request fails with 503 while the database hangs."""
    postgres = psutil.Process(stack.processes["postgres"].pid)
    postgres.suspend()  # first, so that it starts no further children
    processes = [postgres, *postgres.children(recursive=True)]
    record = {"modelId": "refused", "metrics": {"latency": 1.0}}
    bodies = {"record": record, "": {"modelId": "single"}}
    longest = 0.0
    for process in processes:
        process.suspend()
    try:
        for path, body in bodies.items():
            start = time.perf_counter()
            answer = account.post(f"/v1/api/monitor/{path}".rstrip("/"), body)
            longest = max(longest, time.perf_counter() - start)
            assert answer.status_code == 503, answer.text
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # its connection was abandoned
                process.resume()
    report.add(figure("503 while the database hangs", longest, "s", at_most=2.0))


def history(stack: Stack, account: Account, report: Report, millions: list[int]) -> None:
    """Time `/monitor` of 30 days for models of five metrics, as the stored samples grow."""
    asyncio.run(
        post_all(
            Connection(stack, account, "/v2/api/monitor/record"),
            [json.dumps({"records": [{"modelId": f"h{n}", "metrics": dict.fromkeys(METRICS, 1.0)}
                                     for n in range(10)]}).encode()],
        )
    )  # fmt: skip
    first = 0.0
    stored = 0
    for million in millions:
        fill(stack, stored, million * 1_000_000)
        stored = million * 1_000_000
        monitor = Connection(stack, account, "/v1/api/monitor")
        bodies = [json.dumps({"modelId": f"h{n % 10}", "days": 30}).encode() for n in range(120)]
        _median(monitor, bodies[:30])
        median = _median(monitor, bodies) * 1e3
        first = first or median
        report.add(
            figure(
                f"/monitor of 30 days, {million} million samples, median",
                median,
                "ms",
                at_most=min(25, first * 1.5),
                against=("with the fewest", first) if median is not first else ("", 0.0),
            )
        )


def fill(stack: Stack, stored: int, wanted: int) -> None:
    """Spread samples evenly over 30 days; return when all are rolled up."""
    with psycopg.connect(
        stack.postgres.url(), options="-c search_path=metrics", autocommit=True
    ) as connection:
        ids = [id for (id,) in connection.execute("select id from series where model like 'h%'")]
        each = (wanted - stored) // len(ids)
        span = 30 * 86_400_000_000
        begin = (datetime.now(UTC) - timedelta(days=30)).replace(minute=0, second=0, microsecond=0)
        start = int((begin - EPOCH).total_seconds()) * 1_000_000
        # Between the existing moments.
        at = start + np.arange(each) * (span // each) + stored % 7
        for series in ids:
            rows = np.empty(each, ROW)
            rows["fields"], rows["l1"], rows["l2"], rows["l3"] = 3, 4, 8, 8
            rows["series"], rows["at"] = series, at
            rows["value"] = np.random.default_rng(series).lognormal(3, 0.5, each)
            with connection.cursor().copy(COPY) as copy:
                copy.write(COPY_HEAD + rows.tobytes() + COPY_TAIL)
        _roll_up(connection, begin)
        connection.execute("vacuum analyze")
        connection.execute("checkpoint")


def _roll_up(connection: psycopg.Connection[Any], begin: datetime) -> None:
    """Make the service roll up everything since `begin` at once.

    It would take several minutes for as many late days, since it pauses between a few of them.
    """
    with connection.transaction():
        [(until,)] = connection.execute("select until from watermark for update").fetchall()
        connection.execute("delete from hours where hour >= %s", [begin])
        connection.execute("delete from days where day >= date_trunc('day', %s, 'UTC')", [begin])
        connection.execute("update watermark set until = %s", [begin])
    while connection.execute("select from watermark where until < %s", [until]).rowcount:
        time.sleep(0.5)


def _median(connection: Connection, bodies: list[bytes]) -> float:
    """Return the median seconds of the calls, made one after the other."""

    async def run() -> float:
        await connection.open()
        seconds = []
        for body in bodies:
            start = time.perf_counter()
            await connection.post(body)
            seconds.append(time.perf_counter() - start)
        connection.writer.close()
        return statistics.median(seconds)

    return asyncio.run(run())


async def post_all(connection: Connection, bodies: Iterable[bytes]) -> None:
    await connection.open()
    for body in bodies:
        await connection.post(body)
    connection.writer.close()


def batches(stack: Stack, account: Account, clients: int) -> float:
    """Return samples per second committed by a number of clients with one model each."""

    async def run() -> float:
        connections = [Connection(stack, account, "/v2/api/monitor/record") for _ in range(clients)]
        for connection in connections:
            await connection.open()
        # Prepared in advance, so that this process is not the bottleneck.
        prepared = [list(_bodies(f"m{client}", 40)) for client in range(clients)]
        done = 0
        end = time.perf_counter() + SECONDS

        async def post(connection: Connection, bodies: list[bytes]) -> None:
            nonlocal done
            for body in bodies:
                if time.perf_counter() > end:
                    return
                await connection.post(body)
                done += BATCH

        start = time.perf_counter()
        await asyncio.gather(*map(post, connections, prepared))
        seconds = time.perf_counter() - start
        for connection in connections:
            connection.writer.close()
        return done / seconds

    return asyncio.run(run())


STARTED = datetime.now(UTC)
_moments = count()


def _bodies(model: str, number: int) -> Iterator[bytes]:
    """Build batches with new times, a millisecond apart, as in live measurements."""
    random = np.random.default_rng()
    for _ in range(number):
        records = []
        for _ in range(BATCH // len(METRICS)):
            at = STARTED + timedelta(milliseconds=next(_moments))
            values = random.lognormal(3, 0.5, len(METRICS)).round(4).tolist()
            records.append(
                {
                    "modelId": model,
                    "timestamp": at.isoformat(timespec="microseconds"),
                    "metrics": dict(zip(METRICS, values, strict=True)),
                }
            )
        yield json.dumps({"records": records}).encode()


def singles(stack: Stack, account: Account, clients: int) -> float:
    """Return requests per second with one record each, answered after commit."""
    body = _single("single")

    async def run() -> float:
        connections = [Connection(stack, account, "/v1/api/monitor/record") for _ in range(clients)]
        for connection in connections:
            await connection.open()
        end = time.perf_counter() + SECONDS

        async def post(connection: Connection) -> int:
            done = 0
            while time.perf_counter() < end:
                await connection.post(body)
                done += 1
            return done

        start = time.perf_counter()
        done = sum(await asyncio.gather(*map(post, connections)))
        seconds = time.perf_counter() - start
        for connection in connections:
            connection.writer.close()
        return done / seconds

    return asyncio.run(run())


def _single(model: str) -> bytes:
    values = dict(zip(METRICS, (120.5, 8.3, 2_048.0, 8_192.0, 0.00012), strict=True))
    return json.dumps({"modelId": model, "metrics": values}).encode()


def raw_copy(stack: Stack) -> float:
    """Return rows per second of binary COPY into the same table, one transaction per batch."""
    rows = 0
    with psycopg.connect(stack.postgres.url("metrics")) as connection:
        [(series,)] = connection.execute(
            "select coalesce(max(series), 0) + 1000 from samples"
        ).fetchall()
        prepared = [_copy_data(series, batch) for batch in range(300)]
        start = time.perf_counter()
        for data in prepared:
            with connection.cursor().copy(
                "copy samples (series, at, value) from stdin (format binary)"
            ) as copy:
                copy.write(data)
            connection.commit()
            rows += BATCH
        return rows / (time.perf_counter() - start)


def _copy_data(series: int, batch: int) -> bytes:
    moments = BATCH // len(METRICS)
    start = int((STARTED - EPOCH).total_seconds()) * 1_000_000
    rows = np.empty(BATCH, ROW)
    rows["fields"], rows["l1"], rows["l2"], rows["l3"] = 3, 4, 8, 8
    rows["series"] = np.tile(np.arange(series, series + len(METRICS)), moments)
    rows["at"] = np.repeat(start + (batch * moments + np.arange(moments)) * 1_000, len(METRICS))
    rows["value"] = np.random.default_rng(batch).lognormal(3, 0.5, BATCH)
    return COPY_HEAD + rows.tobytes() + COPY_TAIL
