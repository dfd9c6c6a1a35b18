"""Metrics while a part is unavailable: acknowledged records survive, calls fail in time."""

import contextlib
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, Self

import httpx2
import psutil
import pytest

from common import postgres
from common.contracts import monitoring, recording
from common.contracts.timestamps import now_us, to_text
from integration.caller import PASSWORD, Account, error_of
from integration.load import wait_until
from integration.monitored import MonitoredStack, join

RECORD = "/v1/api/monitor/record"
MANY = "/v2/api/monitor/record"
# As many kills as continuous integration has time for; the aim is 30 in five minutes.
KILLS = int(os.environ.get("KILLS", "9"))
# Messages that only the services' own deadlines have: the database's, and those of a call.
DEADLINES = re.compile(
    "(the database is busy or unavailable|the answer took too long"
    r"|the metrics service did not answer within [01](\.\d+)? s)(; try again.*)?"
)


@pytest.fixture(scope="module")
def stack(monitored_stack: MonitoredStack) -> MonitoredStack:
    return monitored_stack


class Load:
    """Callers that record distinct moments, and log which records were acknowledged."""

    def __init__(self, account: Account, callers: int = 8) -> None:
        self.account = account
        self.sent: set[int] = set()
        self.acknowledged: set[int] = set()
        self.answers: Counter[int] = Counter()
        self.refusals: list[httpx2.Response] = []
        self._moments = count(now_us() - 7_200 * 1_000_000)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._call_on, args=[number % 2 == 1])
            for number in range(callers)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        join(self._threads)

    def _call_on(self, many: bool) -> None:
        with httpx2.Client(base_url=str(self.account.http.base_url), timeout=60) as http:
            while not self._stop.is_set():
                moments = [next(self._moments) for _ in range(20 if many else 1)]
                records = [
                    {
                        "modelId": "m",
                        "timestamp": to_text(moment),
                        "metrics": {"latency": 1.0},
                    }
                    for moment in moments
                ]
                self.sent.update(moments)
                self._post(http, many, records, moments)

    def _post(
        self, http: httpx2.Client, many: bool, records: list[Any], moments: list[int]
    ) -> None:
        headers = {**self.account.headers, "X-Lilypad-Beta": "v2"}
        try:
            answer = http.post(
                MANY if many else RECORD,
                json={"records": records} if many else records[0],
                headers=headers,
            )
        except httpx2.TransportError:
            self.answers[0] += 1
            return
        self.answers[answer.status_code] += 1
        if answer.status_code == 200:
            self.acknowledged.update(moments)
        else:
            self.refusals.append(answer)

    def wait_for(self, more: int) -> None:
        enough = self.answers[200] + more
        wait_until(lambda: self.answers[200] >= enough)


def stored(stack: MonitoredStack, account: Account) -> list[int]:
    rows = stack.query(
        "select (extract(epoch from at - '2000-01-01Z') * 1e6)::bigint from samples"
        " where series in (select id from series where account = %s)",
        account.id,
    )
    return [moment for (moment,) in rows]


@pytest.mark.long
def test_acknowledged_records_are_stored_once_whatever_is_killed(
    stack: MonitoredStack, account: Account
) -> None:
    victims = ["metrics-1", "postgres", "metrics-2"]
    with Load(account) as load:
        load.wait_for(50)
        for kill in range(KILLS):
            victim = stack.processes[victims[kill % len(victims)]]
            wait_until(lambda victim=victim: victim.running)
            if victim.name == "postgres":
                stack.kill_database()
            else:
                os.kill(victim.pid, signal.SIGKILL)
            load.wait_for(50)  # recovered without help
    stored_moments = stored(stack, account)
    assert len(stored_moments) == len(set(stored_moments))
    assert load.acknowledged <= set(stored_moments) <= load.sent
    assert set(load.answers) <= {0, 200, 503}, load.answers
    for answer in load.refusals:
        if answer.headers["content-type"] == "application/json":
            assert error_of(answer)["code"] == 5003
        assert int(answer.headers["retry-after"]) >= 1
    answer = account.post("/v1/api/monitor", {"modelId": "m"})
    assert answer.json()["data"]["statistics"]["latency"]["count"] == len(stored_moments)


def refused_soon(
    account: Account, path: str, body: dict[str, Any], **options: Any
) -> httpx2.Response:
    """Check that a call gets a 503 from a service's own deadline."""
    answer = account.post(path, body, **options)
    assert answer.status_code == 503, answer.text
    error = error_of(answer)
    assert error["code"] == 5003
    assert DEADLINES.fullmatch(error["message"]), error
    assert int(answer.headers["retry-after"]) >= 1
    return answer


def test_all_database_deadlines_are_far_below_the_edges_deadline() -> None:
    assert recording.RECORD.timeout < 2
    assert monitoring.MONITOR.timeout < 2
    assert postgres.POOL_TIMEOUT_S + postgres.CHECK_TIMEOUT_S < 2
    assert postgres.ANSWER_TIMEOUT_S + 2 < 15


def record_one(account: Account, value: float = 1.0) -> httpx2.Response:
    return account.post(RECORD, {"modelId": "m", "metrics": {"latency": value}})


