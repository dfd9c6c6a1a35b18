"""The table of endpoints, and routes with a deadline of their own."""

import asyncio
import re
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from starlette.routing import Match, Route

from common import bus, pending
from common.bus import NatsBus
from common.connection import ReceivedMessage
from common.contracts.monitoring import MONITOR
from gateway import routes
from gateway.app import Gateway
from gateway.endpoint import endpoints_of
from gateway.routes import monitoring
from local.stack import Stack

from .conftest import Desk, post


def test_every_handler_is_a_method_that_a_trace_can_name() -> None:
    parts = dict.fromkeys(("accounts", "sessions", "recovery", "deletion"))
    nothing = cast("Any", SimpleNamespace(**parts))
    names = [
        each.handler.__qualname__ for each in routes.endpoints(nothing, nothing, nothing, nothing)
    ]
    assert "GenerationRoutes.generate" in names
    assert not [name for name in names if "<" in name]
    assert len(names) == len(set(names))


def test_every_page_is_served_by_the_handler_that_declares_it(desk: Desk) -> None:
    served = [route for route in desk.gateway.app.routes if isinstance(route, Route)]
    pages = [route for route in served if "Pages." in route.name]
    assert {"ModelPages.show", "StartPages.start", "DocumentationPages.v2"} <= {
        page.name for page in pages
    }
    assert not [page.name for page in pages if "<" in page.name]
    for page in pages:
        path = re.sub(r"{[^}]*}", "x", page.path)
        method = "POST" if "POST" in (page.methods or ()) else "GET"
        scope = {"type": "http", "method": method, "path": path}
        first = next(route for route in served if route.matches(scope)[0] is Match.FULL)
        assert first.name == page.name, path


async def test_an_answer_about_more_than_31_days_of_metrics_is_computed_once(
    desk: Desk, nats: NatsBus, servers: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Copies are due at once, and no call expires, however slow the machine is.
    monkeypatch.setattr(pending, "REPEAT_AFTER", 0)
    monkeypatch.setattr(pending, "MIN_REPEAT_AFTER_S", 0)
    for name in ("MONITOR", "MONITOR_LONG"):
        monkeypatch.setattr(monitoring, name, replace(getattr(monitoring, name), timeout=600.0))
    _, key = await desk.key()
    endpoints = endpoints_of(monitoring.MonitoringRoutes(nats))
    desk.gateway = Gateway(endpoints, desk.guards, desk.keyring, "http://gateway", checks={})
    received: dict[int, list[ReceivedMessage]] = defaultdict(list)
    long_begun = asyncio.Event()

    def compute_slowly(message: ReceivedMessage) -> None:
        days = orjson.loads(message.data)["days"]
        received[days].append(message)
        if days > 31:
            long_begun.set()
        elif len(received[days]) == 2:
            # The copy of the shorter window: one of the longer would have been sent before it.
            for first, *_ in received.values():
                metrics.client.send(first.reply, b"{}")

    def ask(days: int) -> Any:
        return asyncio.create_task(
            post(desk, "/v1/api/monitor", key, {"modelId": "m", "days": days})
        )

    async with bus.connect(servers.nats.url("metrics"), "metrics") as metrics:
        await metrics.client.listen(MONITOR.subject, compute_slowly, "metrics")
        await metrics.flush()
        longer = ask(32)
        await long_begun.wait()
        answers = await asyncio.gather(longer, ask(31))
    assert [answer.status_code for answer in answers] == [200, 200]
    assert len(received[32]) == 1
