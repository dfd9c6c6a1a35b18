"""One delivery attempt: an event posted to an address, signed per Standard Webhooks 1.0."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Self

import aiohttp
from standardwebhooks import Webhook as Signer
from yarl import URL

from common.contracts.webhooks import Attempt
from webhooks.addresses import Addresses, InnerAddress

TIMEOUT_S = 10.0
# Max bytes read of an answer, which bounds the cost of a connection.
MAX_ANSWER_BYTES = 4096
MAX_RETRY_AFTER_S = 24 * 3600.0
GONE = 410


class UnreadableSecret(Exception):
    """Error for a webhook without a readable secret; nothing is posted unsigned."""

    def __init__(self) -> None:
        super().__init__("the webhook's secret cannot be read any more; give it a new one")


@dataclass(frozen=True)
class Posted:
    """Outcome of an attempt. `retry_after_s`: the pause that the receiver requested."""

    attempt: Attempt
    retry_after_s: float | None = None

    @property
    def succeeded(self) -> bool:
        return self.attempt.error is None

    @property
    def gone(self) -> bool:
        """Whether the receiver refuses further events (410)."""
        return self.attempt.status == GONE


class Poster:
    """HTTP client that posts events; an async context manager."""

    def __init__(self, addresses: Addresses) -> None:
        self.addresses = addresses

    async def __aenter__(self) -> Self:
        # Each attempt has its own connection, whose address was checked for it.
        connector = aiohttp.TCPConnector(
            resolver=self.addresses.resolver(), use_dns_cache=False, force_close=True, limit=0
        )
        self.http = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()

    async def post(self, url: str, id: str, body: str, secrets: Sequence[str]) -> Posted:
        """Post an event once; the attempt holds the reason of a failure.

        Args:
            url: where to.
            id: the event's, the same in each of its attempts.
            body: the event as JSON.
            secrets: each signs; a receiver needs to know one of them.
        """
        start, began = datetime.now(UTC), time.monotonic()
        status, retry_after_s = None, None
        try:
            self._check_literal(url)
            _require(secrets)
            async with self.http.post(
                url,
                data=body.encode(),
                headers=_headers(id, start, body, secrets),
                allow_redirects=False,
            ) as answer:
                status = answer.status
                retry_after_s = _pause(answer.headers.get("Retry-After"))
                await answer.content.read(MAX_ANSWER_BYTES)
                error = _fault(status)
        except (InnerAddress, UnreadableSecret) as refused:
            error = str(refused)
        except TimeoutError:
            error = f"no answer within {TIMEOUT_S:.0f} s"
        except aiohttp.ClientConnectorCertificateError:
            error = "its certificate is not valid"
        except aiohttp.ClientConnectorDNSError as failed:
            inner_address = isinstance(failed.os_error, InnerAddress)
            error = str(failed.os_error) if inner_address else "its name cannot be resolved"
        except aiohttp.ClientConnectorError:
            error = "it cannot be connected to"
        except (aiohttp.ClientError, OSError, ValueError, asyncio.IncompleteReadError):
            error = "the connection broke, or what came was no HTTP"
        took = time.monotonic() - began
        attempt = Attempt(at=start, status=status, error=error, seconds=round(took, 3))
        return Posted(attempt, retry_after_s)

    def _check_literal(self, url: str) -> None:
        """Raise InnerAddress for an inner IP address, which does not pass through the resolver."""
        host = URL(url).host or ""
        try:
            reachable = self.addresses.may_reach(host)
        except ValueError:  # a name
            return
        if not reachable:
            raise InnerAddress


def _require(secrets: Sequence[str]) -> None:
    if not secrets:
        raise UnreadableSecret


def _headers(id: str, at: datetime, body: str, secrets: Sequence[str]) -> dict[str, str]:
    signatures = [Signer(secret).sign(id, at, body) for secret in secrets]
    return {
        "content-type": "application/json",
        "user-agent": "lilypad-webhooks/1",
        "webhook-id": id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _fault(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"it answered {status}: redirects are not followed, give the final address"
    return f"it answered {status}"


def _pause(retry_after: str | None) -> float | None:
    """Parse `Retry-After`, in seconds or as a date; return at most a day."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            date = parsedate_to_datetime(retry_after)
            seconds = (date - datetime.now(date.tzinfo)).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)
