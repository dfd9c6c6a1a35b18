"""Metrics of models in use: recording, summaries, samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lilypad_client import operations
from lilypad_client.operation import camel
from lilypad_client.resource import Flow, Items, Mode, Resource, operation, stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from typing import Unpack

    from lilypad_client import types
    from lilypad_client.params import MonitorRequestFields, Record


class Metrics(Resource[Mode]):
    """Metrics of models."""

    @operation
    def get(self, model_id: str, **fields: Unpack[MonitorRequestFields]) -> Flow[types.Monitoring]:
        """Summarise the last days of a model: statistics, plots, advice.

        Args:
            model_id: as it was recorded.
            fields: `days` (30), `metrics` to plot, `plot_format`.
        """
        return self._call(operations.MONITOR, body={"modelId": model_id, **camel(fields)})

    @operation
    def record(
        self,
        model_id: str,
        metrics: Mapping[str, float],
        *,
        timestamp: datetime | str | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[types.Recorded]:
        """Store metric values of one moment; they are committed when this returns.

        Args:
            model_id: any name; usually the model's id on the Hub.
            metrics: throughput (samples/s), latency (ms), memory_usage and gpu_memory_usage
                (MiB), cost_per_inference (USD), and any others.
            timestamp: when it was measured; now when left out.
            idempotency_key: your own, so that a restarted program records it once.
        """
        body: dict[str, Any] = {"modelId": model_id, "metrics": dict(metrics)}
        if timestamp is not None:
            body["timestamp"] = timestamp
        return self._call(operations.RECORD, body=body, idempotency_key=idempotency_key)

    @operation
    def record_many(
        self, records: Sequence[Record], *, idempotency_key: str | None = None
    ) -> Flow[types.Recorded]:
        """Store up to 10,000 records, all or none. Part of the beta, v2.

        Args:
            records: `{"modelId": ..., "timestamp": ..., "metrics": {...}}` each.
            idempotency_key: your own, so that a restarted program records them once.
        """
        body = {"records": list(records)}
        return self._call(operations.RECORD_MANY, body=body, idempotency_key=idempotency_key)

    @operation
    def storage(self) -> Flow[types.StorageUse]:
        """Return the account's storage use and its limits."""
        return self._call(operations.GET_STORAGE)

    @stream
    def models(self, page_size: int = 100) -> Items[types.RecordedModel]:
        """Yield the models that were recorded or measured, with their metrics."""
        return self._iterate(operations.LIST_MODELS, "models", limit=page_size)

    @stream
    def samples(
        self,
        model_id: str,
        metric: str,
        *,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        page_size: int = 5000,
    ) -> Items[types.Sample]:
        """Yield the recorded samples of one metric, oldest first.

        Args:
            model_id: as it was recorded.
            metric: such as `latency`.
            since: start time, inclusive; None: the oldest.
            until: the time before which to end; None: no end.
            page_size: samples in a request.
        """
        query: dict[str, Any] = {"modelId": model_id, "metric": metric}
        query |= {"from": since, "to": until, "limit": page_size}
        return self._iterate(operations.LIST_SAMPLES, "samples", cursor="cursor", **query)

    @operation
    def delete_samples(
        self,
        model_id: str,
        *,
        metric: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
    ) -> Flow[types.SamplesDeleted]:
        """Delete samples; later statistics exclude them.

        Args:
            model_id: as it was recorded.
            metric: such as `latency`; None: all metrics.
            since: start time, inclusive; None: the oldest.
            until: the time before which to end; None: no end.
        """
        query = {"modelId": model_id, "metric": metric, "from": since, "to": until}
        return self._call(operations.DELETE_SAMPLES, query=query)
