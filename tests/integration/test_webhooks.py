"""Webhooks through the edge: from an event to a receiver on the account's own machine."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any

import psycopg
import pytest
from standardwebhooks import Webhook

from integration.caller import Account, error_of
from local.stack import Stack

KINDS = ["alert.raised", "alert.recovered", "benchmark.finished", "verification.finished"]


@pytest.fixture
def owner(measuring_stack: Stack) -> Iterator[Account]:
    made = Account(measuring_stack.url)
    yield made
    made.http.close()


class Receiver:
    """A server that queues the posts it receives."""

    def __init__(self) -> None:
        posts: Queue[tuple[dict[str, str], bytes]] = Queue()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                posts.put(({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.posts = posts
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def next(self, secret: str, kind: str) -> dict[str, Any]:
        """Verify the next event's signature and kind, and return its data."""
        headers, body = self.posts.get(timeout=120)
        event: dict[str, Any] = Webhook(secret).verify(body, headers)
        assert event["type"] == kind, event
        data: dict[str, Any] = event["data"]
        return data


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_alerts_and_finished_runs_are_posted_signed_and_can_be_redelivered(
    measuring_stack: Stack, owner: Account, receiver: Receiver
) -> None:
    answer = owner.post("/v1/api/webhooks", {"url": receiver.url, "events": KINDS})
    assert answer.status_code == 201, answer.text
    webhook = answer.json()["data"]
    secret, path = webhook["secret"], f"/v1/api/webhooks/{webhook['id']}"
    owner.post(
        "/v1/api/alerts/rules",
        {"kind": "threshold", "metric": "queue_depth", "above": 10, "severity": "critical"},
    )
    for depth in (50, 1):
        owner.post("/v1/api/monitor/record", {"modelId": "m", "metrics": {"queue_depth": depth}})
        kind = "alert.raised" if depth == 50 else "alert.recovered"
        alert = receiver.next(secret, kind)
        assert alert["modelId"] == "m"
        assert alert["severity"] == "critical"
        assert (alert["recoveredAt"] is None) == (depth == 50)
    (listed,) = owner.http.get("/v1/api/alerts", headers=owner.headers).json()["data"]["alerts"]
    assert listed == alert

    run = owner.post(
        "/v1/api/benchmark",
        {"modelId": "lilypad/tiny-text-classification", "batchSizes": [1]},
        headers={"Prefer": "respond-async"},
    ).json()["data"]
    owner.http.delete(f"/v1/api/benchmark/{run['id']}", headers=owner.headers)
    finished = receiver.next(secret, "benchmark.finished")
    assert (finished["id"], finished["state"]) == (run["id"], "canceled")

    log = owner.http.get(f"{path}/deliveries", headers=owner.headers).json()["data"]
    kinds = [delivery["type"] for delivery in log["deliveries"]]
    assert kinds == ["benchmark.finished", "alert.recovered", "alert.raised"]
    again = owner.post(f"{path}/deliveries/{log['deliveries'][-1]['id']}/redeliver", None)
    assert again.status_code == 200, again.text
    assert receiver.next(secret, "alert.raised")["id"] == alert["id"]


def test_the_former_secret_signs_after_a_rotation_and_neither_secret_is_stored_in_plain_text(
    measuring_stack: Stack, owner: Account, receiver: Receiver
) -> None:
    body = {"url": receiver.url, "events": KINDS}
    webhook = owner.post("/v1/api/webhooks", body).json()["data"]
    secret, path = webhook["secret"], f"/v1/api/webhooks/{webhook['id']}"
    # A receiver may change over to the new secret within a day.
    rotated = owner.post(f"{path}/secret", None).json()["data"]["secret"]
    assert rotated != secret
    for either in (secret, rotated):
        assert owner.post(f"{path}/test", None).json()["data"]["state"] == "succeeded"
        assert receiver.next(either, "test") == {"webhook": webhook["id"]}
    with psycopg.connect(measuring_stack.postgres.url("webhooks")) as database:
        stored = str(database.execute("select * from webhooks").fetchall())
    assert webhook["id"] in stored
    for shown_once in (secret, rotated):
        assert shown_once.removeprefix("whsec_") not in stored
    listed = owner.http.get("/v1/api/webhooks", headers=owner.headers)
    for shown_once in (secret, rotated):
        assert shown_once not in listed.text


def test_a_webhook_is_tested_then_deleted(owner: Account, receiver: Receiver) -> None:
    body = {"url": receiver.url, "events": KINDS}
    webhook = owner.post("/v1/api/webhooks", body).json()["data"]
    path = f"/v1/api/webhooks/{webhook['id']}"
    tried = owner.post(f"{path}/test", None).json()["data"]
    assert tried["state"] == "succeeded", tried
    assert receiver.next(webhook["secret"], "test") == {"webhook": webhook["id"]}
    assert owner.http.delete(path, headers=owner.headers).status_code == 204
    listed = owner.http.get("/v1/api/webhooks", headers=owner.headers)
    assert listed.json()["data"] == {"webhooks": []}


def test_events_during_an_outage_of_the_webhooks_service_are_posted_afterwards(
    measuring_stack: Stack, owner: Account, receiver: Receiver
) -> None:
    body = {"url": receiver.url, "events": ["alert.raised"]}
    secret = owner.post("/v1/api/webhooks", body).json()["data"]["secret"]
    rule = {"kind": "threshold", "metric": "queue_depth", "above": 10}
    owner.post("/v1/api/alerts/rules", rule)
    measuring_stack.stop("webhooks-1")
    owner.post("/v1/api/monitor/record", {"modelId": "m", "metrics": {"queue_depth": 50}})
    refused = error_of(owner.http.get("/v1/api/webhooks", headers=owner.headers))
    assert refused["code"] == 5003
    measuring_stack.restart("webhooks-1")
    assert receiver.next(secret, "alert.raised")["modelId"] == "m"


def test_an_address_inside_the_network_is_refused_however_it_is_written(owner: Account) -> None:
    hosts = ("169.254.169.254", "2852039166", "[::ffff:10.0.0.1]", "[64:ff9b::a9fe:a9fe]")
    for host in hosts:
        body = {"url": f"https://{host}/latest", "events": ["alert.raised"]}
        answer = owner.post("/v1/api/webhooks", body)
        error = error_of(answer)
        assert (answer.status_code, error["code"]) == (400, 1003)
        assert "not on the public internet" in error["message"]
        assert error["details"]["fields"][0]["path"] == "url"
