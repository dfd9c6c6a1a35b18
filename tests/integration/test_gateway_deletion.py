"""Deletion of an account, through the edge and every service that stores its data."""

import psycopg

from integration.caller import PASSWORD, Account, error_of
from integration.load import wait_until
from local.stack import Stack


def rows(stack: Stack, service: str, query: str, account: str) -> int:
    with psycopg.connect(stack.postgres.url(service), autocommit=True) as database:
        row = database.execute(query.encode(), [account]).fetchone()
    assert row is not None
    return int(row[0])


def test_a_deleted_account_leaves_nothing_in_any_service(stack: Stack) -> None:
    account = Account(stack.url)
    recorded = {"modelId": "m", "metrics": {"latency": 1.0}}
    assert account.post("/v1/api/monitor/record", recorded).status_code == 200
    run = account.post(
        "/v1/api/benchmark",
        {"modelId": "lilypad/tiny-text-classification", "batchSizes": [1]},
        headers={"Prefer": "respond-async"},
    )
    assert run.status_code == 202, run.text

    body = {"password": PASSWORD}
    auth = (account.email, PASSWORD)
    deleted = account.http.request("DELETE", "/v1/api/account", json=body, auth=auth)
    assert deleted.status_code == 204, deleted.text
    held = {
        "metrics": "select count(*) from series where account = %s",
        "benchmarker": "select count(*) from runs where account = %s",
    }
    for service, query in held.items():
        wait_until(lambda s=service, q=query: rows(stack, s, q, account.id) == 0)  # type: ignore[misc]
    wait_until(lambda: account.post("/v1/api/monitor", {"modelId": "m"}).status_code == 401)
    assert error_of(account.http.get("/v1/api/account", auth=auth))["code"] == 2001
    # Backdate the deletion, so that the next confirmations are the last.
    with psycopg.connect(stack.postgres.url("gateway"), autocommit=True) as database:
        database.execute(
            "update deletions set requested_at = now() - interval '1 hour' where account_id = %s",
            [account.id],
        )
    pending = "select count(*) from deletions where account_id = %s"
    wait_until(lambda: rows(stack, "gateway", pending, account.id) == 0)
    account.http.close()