def test_calls_to_a_hanging_database_get_a_503_in_time_and_lose_no_acknowledged_sample(
    stack: MonitoredStack, account: Account
) -> None:
    assert record_one(account).status_code == 200
    with stack.relay:
        refused_soon(account, RECORD, {"modelId": "m", "metrics": {"latency": 1.0}})
        refused_soon(account, "/v1/api/monitor", {"modelId": "m"})
        assert account.http.get("/healthz").status_code == 200
        assert stack.processes["metrics-1"].running
    wait_until(lambda: record_one(account).status_code == 200)
    acknowledged = 2
    answer = account.post("/v1/api/monitor", {"modelId": "m"})
    count = answer.json()["data"]["statistics"]["latency"]["count"]
    # Refused samples may have been stored; acknowledged ones have been.
    assert count >= acknowledged


@contextlib.contextmanager
def stopped(stack: MonitoredStack) -> Iterator[None]:
    """Suspend the database server, which then accepts connections and never answers."""
    server = psutil.Process(stack.processes["postgres"].pid)
    server.suspend()  # first, so that it starts no further children
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # it was about to end
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # its connection was closed
                process.resume()


def test_calls_to_a_suspended_database_server_get_a_503_in_time(
    stack: MonitoredStack, account: Account
) -> None:
    assert record_one(account).status_code == 200
    # Again, with connections from before it hung.
    for _ in range(2):
        with stopped(stack):
            # The gateway must look the account up.
            refused_soon(account, "/v1/api/keys", {"name": "k"}, auth=(account.email, PASSWORD))
            if not stack.external:
                refused_soon(account, "/v1/api/monitor", {"modelId": "m"})
            assert account.http.get("/healthz").status_code == 200
        wait_until(lambda: record_one(account).status_code == 200)


def test_one_hanging_replica_fails_neither_records_with_times_nor_answers(
    stack: MonitoredStack, account: Account
) -> None:
    assert record_one(account).status_code == 200
    moments = count(now_us())

    def record_and_read() -> list[int]:
        record = {"modelId": "m", "timestamp": to_text(next(moments)), "metrics": {"latency": 1.0}}
        answers = [account.post(RECORD, record), account.post("/v1/api/monitor", {"modelId": "m"})]
        return [answer.status_code for answer in answers]

    hanging = psutil.Process(stack.processes["metrics-1"].pid)
    statuses: list[int] = []
    hanging.suspend()
    try:
        # The bus delivers to it for some ten seconds.
        with ThreadPoolExecutor(6) as pool:
            for answers in pool.map(lambda _: record_and_read(), range(18)):
                statuses += answers
    finally:
        hanging.resume()
    # Were they not sent again, a third would fail; a stall of the machine may fail a few.
    assert statuses.count(200) >= len(statuses) - 3, statuses
    assert len(stored(stack, account)) <= 19


def test_an_answer_for_a_long_window_has_a_longer_deadline(
    stack: MonitoredStack, account: Account
) -> None:
    assert record_one(account).status_code == 200
    services = [psutil.Process(stack.processes[f"metrics-{n}"].pid) for n in (1, 2)]

    def resume() -> None:
        for service in services:
            service.resume()

    for service in services:
        service.suspend()
    later = threading.Timer(monitoring.MONITOR.timeout + 0.5, resume)
    later.start()
    try:
        answer = account.post("/v1/api/monitor", {"modelId": "m", "days": 365})
    finally:
        later.join()
    assert answer.status_code == 200, answer.text


@contextlib.contextmanager
def full(stack: MonitoredStack) -> Iterator[None]:
    """Make every write of a sample fail with the error of a full disk."""
    stack.query(
        "create function is_full() returns trigger language plpgsql as $$ begin"
        " raise exception 'could not extend file: No space left on device'"
        " using errcode = 'disk_full'; end $$"
    )
    stack.query(
        "create trigger is_full before insert on samples for each row execute function is_full()"
    )
    try:
        yield
    finally:
        stack.query("drop trigger is_full on samples")
        stack.query("drop function is_full")


def test_a_full_database_answers_503_to_writes_and_can_still_be_read(
    stack: MonitoredStack, account: Account
) -> None:
    assert record_one(account).status_code == 200
    with full(stack):
        refused_soon(account, RECORD, {"modelId": "m", "metrics": {"latency": 2.0}})
        answer = account.post("/v1/api/monitor", {"modelId": "m"})
        assert answer.json()["data"]["statistics"]["latency"]["count"] == 1
    assert record_one(account).status_code == 200
    assert len(stored(stack, account)) == 2


@contextlib.contextmanager
def connections(stack: MonitoredStack, most: int) -> Iterator[None]:
    """Make the server refuse new connections with the error for too many."""
    stack.administer(f"alter role {stack.role} connection limit {most}")
    stack.end_connections()
    try:
        yield
    finally:
        stack.administer(f"alter role {stack.role} connection limit -1")


def test_a_database_without_free_connections_answers_503_until_some_are_free(
    stack: MonitoredStack, account: Account
) -> None:
    assert record_one(account).status_code == 200
    with connections(stack, most=0):
        refused_soon(account, RECORD, {"modelId": "m", "metrics": {"latency": 1.0}})
        assert account.http.get("/healthz").status_code == 200
    wait_until(lambda: record_one(account).status_code == 200)
