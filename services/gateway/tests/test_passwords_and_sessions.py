"""Changing a password, and managing one's sessions, through the API."""

import secrets
from typing import Any

import httpx2
import pytest

from common.errors import Conflict, Unauthenticated

from .conftest import Desk

OLD, NEW = "correct horse battery", "staple a longer battery"
HERE = {"Sec-Fetch-Site": "same-origin"}


async def person(http: httpx2.AsyncClient) -> tuple[str, str]:
    email = f"{secrets.token_hex(6)}@example.com"
    registered = await http.post("/v1/api/accounts", json={"email": email, "password": OLD})
    assert registered.status_code == 201, registered.text
    return email, OLD


async def cookie(http: httpx2.AsyncClient, email: str, password: str = OLD) -> dict[str, str]:
    login = await http.post("/login", data={"email": email, "password": password})
    http.cookies.clear()
    return {"Cookie": login.headers["set-cookie"].partition(";")[0]}


async def change(http: httpx2.AsyncClient, current: str, **options: Any) -> httpx2.Response:
    body = {"current": current, "new": NEW}
    return await http.post("/v1/api/account/password", json=body, **options)


async def test_a_changed_password_ends_the_other_sessions_and_keeps_the_keys(desk: Desk) -> None:
    async with desk.http(headers=HERE) as http:
        email, _ = await person(http)
        own, other = await cookie(http, email), await cookie(http, email)
        key = (await http.post("/v1/api/keys", json={"name": "x"}, headers=own)).json()["data"]
        assert (await change(http, OLD, headers=own)).status_code == 204
        statuses = [
            (await http.get("/v1/api/account", **options)).status_code
            for options in (
                {"headers": own},
                {"headers": other},
                {"auth": (email, OLD)},
                {"auth": (email, NEW)},
            )
        ]
        assert statuses == [200, 401, 401, 200]
        token = {"Authorization": f"Bearer {key['key']}"}
        kept = await http.post("/v1/api/echo", json={"word": "x"}, headers=token)
        assert kept.status_code == 200
    assert len(desk.events.published) == 1


async def test_a_wrong_current_password_changes_nothing(desk: Desk) -> None:
    async with desk.http(headers=HERE) as http:
        email, _ = await person(http)
        own, other = await cookie(http, email), await cookie(http, email)
        refused = await change(http, "a guess that is wrong", headers=own)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, 1003)
        assert refused.json()["error"]["details"]["fields"][0]["path"] == "current"
        for headers in (own, other):
            assert (await http.get("/v1/api/account", headers=headers)).status_code == 200
        assert (await http.get("/v1/api/account", auth=(email, OLD))).status_code == 200


async def test_sessions_are_listed_and_ended_by_their_owner_alone(desk: Desk) -> None:
    async with desk.http(headers=HERE) as http:
        email, _ = await person(http)
        stranger = await person(http)
        first, own = await cookie(http, email), await cookie(http, email)
        listed = (await http.get("/v1/api/sessions", headers=own)).json()["data"]["sessions"]
        assert [session["current"] for session in listed] == [True, False]
        assert all(set(each) == {"id", "createdAt", "seenAt", "current"} for each in listed)
        path = f"/v1/api/sessions/{listed[1]['id']}"
        assert (await http.delete(path, auth=stranger)).status_code == 404
        assert (await http.get("/v1/api/account", headers=first)).status_code == 200
        assert (await http.delete(path, headers=own)).status_code == 204
        assert (await http.get("/v1/api/account", headers=first)).status_code == 401
        assert (await http.delete(path, headers=own)).status_code == 404
        left = (await http.get("/v1/api/sessions", headers=own)).json()["data"]["sessions"]
        assert [session["id"] for session in left] == [listed[0]["id"]]
        assert own["Cookie"].partition("=")[2] not in str(listed)


async def test_a_login_that_was_checked_before_the_password_changed_begins_no_session(
    desk: Desk,
) -> None:
    async with desk.http(headers=HERE) as http:
        email, _ = await person(http)
        checked = await desk.guards.accounts.log_in(email, OLD)
        assert (await change(http, OLD, auth=(email, OLD))).status_code == 204
        with pytest.raises(Unauthenticated):
            await desk.guards.sessions.begin(checked, None)
        with pytest.raises(Conflict):
            await desk.guards.sessions.replace_password(checked, "hash", None)


@pytest.mark.parametrize(
    "password", ["password", "Password1", "12345678", "qwertyuiop", "aaaaaaaaaaaa", "letmein123"]
)
async def test_a_common_password_is_refused_at_registration_and_at_a_change(
    desk: Desk, password: str
) -> None:
    async with desk.http(headers=HERE) as http:
        email, _ = await person(http)
        new = {"email": f"{secrets.token_hex(6)}@example.com", "password": password}
        answers = [
            await http.post("/v1/api/accounts", json=new),
            await http.post(
                "/v1/api/account/password",
                json={"current": OLD, "new": password},
                auth=(email, OLD),
            ),
        ]
        for answer, field in zip(answers, ("password", "new"), strict=True):
            assert answer.status_code == 400
            error = answer.json()["error"]
            assert error["details"]["fields"][0]["path"] == field
            assert password not in error["message"].removeprefix(f"{field}: ")


async def test_a_password_made_of_the_address_is_refused(desk: Desk) -> None:
    async with desk.http() as http:
        body = {"email": "wilhelmina-vorstermann@example.com", "password": "wilhelmina-vorstermann"}
        assert (await http.post("/v1/api/accounts", json=body)).status_code == 400


async def test_registration_logs_in_and_leaves_the_password_of_a_taken_address_unchanged(
    desk: Desk,
) -> None:
    form = {"email": f"{secrets.token_hex(6)}@example.com", "password": OLD}
    async with desk.http(headers=HERE) as http:
        registered = await http.post("/register", data=form)
        assert (registered.status_code, registered.headers["location"]) == (303, "/dashboard")
        assert "__Host-session=" in registered.headers["set-cookie"]
        other = await http.post("/register", data={**form, "password": NEW})
        assert (other.status_code, other.headers["location"]) == (303, "/login?registered=1")
        assert "set-cookie" not in other.headers
        page = (await http.get("/login?registered=1")).text
        assert "its password is unchanged" in page
        assert (await http.get("/v1/api/account", auth=(form["email"], OLD))).status_code == 200
