"""An outgoing event, encoded once for all clients."""

from functools import cached_property
from typing import Any

import orjson

from common.contracts.alerts import AlertEvent
from common.contracts.benchmarking import BenchmarkProgress
from common.contracts.history import MetricUpdate
from common.errors import ServiceError


class Update:
    """One outgoing Socket.IO event.

    Attributes:
        topic: the subject of the event; a newer update of the same topic may replace this one.
        series: the topic's series that the update has a value of. An update is replaced only
            by one that has all of its series.
        text: the Engine.IO packet: `4` (message), `2` (event), and a JSON array.
    """

    def __init__(self, event: str, data: Any, topic: str = "", series: Any = ()) -> None:
        self.event = event
        self.data = data
        self.topic = topic
        self.series = frozenset(series)
        self.text = b"42" + orjson.dumps([event, data])
        self._selections: dict[frozenset[str], Update | None] = {}
        self._with_cursor: tuple[str, Update] | None = None

    @cached_property
    def frame(self) -> bytes:
        """The unmasked WebSocket frame (RFC 6455, 5.2), the same for every client."""
        size = len(self.text)
        if size < 126:
            return bytes((0x81, size)) + self.text
        if size < 1 << 16:
            return b"\x81\x7e" + size.to_bytes(2, "big") + self.text
        return b"\x81\x7f" + size.to_bytes(8, "big") + self.text

    def select(self, metrics: frozenset[str]) -> "Update | None":
        """Return the update with only these metrics; None if it contains none of them.

        Equal selections share one object, so each is encoded once.
        """
        if metrics >= self.series:
            return self
        if metrics not in self._selections:
            chosen = {k: v for k, v in self.data["metrics"].items() if k in metrics}
            data = {**self.data, "metrics": chosen}
            update = Update(self.event, data, self.topic, chosen) if chosen else None
            self._selections[metrics] = update
        return self._selections[metrics]

    def with_cursor(self, cursor: str) -> "Update":
        """Return the update with a cursor; repeated calls with one cursor share the result."""
        if self._with_cursor is None or self._with_cursor[0] != cursor:
            data = {**self.data, "cursor": cursor}
            self._with_cursor = cursor, Update(self.event, data, self.topic, self.series)
        return self._with_cursor[1]


def model_topic(model: str) -> str:
    return f"model {model}"


def metric_update(body: MetricUpdate) -> Update:
    data = {"modelId": body.model_id, "timestamp": body.timestamp, "metrics": body.metrics}
    return Update("metric_update", data, model_topic(body.model_id), body.metrics)


def alert(body: AlertEvent) -> Update:
    # The fields of the API reference, and the rule's id.
    shown = {"model_id", "type", "message", "severity", "rule_id"}
    data = body.model_dump(mode="json", include=shown)
    return Update("alert", data)


def benchmark_progress(body: BenchmarkProgress) -> Update:
    return Update("benchmark_progress", body.model_dump(mode="json"), f"run {body.id}")


def error(reason: ServiceError) -> Update:
    return Update("error", {"code": reason.code, "message": reason.message})
