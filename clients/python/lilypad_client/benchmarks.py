"""Benchmarks of models; a run is a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lilypad_client import operations
from lilypad_client.errors import APIStatusError, BenchmarkError
from lilypad_client.jobs import GRACE_S, Job
from lilypad_client.operation import camel
from lilypad_client.resource import (
    Flow,
    Items,
    Mode,
    Resource,
    operation,
    starting,
    stream,
)

if TYPE_CHECKING:
    from typing import Literal, Unpack

    from lilypad_client import types
    from lilypad_client.params import BenchmarkRequestFields


class Benchmarks(Resource[Mode]):
    """Runs that measure a model."""

    @starting
    def start(
        self,
        model_id: str,
        *,
        idempotency_key: str | None = None,
        **fields: Unpack[BenchmarkRequestFields],
    ) -> Flow[Job[Any, types.Run]]:
        """Start a run and return its handle: `wait()`, `cancel()`, `progress()`.

        Args:
            model_id: id or address of a model on the Hugging Face Hub.
            idempotency_key: your own, so that a restarted program starts no second run.
            fields: as in the API reference, named as Python names them.
        """
        return _start(self, {"modelId": model_id, **camel(fields)}, idempotency_key)

    @operation
    def get(self, id: str) -> Flow[types.Run]:
        """Return a run in its current state."""
        return self._call(operations.GET_BENCHMARK, id=id)

    @stream
    def list(self, page_size: int = 100, *, model_id: str | None = None) -> Items[types.Run]:
        """Yield the account's runs, newest first, without results.

        Args:
            page_size: runs per request.
            model_id: id or address of a model; lists only its runs.
        """
        query: dict[str, Any] = {"limit": page_size, "modelId": model_id}
        return self._iterate(operations.LIST_BENCHMARKS, "runs", **query)

    @operation
    def cancel(self, id: str) -> Flow[types.Run]:
        """Cancel a run; a finished run is unchanged."""
        return self._call(operations.CANCEL_BENCHMARK, id=id)

    @operation
    def plot(
        self, id: str, plot_format: Literal["plotly", "vega-lite", "series"] = "plotly"
    ) -> Flow[types.Plots]:
        """Plot a run's results against batch size."""
        query = {"plotFormat": plot_format}
        return self._call(operations.PLOT_BENCHMARK, id=id, query=query)


class RunWork(Resource[Any]):
    """Run operations behind a job handle."""

    def get(self, id: str, hold_s: int) -> Flow[types.Run]:
        return self._call(
            operations.GET_BENCHMARK,
            id=id,
            headers={"Prefer": f"wait={hold_s}"} if hold_s else None,
            timeout_s=hold_s + GRACE_S if hold_s else None,
        )

    def cancel(self, id: str) -> Flow[types.Run]:
        return self._call(operations.CANCEL_BENCHMARK, id=id)

    def state(self, latest: types.Run) -> str:
        return latest.state

    def check(self, latest: types.Run) -> None:
        if latest.error is not None:
            raise_failure(latest.error, latest.id)
        if latest.state == "canceled":
            raise BenchmarkError(
                "the run was canceled",
                status_code=422,
                code=1004,
                details={"reason": "canceled", "id": latest.id},
            )


def run(
    resource: Resource[Any],
    model_id: str,
    wait_timeout: float | None,
    fields: BenchmarkRequestFields,
) -> Flow[types.Run]:
    starting_it = _start(resource, {"modelId": model_id, **camel(fields)}, None)

    def flow() -> Flow[types.Run]:
        job = yield from starting_it
        return (yield from job._wait_until_finished(wait_timeout))  # noqa: SLF001  (the flow of `wait`)

    return flow()


def raise_failure(failure: types.Failure, id: str) -> None:
    """Raise the exception of a failed job, chosen by its error code."""
    raise APIStatusError.by_code.get(failure.code, APIStatusError)(
        failure.message,
        status_code=failure.status,
        code=failure.code,
        details={"reason": failure.reason, "id": id},
    )


def _start(
    resource: Resource[Any], body: dict[str, Any], idempotency_key: str | None
) -> Flow[Job[Any, types.Run]]:
    connection = resource._connection  # noqa: SLF001  (a resource's own module)
    started = resource._call(  # noqa: SLF001
        operations.BENCHMARK,
        body=body,
        headers={"Prefer": "respond-async"},
        idempotency_key=idempotency_key,
    )

    def flow() -> Flow[Job[Any, types.Run]]:
        latest = yield from started
        return Job(connection, RunWork(connection), latest.id, latest)

    return flow()
