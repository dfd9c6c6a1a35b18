"""The gateway's answer to the edge about a caller, before the edge buffers a large body."""

from typing import Any

from .conftest import Desk


async def admission(desk: Desk, path: str, key: str = "") -> Any:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with desk.http() as http:
        return await http.post(f"/admit{path}", headers=headers)


async def test_a_known_callers_account_is_returned_to_the_edge_without_calling_the_handler(
    desk: Desk,
) -> None:
    account, key = await desk.key()
    answer = await admission(desk, "/v1/api/many", key)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["x-lilypad-account"] == account
    assert desk.calls == []


async def test_an_unknown_caller_is_refused_before_its_body_is_sent(desk: Desk) -> None:
    for key in ("", "lmg_live_unknown"):
        answer = await admission(desk, "/v1/api/many", key)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, 2001)
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_key_without_the_scope_is_refused(desk: Desk) -> None:
    _, key = await desk.key(scopes=["monitor:read"])
    answer = await admission(desk, "/v1/api/many", key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, 2003)


async def test_an_unknown_path_admits_no_caller(desk: Desk) -> None:
    _, key = await desk.key()
    assert (await admission(desk, "/v1/api/nothing", key)).status_code == 404
