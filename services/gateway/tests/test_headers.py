"""Headers that a request may send once, and headers of refusals by other services."""

from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from common.bus import NatsBus
from common.errors import RateLimited
from gateway.app import Gateway
from gateway.limits import headers

from .conftest import Desk
from .test_endpoint import post
from .test_limits import Clock, account, limiter


async def sent(desk: Desk, key: str, *headers: tuple[str, str]) -> Any:
    all_headers = [("authorization", f"Bearer {key}"), *headers]
    async with desk.http() as http:
        return await http.post("/v1/api/echo", json={"word": "x"}, headers=all_headers)


@pytest.mark.parametrize(
    "name", ["Idempotency-Key", "Authorization", "Content-Type", "X-Lilypad-Beta", "X-Request-Id"]
)
async def test_a_single_value_header_is_refused_with_two_values(desk: Desk, name: str) -> None:
    _, key = await desk.key()
    answer = await sent(desk, key, (name, "first-value"), (name, "second-value"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, 1003)
    assert answer.json()["error"]["message"].startswith(f"{name}: sent twice")
    assert "second-value" not in answer.json()["error"]["message"]
    assert desk.calls == []


@pytest.mark.parametrize(
    ("name", "status"),
    [
        *((name, 400) for name in ("Indempotency-Key", "Idempotncy-Key", "X-Idempotent-Key")),
        *((name, 200) for name in ("X-Tempo-Id", "X-Temporary", "X-Temporal-Namespace")),
    ],
)
async def test_a_misspelt_idempotency_key_header_is_refused_and_unrelated_similar_headers_are_not(
    desk: Desk, name: str, status: int
) -> None:
    _, key = await desk.key()
    assert (await sent(desk, key, (name, "one"))).status_code == status


async def test_a_header_that_is_repeated_with_the_same_value_is_accepted(desk: Desk) -> None:
    _, key = await desk.key()
    answer = await sent(desk, key, ("Idempotency-Key", "one"), ("Idempotency-Key", "one"))
    assert answer.status_code == 200


async def test_a_refusal_by_another_service_carries_the_headers_of_its_own_limit(
    desk: Desk,
) -> None:
    async def refuse(*_: Any) -> Any:
        details = {"limit": 5, "window": 3600, "policy": "benchmark"}
        raise RateLimited("at most 5 runs an hour", retry_after=1800, **details)

    desk.answer = refuse
    _, key = await desk.key()
    for extra in ({}, {"idempotency_key": "one"}):
        answer = await post(desk, "/v1/api/echo", key, **extra)
        assert answer.status_code == 429
        assert answer.headers["ratelimit-policy"] == '"api";q=100000;w=60, "benchmark";q=5;w=3600'
        assert '"benchmark";r=0;t=1800' in answer.headers["ratelimit"]
        assert answer.headers["x-ratelimit-limit"] == "5"
        assert answer.headers["x-ratelimit-remaining"] == "0"
        assert answer.headers["retry-after"] == "1800"


async def test_the_old_and_the_new_rate_limit_headers_agree(nats: NatsBus) -> None:
    limits = await limiter(nats, 10, Clock())
    shown = dict(headers(await limits.admit(account(), ["api", "costly"])))
    assert shown[b"ratelimit-policy"] == b'"api";q=10;w=60, "costly";q=10;w=60'
    assert shown[b"ratelimit"] == b'"api";r=9;t=62, "costly";r=9;t=62'
    assert shown[b"x-ratelimit-remaining"] == b"9"
    assert shown[b"x-ratelimit-limit"] == b"10"


async def test_https_callers_get_hsts_and_an_untrusted_proxy_is_logged_once(
    desk: Desk,
) -> None:
    gateway = Gateway([], desk.guards, desk.keyring, "https://gateway", checks={})
    transport = httpx2.ASGITransport(gateway)
    async with httpx2.AsyncClient(transport=transport, base_url="https://gateway") as http:
        with capture_logs() as lines:
            for scheme in ("https", "http", "http"):
                answer = await http.get("/healthz", headers={"X-Forwarded-Proto": scheme})
                assert answer.headers["strict-transport-security"].startswith("max-age=")
                assert len(lines) == (scheme == "http")
    assert "TRUSTED_HOPS" in lines[0]["event"]
