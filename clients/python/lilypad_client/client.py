"""The clients: the reference's methods, and a resource for each part of the API."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lilypad_client import benchmarks, modules
from lilypad_client.account import Account, Keys
from lilypad_client.alerts import Alerts
from lilypad_client.benchmarks import Benchmarks
from lilypad_client.metrics import Metrics
from lilypad_client.modules import Module, Modules
from lilypad_client.resource import Async, AsyncRaw, Flow, Mode, Raw, Resource, Sync, operation
from lilypad_client.retrying import Budget, Policy
from lilypad_client.transport import AsyncTransport, SyncTransport
from lilypad_client.webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from datetime import datetime
    from types import TracebackType
    from typing import Unpack

    from lilypad_client import types
    from lilypad_client.connection import RateLimit
    from lilypad_client.params import (
        BenchmarkRequestFields,
        GenerateRequestFields,
        MonitorRequestFields,
    )
    from lilypad_client.realtime import MetricUpdate


class Client(Resource[Mode]):
    """Methods and options that all clients share."""

    @cached_property
    def modules(self) -> Modules[Mode]:
        return Modules(self._connection)

    @cached_property
    def benchmarks(self) -> Benchmarks[Mode]:
        return Benchmarks(self._connection)

    @cached_property
    def metrics(self) -> Metrics[Mode]:
        return Metrics(self._connection)

    @cached_property
    def alerts(self) -> Alerts[Mode]:
        return Alerts(self._connection)

    @cached_property
    def webhooks(self) -> Webhooks[Mode]:
        return Webhooks(self._connection)

    @cached_property
    def account(self) -> Account[Mode]:
        return Account(self._connection)

    @cached_property
    def keys(self) -> Keys[Mode]:
        return Keys(self._connection)

    @property
    def base_url(self) -> str:
        """The address of the service."""
        return self._connection.base_url

    @property
    def last_rate_limit(self) -> RateLimit | None:
        """The rate limit in the last answer; None before the first answer."""
        return self._connection.last_rate_limit

    @property
    def beta(self) -> Self:
        """The same client for the beta, v2 of the API."""
        return self._with(version="v2")

    def with_options(self, *, timeout: float | None = None, max_retries: int | None = None) -> Self:
        """Return a copy of the client with another timeout per call (seconds) or retry count."""
        old = self._connection.policy
        new = _policy(
            old.timeout_s if timeout is None else timeout,
            old.max_retries if max_retries is None else max_retries,
        )
        return self._with(policy=new._replace(budget=old.budget))

    def _with(self, **changes: Any) -> Self:
        other = type(self).__new__(type(self))
        Resource.__init__(other, self._connection.copy(**changes))
        return other

    @operation
    def generate_module(
        self, model_url: str, **fields: Unpack[GenerateRequestFields]
    ) -> Flow[Module]:
        """Generate the files of a module that runs the model.

        Args:
            model_url: https://huggingface.co/owner/name, or the id.
            fields: `options` (`batchSize`, `memory`, `gpu`, `optimizationLevel`, `file`),
                `revision`, `accept` (reasons not to refuse the model for: license, too-large),
                `verify` (a worker runs the module first, and the call waits for it).
        """
        return modules.generate(self, model_url, fields)

    @operation
    def download(
        self,
        model_url: str,
        to: str | Path,
        *,
        extract: bool = False,
        **fields: Unpack[GenerateRequestFields],
    ) -> Flow[Path]:
        """Download the module as a zip; a file is written only if its digest is correct.

        Args:
            model_url: as for `generate_module`, and so are the fields.
            to: the file to write; with `extract`, the folder.
            extract: whether to extract it. A crafted archive is refused.
            fields: as for `generate_module`.
        """
        return modules.download(self, model_url, Path(to), extract=extract, fields=fields)

    @operation
    def get_metrics(
        self, model_id: str, **fields: Unpack[MonitorRequestFields]
    ) -> Flow[types.Monitoring]:
        """Summarise the last days of a model; the same as `metrics.get`."""
        return Metrics.get.function(self, model_id, **fields)

    @operation
    def run_benchmark(
        self,
        model_id: str,
        *,
        wait_timeout: float | None = None,
        **fields: Unpack[BenchmarkRequestFields],
    ) -> Flow[types.Run]:
        """Measure a model and wait for the results: `run.results`, `run.analysis`.

        `benchmarks.start` does not wait and shows progress.

        Args:
            model_id: id or address of a model on the Hugging Face Hub.
            wait_timeout: seconds after which the run is canceled; None: as long as it takes.
            fields: `batch_sizes`, `iterations`, `warmup`, `device` and the others of the API
                reference, named as Python names them.

        Raises:
            JobTimeoutError: the run did not finish in time, and was canceled.
            BenchmarkError: it failed; `details["reason"]` says why.
        """
        return benchmarks.run(self, model_id, wait_timeout, fields)


def _policy(timeout: float, max_retries: int) -> Policy:
    if not timeout > 0 or max_retries < 0:
        raise ValueError("timeout must be above 0, and max_retries 0 or more")
    return Policy(max_retries, timeout, Budget())


class LilypadClient(Client[Sync]):
    """A client of the Lilypad Model Generator.

    Args:
        api_key: as shown when it was made; else the variable LILYPAD_API_KEY.
        base_url: where the service is; else LILYPAD_BASE_URL, else this machine.
        account: e-mail address and password, only for `account` and `keys`; with a second
            factor also a code, which one call uses up.
        timeout: seconds that a call may take, all its attempts together.
        max_retries: how often a call is retried where that is safe; 0: never.

    Raises:
        LilypadError: the API key is missing. Every method raises its subclasses.
    """

    _connection: SyncTransport

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        account: tuple[str, str] | tuple[str, str, str] | None = None,
        timeout: float = 60.0,
        max_retries: int = 2,
    ) -> None:
        policy = _policy(timeout, max_retries)
        super().__init__(SyncTransport(api_key, base_url, account, policy))

    @property
    def with_raw_response(self) -> RawLilypadClient:
        """The same client with methods that also return status and headers."""
        return RawLilypadClient(self._connection.copy(raw=True))

    def subscribe_metrics(
        self,
        model_id: str,
        metrics: Sequence[str] | None = None,
        *,
        since: datetime | str | None = None,
    ) -> Iterator[MetricUpdate]:
        """Yield a model's updates live, as they are recorded; reconnections lose no update.

        Args:
            model_id: as it is recorded; one that was never recorded may be followed too.
            metrics: only these; None: all.
            since: where to begin: a time, or the `cursor` of an update; None: now.

        Raises:
            APIStatusError: the service refused the socket, or the key was revoked.
        """
        from lilypad_client import realtime  # noqa: PLC0415  (an extra)

        updates = realtime.metric_updates(self._connection, model_id, metrics, since)
        return realtime.blocking(updates)

    def watch_alerts(self, model_id: str | None = None) -> Iterator[types.Alert]:
        """Yield alerts of one model or of all models, when raised and again when recovered."""
        from lilypad_client import realtime  # noqa: PLC0415  (an extra)

        return realtime.blocking(realtime.changed_alerts(self._connection, model_id))

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncLilypadClient(Client[Async]):
    """`LilypadClient` for asyncio: await its methods, iterate its lists with `async for`."""

    _connection: AsyncTransport

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        account: tuple[str, str] | tuple[str, str, str] | None = None,
        timeout: float = 60.0,
        max_retries: int = 2,
    ) -> None:
        policy = _policy(timeout, max_retries)
        super().__init__(AsyncTransport(api_key, base_url, account, policy))

    @property
    def with_raw_response(self) -> AsyncRawLilypadClient:
        """The same client with methods that also return status and headers."""
        return AsyncRawLilypadClient(self._connection.copy(raw=True))

    def subscribe_metrics(
        self,
        model_id: str,
        metrics: Sequence[str] | None = None,
        *,
        since: datetime | str | None = None,
    ) -> AsyncIterator[MetricUpdate]:
        """Yield a model's updates live; like `LilypadClient.subscribe_metrics`."""
        from lilypad_client import realtime  # noqa: PLC0415  (an extra)

        return realtime.metric_updates(self._connection, model_id, metrics, since)

    def watch_alerts(self, model_id: str | None = None) -> AsyncIterator[types.Alert]:
        """Yield alerts of one model or of all models, when raised and again when recovered."""
        from lilypad_client import realtime  # noqa: PLC0415  (an extra)

        return realtime.changed_alerts(self._connection, model_id)

    async def close(self) -> None:
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class RawLilypadClient(Client[Raw]):
    """A client whose methods return raw responses, made by `LilypadClient.with_raw_response`."""


class AsyncRawLilypadClient(Client[AsyncRaw]):
    """`RawLilypadClient` for asyncio, made by `AsyncLilypadClient.with_raw_response`."""
