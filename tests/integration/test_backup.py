"""A backup of a serving stack, restored to a second home."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import httpx2
import nats
import pytest

from common.contracts.measuring import MEASURE
from common.jobs import DEAD, STREAM, consumer_name
from hub.app import MEMBER_TOKEN
from hub.testing import RunningHub
from integration.caller import PASSWORD, Account
from local import backup
from local.services import SERVICES
from local.stack import Stack

# No worker: a run that was accepted waits.
PARTS = [replace(s, replicas=1) for s in SERVICES if s.name not in ("worker", "realtime")]
MODEL = "lilypad/tiny-text-classification"


class Recorder(threading.Thread):
    """A thread that records values in turn and counts acknowledgements."""

    def __init__(self, account: Account) -> None:
        super().__init__()
        self.account = account
        self.acknowledged = 0
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.is_set():
            body = {"modelId": "m", "metrics": {"latency": 1.0}}
            answer = self.account.post("/v1/api/monitor/record", body)
            self.acknowledged += answer.status_code == 200


async def in_the_streams(stack: Stack) -> tuple[int, int]:
    """Return the number of pending jobs and of dead letters."""
    client = await nats.connect(stack.nats.url("supervisor"), inbox_prefix="_INBOX.supervisor")
    try:
        stream = client.jetstream()
        jobs = await stream.consumer_info(STREAM, consumer_name(MEASURE, "cpu"))
        return int(jobs.num_pending or 0), (await stream.stream_info(DEAD)).state.messages
    finally:
        await client.close()


async def dead_letter(stack: Stack) -> None:
    client = await nats.connect(stack.nats.url("worker"), inbox_prefix="_INBOX.worker")
    await client.jetstream().publish("dead.benchmarker.measure.cpu", b"{}", stream=DEAD)
    await client.close()


def stack_of(home: Path, hub: RunningHub) -> Stack:
    environment = {"HF_ENDPOINT": hub.url, "RATE_API": "1000000"}
    return Stack(home, services=PARTS, environment=environment, flood_limit=1_000_000)


@pytest.mark.long
def test_data_acknowledged_before_a_backup_exists_after_its_restore(
    hub: RunningHub, tmp_path: Path
) -> None:
    saved, elsewhere = tmp_path / "saved", tmp_path / "elsewhere"
    with stack_of(tmp_path / "home", hub) as stack:
        account = Account(stack.url)
        token, login = {"token": MEMBER_TOKEN}, (account.email, PASSWORD)
        stored = account.http.put("/v1/api/account/hub-token", json=token, auth=login)
        assert stored.status_code == 200, stored.text
        body = {"modelId": MODEL, "batchSizes": [1]}
        accepted = account.post("/v1/api/benchmark", body, headers={"Prefer": "respond-async"})
        assert accepted.status_code == 202, accepted.text
        asyncio.run(dead_letter(stack))
        recorder = Recorder(account)
        recorder.start()
        while recorder.acknowledged < 20 and recorder.is_alive():
            recorder.enough.wait(0.05)
        acknowledged = recorder.acknowledged
        backup.save(stack.home, saved)
        recorder.enough.set()
        recorder.join()
        account.http.close()
    backup.restore(saved, elsewhere)
    with (
        stack_of(elsewhere, hub) as stack,
        httpx2.Client(base_url=stack.url, headers=account.headers, timeout=60) as caller,
    ):
        asked = caller.post("/v1/api/monitor", json={"modelId": "m", "days": 1})
        count = asked.json()["data"]["statistics"]["latency"]["count"]
        assert acknowledged <= count <= recorder.acknowledged
        run = caller.get(accepted.headers["location"]).json()["data"]
        assert run["state"] == "queued"
        assert asyncio.run(in_the_streams(stack)) == (1, 1)
        # The account's token still decrypts: without it, nobody may read this model.
        private = caller.post("/v1/api/generate", json={"modelUrl": "lilypad/tiny-private"})
        assert private.status_code == 200, private.text
        assert caller.get("/v1/api/account", auth=login).status_code == 200
