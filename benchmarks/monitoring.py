"""Metrics through the whole stack: recorded, committed, and asked for again."""

import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count

import numpy as np
import psycopg

from benchmarks.report import Report, figure
from integration.caller import Account
from local.services import Service
from local.stack import Stack

SERVICES = (
    Service("gateway", replicas=2, database=True, http=True),
    Service("metrics", replicas=2, database=True),
)
LIMITS = {"RATE_API": "1000000000", "LOG_LEVEL": "WARNING"}
METRICS = ("throughput", "latency", "memory_usage", "gpu_memory_usage", "cost_per_inference")
BATCH = 1_000  # samples: 200 records of five metrics
SECONDS = 8.0
ROUNDS = 3
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
# PostgreSQL's binary COPY: a row of three fields, each with its length.
ROW = np.dtype(
    [("fields", ">i2"), ("l1", ">i4"), ("series", ">i4"), ("l2", ">i4"), ("at", ">i8"),
     ("l3", ">i4"), ("value", ">f8")]
)  # fmt: skip
COPY_HEAD, COPY_TAIL = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"


class Connection:
    """One kept-alive connection that posts prepared bytes; a client that costs next to nothing."""

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
    report = Report("Metrics through the edge to commit (2 gateways, 2 metrics services)")
    with Stack(services=SERVICES, environment=LIMITS, flood_limit=1_000_000) as stack:
        account = Account(stack.url)
        recording(stack, account, report)
        account.http.close()
    return report


def recording(stack: Stack, account: Account, report: Report) -> None:
    # In turns, so that what else the machine does meets both alike; then the medians.
    pairs = [(batches(stack, account, 4), raw_copy(stack)) for _ in range(ROUNDS)]
    batch, raw = (statistics.median(column) for column in zip(*pairs, strict=True))
    report.add(
        figure(
            f"v2, batches of {BATCH}",
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


def batches(stack: Stack, account: Account, clients: int) -> float:
    """Samples a second that are committed, by so many clients with a model each."""

    async def run() -> float:
        connections = [Connection(stack, account, "/v2/api/monitor/record") for _ in range(clients)]
        for connection in connections:
            await connection.open()
        # Prepared, so that this process is not what is measured.
        prepared = [list(_bodies(f"m{client}", 60)) for client in range(clients)]
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


_moments = count()


def _bodies(model: str, number: int) -> Iterator[bytes]:
    """Batches of new moments each, a second apart, on the days before today."""
    random = np.random.default_rng()
    for _ in range(number):
        records = []
        for _ in range(BATCH // len(METRICS)):
            at = datetime.now(UTC) - timedelta(days=25) + timedelta(seconds=next(_moments) * 0.4)
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
    """Requests a second, each with one record and answered when that is committed."""
    body = json.dumps({"modelId": "single", "metrics": {"throughput": 120.5, "latency": 8.3,
            "memory_usage": 2048.0, "gpu_memory_usage": 8192.0,
            "cost_per_inference": 0.00012}}).encode()  # fmt: skip

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


def raw_copy(stack: Stack) -> float:
    """Rows a second of binary COPY into the same table, a transaction for each batch."""
    rows = 0
    with psycopg.connect(stack.postgres.url("metrics")) as connection:
        [(series,)] = connection.execute(
            "select coalesce(max(series), 0) + 1000 from samples"
        ).fetchall()
        prepared = [_copy_data(series, batch) for batch in range(300)]
        start = time.perf_counter()
        for data in prepared:
            with connection.cursor().copy("copy samples from stdin (format binary)") as copy:
                copy.write(data)
            connection.commit()
            rows += BATCH
        return rows / (time.perf_counter() - start)


def _copy_data(series: int, batch: int) -> bytes:
    moments = BATCH // len(METRICS)
    start = int((datetime.now(UTC) - timedelta(days=25) - EPOCH).total_seconds()) * 1_000_000
    rows = np.empty(BATCH, ROW)
    rows["fields"], rows["l1"], rows["l2"], rows["l3"] = 3, 4, 8, 8
    rows["series"] = np.tile(np.arange(series, series + len(METRICS)), moments)
    rows["at"] = np.repeat(start + (batch * moments + np.arange(moments)) * 400_000, len(METRICS))
    rows["value"] = np.random.default_rng(batch).lognormal(3, 0.5, BATCH)
    return COPY_HEAD + rows.tobytes() + COPY_TAIL
