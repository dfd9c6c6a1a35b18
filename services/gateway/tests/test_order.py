"""The order in which a request's faults are refused, as DESIGN.md lists it."""

import dataclasses
import re
from pathlib import Path

from .conftest import Desk

DESIGN = Path(__file__).parents[3] / "DESIGN.md"
HEADERS = {
    "X-Lilypad-Beta": "v2",
    "Content-Type": "application/json",
    "Idempotency-Key": "used-before",
}


def documented() -> list[tuple[int, int]]:
    """Return the status and code in each row of DESIGN's table."""
    section = DESIGN.read_text().partition("## The order of a request")[2].partition("\n## ")[0]
    return [(int(a), int(b)) for a, b in re.findall(r"\| (\d{3}), code (\d{4}) \|", section)]


async def test_a_request_with_every_fault_is_refused_in_the_order_that_the_design_lists(
    desk: Desk,
) -> None:
    account, key = await desk.key(scopes=["generate"])
    other, narrow = await desk.key(scopes=["monitor:read"])
    capacity, over = desk.guards.capacity, desk.guards.limits._over
    good = {**HEADERS, "Authorization": f"Bearer {key}"}
    async with desk.http() as http:
        for number in range(3):  # all that the policy `few` admits, with the key the first time
            sent = {**good, "Idempotency-Key": f"used-{'before' if number == 0 else number}"}
            assert (await http.post("/v2/api/few", json={}, headers=sent)).status_code == 200

        capacity.max_at_once, capacity.max_per_account = 0, 0
        over.update({("api", id): desk.guards.limits.now() + 600 for id in (account, other)})
        headers = [("X-Request-Id", "request-1"), ("X-Request-Id", "request-2")]
        body = b"{" + b" " * 200_000
        url = "/v2/api/few?unknown=1"

        refusals = []

        async def refused() -> None:
            answer = await http.post(url, content=body, headers=headers)
            refusals.append((answer.status_code, answer.json()["error"]["code"]))

        await refused()
        headers.pop()
        await refused()
        capacity.max_at_once = 50
        await refused()
        headers.append(("Authorization", f"Bearer {narrow}"))
        await refused()
        capacity.max_per_account = 5
        await refused()
        over.clear()
        policies = desk.guards.limits.policies
        policies["api"] = dataclasses.replace(policies["api"], limit=0)
        await refused()
        assert refusals.pop() == refusals[-1]  # an account that was not known to be over
        policies["api"] = dataclasses.replace(policies["api"], limit=100_000)
        over.clear()
        await refused()
        headers[-1] = ("Authorization", f"Bearer {key}")
        await refused()
        headers.append(("X-Lilypad-Beta", "v2"))
        await refused()
        url = "/v2/api/few"
        await refused()
        headers.append(("Content-Type", "application/json"))
        await refused()
        body = b"{"
        await refused()
        body = b'{"word": "another"}'
        headers.append(("Idempotency-Key", "used-before"))
        await refused()
        headers[-1] = ("Idempotency-Key", "new")
        await refused()
    assert refusals == documented()
