"""An event as clients get it, encoded once however many they are."""

from functools import cached_property
from typing import Any

import orjson

from common.contracts.benchmarking import BenchmarkProgress
from common.contracts.monitoring import AlertNews, MetricUpdate
from common.errors import ServiceError


class Update:
    """One Socket.IO event on its way out.

    Attributes:
        topic: what it is about; a newer update of the same topic may replace it.
        series: which of the topic's series it has a value of; replaced by an
            update that has them all.
        text: the Engine.IO packet: `4` (message), `2` (event), and a JSON array.
    """

    def __init__(self, event: str, data: Any, topic: str = "", series: Any = ()) -> None:
        self.event = event
        self.data = data
        self.topic = topic
        self.series = frozenset(series)
        self.text = b"42" + orjson.dumps([event, data])
        self._parts: dict[frozenset[str], Update | None] = {}
        self._marked: tuple[str, Update] | None = None

    @cached_property
    def frame(self) -> bytes:
        """The WebSocket frame (RFC 6455, 5.2): not masked by a server, so the same for all."""
        size = len(self.text)
        if size < 126:
            return bytes((0x81, size)) + self.text
        if size < 1 << 16:
            return b"\x81\x7e" + size.to_bytes(2, "big") + self.text
        return b"\x81\x7f" + size.to_bytes(8, "big") + self.text

    def part(self, wanted: frozenset[str]) -> "Update | None":
        """Only the wanted metrics, or None if there are none; the same object for the same wish."""
        if wanted >= self.series:
            return self
        if wanted not in self._parts:
            metrics = {k: v for k, v in self.data["metrics"].items() if k in wanted}
            data = {**self.data, "metrics": metrics}
            self._parts[wanted] = Update(self.event, data, self.topic, metrics) if metrics else None
        return self._parts[wanted]

    def marked(self, cursor: str) -> "Update":
        """With a cursor; the same object for the same one."""
        if self._marked is None or self._marked[0] != cursor:
            data = {**self.data, "cursor": cursor}
            self._marked = cursor, Update(self.event, data, self.topic, self.series)
        return self._marked[1]


def topic_of(model: str) -> str:
    return f"model {model}"


def metric_update(body: MetricUpdate) -> Update:
    data = {"modelId": body.model_id, "timestamp": body.timestamp, "metrics": body.metrics}
    return Update("metric_update", data, topic_of(body.model_id), body.metrics)


def alert(body: AlertNews) -> Update:
    data = body.model_dump(mode="json", include={"model_id", "type", "message", "severity"})
    return Update("alert", data)


def benchmark_progress(body: BenchmarkProgress) -> Update:
    return Update("benchmark_progress", body.model_dump(mode="json"), f"run {body.id}")


def error(reason: ServiceError) -> Update:
    return Update("error", {"code": reason.code, "message": reason.message})
