"""Live updates through both clients, over connections that break."""

import contextlib
import itertools
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.caller import Account
from integration.pages import NODE, World
from integration.proxies import Cable
from local.stack import Stack

MODEL = "lilypad/followed"
# Each program prints the events that it receives as lines of JSON.
PROGRAMS = {
    "python": """
import sys, threading
from lilypad_client import LilypadClient

client = LilypadClient()

def follow():
    for update in client.subscribe_metrics("lilypad/followed", ["latency"]):
        print('{"latency": %g}' % update.metrics["latency"], flush=True)

threading.Thread(target=follow, daemon=True).start()
for alert in client.watch_alerts("lilypad/followed"):
    print('{"alert": "%s"}' % alert.type, flush=True)
""",
    "javascript": """
import { LilypadClient } from 'lilypad-client';
import { subscribeMetrics, watchAlerts } from 'lilypad-client/realtime';

const client = new LilypadClient();
const print = (heard) => console.log(JSON.stringify(heard));

async function follow() {
  const subscription = { modelId: 'lilypad/followed', metrics: ['latency'] };
  for await (const { metrics } of subscribeMetrics(client, subscription)) print(metrics);
}

follow();
const alerts = watchAlerts(client, { modelId: 'lilypad/followed' });
for await (const { type } of alerts) print({ alert: type });
""",
}


@contextlib.contextmanager
def _running(language: str, world: World) -> Iterator[Callable[[], dict[str, Any]]]:
    """Run the program of a language; yield a function that waits for its next line."""
    script = world.folder / f"follow.{'py' if language == 'python' else 'mjs'}"
    script.write_text(PROGRAMS[language])
    world.provide("lilypad-client")
    command = [sys.executable if language == "python" else NODE, str(script)]
    lines: queue.Queue[str] = queue.Queue()
    process = subprocess.Popen(
        command, cwd=world.folder, env=world.environment, stdout=subprocess.PIPE, text=True
    )

    def read() -> None:
        assert process.stdout
        for line in process.stdout:
            lines.put(line)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield lambda: json.loads(lines.get(timeout=120))
    finally:
        process.terminate()
        process.wait()
        reader.join()
        assert process.stdout
        process.stdout.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("language", PROGRAMS)
def test_updates_and_alerts_missed_during_a_lost_connection_arrive_afterwards(
    stack: Stack, account: Account, tmp_path: Path, language: str
) -> None:
    for metric in ("latency", "warming"):
        rule = {"kind": "threshold", "modelId": MODEL, "metric": metric, "above": 500}
        assert account.post("/v1/api/alerts/rules", rule).status_code == 201

    def record(**metrics: float) -> None:
        body = {"modelId": MODEL, "metrics": metrics}
        assert account.post("/v1/api/monitor/record", body).status_code == 200

    begun = threading.Event()

    def begin() -> None:
        """Raise and recover an alert, repeatedly, until both iterators have received one."""
        for warming in itertools.cycle((900, 1)):
            if begun.wait(0.7):
                return
            record(latency=1, warming=warming)

    received: dict[str, list[Any]] = {"latency": [], "alert": []}

    def hear_until(name: str, value: Any) -> None:
        while value not in received[name]:
            for key, what in hear().items():
                received[key].append(what)

    with (
        Cable(stack.url) as cable,
        _running(language, World(cable.url, account, tmp_path)) as hear,
    ):
        beginning = threading.Thread(target=begin)
        beginning.start()
        hear_until("latency", 1)
        hear_until("alert", "warming_threshold")
        begun.set()
        beginning.join()
        cable.cut()
        for latency in (901, 902, 903):
            record(latency=latency)
        cable.mend()
        record(latency=904)
        hear_until("latency", 904)
        hear_until("alert", "latency_threshold")
    assert [latency for latency in received["latency"] if latency != 1] == [901, 902, 903, 904]
    assert received["alert"].count("latency_threshold") == 1
