"""Cost of keys: the first request with one of a million, and the delay of a revocation."""

import contextlib
import statistics
import time
from collections.abc import Callable

import httpx2
import psycopg

from benchmarks.processes import part, running, wait_until_served
from benchmarks.report import Report, figure
from gateway.keys import hash_key, make_key
from integration.caller import PASSWORD, Account
from local.services import Service
from local.stack import Stack

# Keys measured, with one request each.
ASKED = 500
UNLIMITED = dict.fromkeys(("RATE_API", "RATE_GENERATE", "RATE_REGISTER"), "100000000")


def measure() -> Report:
    report = Report("Gateway: API keys")
    _compare_database(report)
    _revoke(report)
    return report


def _revoke(report: Report) -> None:
    gateways = Service("gateway", replicas=4, database=True, http=True)
    with Stack(services=[gateways], environment=UNLIMITED) as system:
        account = Account(system.url)
        doors = [f"http://{host}:{port}" for host, port in system.addresses["gateway"]]
        worst = max(_revocation(account, doors) for _ in range(10))
    report.add(figure("until 4 gateways refuse a revoked key, worst of 10", worst, "s", at_most=1))


def _revocation(account: Account, doors: list[str]) -> float:
    key = account.make_key("revoked")
    headers = {"Authorization": f"Bearer {key['key']}"}
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(httpx2.Client(base_url=door)) for door in doors]

        def statuses() -> set[int]:
            return {
                client.get("/v1/api/alerts/rules", headers=headers).status_code
                for client in clients
            }

        assert 401 not in statuses()
        account.http.delete(f"/v1/api/keys/{key['id']}", auth=(account.email, PASSWORD))
        start = time.perf_counter()
        while statuses() != {401}:
            pass
        return time.perf_counter() - start


def _compare_database(report: Report) -> None:
    """Measure a key's first request, among a thousand keys and accounts and among a million."""
    sizes = (1_000, 1_000_000)
    with contextlib.ExitStack() as stack:
        doors = [_door_among(stack, total) for total in sizes]
        # In turns, so that other load on the machine affects both equally.
        times = [[call(number) for call, _ in doors] for number in range(ASKED)]
        statements = [look_up() for _, look_up in doors]
    few, many = (statistics.median(column) for column in zip(*times, strict=True))
    name = "with a key that is new to the gateway, among 1,000,000"
    against = ("among 1,000", few)
    report.add(figure(name, many, "ms", against=against, at_most=1.1 * few))
    few, many = statements
    report.add(figure("of that, to look up the key", many, "ms", against=("among 1,000", few)))


def _door_among(
    stack: contextlib.ExitStack, total: int
) -> tuple[Callable[[int], float], Callable[[], float]]:
    """Start a gateway with this many keys; return functions that time a request and a look-up."""
    gateway = Service("gateway", replicas=1, database=True, http=True)
    system = stack.enter_context(Stack(services=[gateway], environment=UNLIMITED))
    stack.enter_context(running(part("handler"), system.environment_of(Service("generator"))))
    wait_until_served(system.port, Account(system.url).key)
    keys = [make_key() for _ in range(ASKED)]
    database = stack.enter_context(psycopg.connect(system.postgres.url("gateway"), autocommit=True))
    database.execute(
        "insert into accounts (id, email, password)"
        " select 'many_' || n, 'many_' || n || '@example.com', ''"
        " from generate_series(1, %s) n",
        [total],
    )
    database.execute(
        "insert into keys (id, account_id, name, prefix, hash, scopes)"
        " select 'many_' || n, 'many_' || n, '', '', sha256(n::text::bytea), '{generate}'"
        " from generate_series(1, %s) n",
        [total],
    )
    for number, key in enumerate(keys, 1):
        database.execute(
            "update keys set hash = %s where id = 'many_' || %s",
            [hash_key(key), number * (total // ASKED)],
        )
    database.execute("vacuum analyze")
    http = stack.enter_context(httpx2.Client(base_url=system.url, timeout=60))

    def call(number: int) -> float:
        headers = {"Authorization": f"Bearer {keys[number]}"}
        start = time.perf_counter()
        answer = http.post("/v1/api/generate", json={"modelUrl": "a/b"}, headers=headers)
        seconds = time.perf_counter() - start
        assert answer.status_code == 200, answer.text
        return seconds * 1e3

    def look_up() -> float:
        times = []
        for key in keys:
            start = time.perf_counter()
            row = database.execute(
                "select account_id, keys.id, scopes, beta from keys"
                " join accounts on accounts.id = account_id where hash = %s"
                " and revoked_at is null and (expires_at is null or expires_at > now())",
                [hash_key(key)],
                prepare=True,
            ).fetchone()
            times.append(time.perf_counter() - start)
            assert row is not None
        return statistics.median(times) * 1e3

    return call, look_up
