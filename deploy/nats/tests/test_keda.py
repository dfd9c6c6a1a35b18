"""KEDA's query to three servers with the production configuration, and its decision.

The query and the way from one server to the next are those of the scaler `nats-jetstream`; the
decision is that of a ScaledJob of the strategy `default` (KEDA 2.20).
"""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import nats.errors

from benchmarker.queue import CLASSES
from common.background import retry
from common.bus import NatsBus
from common.contracts.measuring import MEASURE
from common.jobs import STREAM, Jobs, consumer_name, pull

from .conftest import NAMES, Cluster, start_worker

ACCOUNT = "LILYPAD"
QUESTION = "/jsz?acc={account}&config=true&consumers=true"
CONSUMER = consumer_name(MEASURE, "cpu")
MAX_REPLICAS = 3
JOBS = 5
# An election takes seconds, or much longer on a machine that does other work too.
ELECTION_TIMEOUT_S = 120.0
Result = TypeVar("Result")


def consumer(cluster: Cluster, host: str, account: str = ACCOUNT) -> dict[str, Any] | None:
    """Return a server's report on the consumer; None if it has none."""
    answer: Any = cluster.request(host, QUESTION.format(account=account))
    for details in answer.get("account_details") or []:
        for stream in details.get("stream_detail") or []:
            for report in stream.get("consumer_detail") or []:
                if details["name"] == account and (stream["name"], report["name"]) == (
                    STREAM,
                    CONSUMER,
                ):
                    return dict(report)
    return None


def lag(cluster: Cluster, host: str) -> int:
    """Return the lag that KEDA computes from this server and then the consumer's leader."""
    varz: Any = cluster.request(host, "/varz")
    assert not varz.get("connect_urls"), "KEDA would take these addresses for the servers'"
    names = {address: name for name, address in cluster.hosts.items()}
    for url in varz["cluster"]["urls"]:
        # In a cluster the address contains the name: nats-1.nats:6222.
        node = names[url.split(":")[0]]
        report = consumer(cluster, cluster.hosts[node])
        if report is not None and report["cluster"]["leader"] == node:
            return int(report["num_pending"] + report["num_ack_pending"])
    raise AssertionError("leader node not found")


async def once_led(attempt: Callable[[], Awaitable[Result]]) -> Result:
    """Repeat an attempt while the servers elect a leader, and return its result."""
    return await retry(
        attempt, nats.errors.Error, waiting_for="a leader", timeout_s=ELECTION_TIMEOUT_S
    )


async def prepare(control: NatsBus, count: int) -> Jobs:
    jobs = Jobs(control)
    await jobs.prepare(MEASURE, CLASSES)

    async def fill() -> None:
        await jobs.js.purge_stream(STREAM)
        for number in range(count):
            await control.client.jetstream().publish(
                f"{MEASURE.subject}.cpu", b"{}", headers={"Lilypad-Job-Id": f"job-{number}"}
            )

    await once_led(fill)
    return jobs


async def test_keda_reads_the_true_lag_from_any_server_while_jobs_run(
    cluster: Cluster, control: NatsBus, worker: NatsBus
) -> None:
    await prepare(control, JOBS)
    async for delivery in pull(worker, MEASURE, "cpu"):
        # One is under way, and counts until it is done.
        for name in NAMES:
            assert await asyncio.to_thread(lag, cluster, cluster.hosts[name]) == JOBS
        await delivery.acknowledge()
        break
    for name in NAMES:
        assert await asyncio.to_thread(lag, cluster, cluster.hosts[name]) == JOBS - 1


async def test_an_unconfigured_account_has_no_consumer(cluster: Cluster, control: NatsBus) -> None:
    await prepare(control, 1)
    for name in NAMES:
        for account in ("$G", "OTHER"):
            assert await asyncio.to_thread(consumer, cluster, cluster.hosts[name], account) is None


async def test_each_stream_has_three_replicas(control: NatsBus) -> None:
    jobs = await prepare(control, 0)
    for stream in (STREAM, "DEAD"):
        info = await jobs.js.stream_info(stream)
        assert info.config.num_replicas == 3
        assert info.cluster is not None
        assert len(info.cluster.replicas or []) == 2


async def test_workers_scale_from_zero_and_back_and_each_job_is_done_once(
    cluster: Cluster, control: NatsBus, tmp_path: Path
) -> None:
    await prepare(control, JOBS)
    log = tmp_path / "done"
    running: list[Any] = []
    most = 0
    while True:
        waiting = await asyncio.to_thread(lag, cluster, cluster.hosts["nats-0"])
        running = [process for process in running if process.poll() is None]
        if not waiting and not running:
            break
        # maxScale = ceil(lag / lagThreshold), at most maxReplicaCount; `default` takes off those
        # that run.
        scale = min(math.ceil(waiting / 1), MAX_REPLICAS)
        running += [start_worker(cluster, log) for _ in range(scale - len(running))]
        most = max(most, len(running))
        await asyncio.sleep(0.5)
    assert most == MAX_REPLICAS
    done = Counter(log.read_text().split())
    assert done == {f"job-{number}": 1 for number in range(JOBS)}
