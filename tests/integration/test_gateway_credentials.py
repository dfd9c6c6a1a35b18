"""Passwords, links, codes and sessions of an account, through the edge and two gateways."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pyotp
import pytest

from integration.caller import PASSWORD, Account, acts, confirm_address, error_of, from_address
from integration.mailbox import Mailbox
from local.services import SERVICES
from local.stack import Stack

NEW = "staple a longer battery"
ME = "/v1/api/account"


@pytest.fixture
def person(stack: Stack, account: Account) -> Iterator[httpx2.Client]:
    """A browser at a separate address, so that its requests for links count separately."""
    with from_address(stack, "127.0.0.81", headers={"Sec-Fetch-Site": "same-origin"}) as made:
        yield made


def log_in(person: httpx2.Client, email: str, password: str = PASSWORD) -> dict[str, str]:
    """Log in with another browser; return its cookie."""
    answer = person.post("/login", data={"email": email, "password": password})
    assert answer.headers.get("location") == "/dashboard", answer.text
    person.cookies.clear()
    return {"Cookie": answer.headers["set-cookie"].partition(";")[0]}


def status(person: httpx2.Client, **how: Any) -> int:
    return person.get(ME, **how).status_code


def test_sessions_are_listed_and_ended_one_by_one_and_a_new_password_ends_the_others(
    account: Account, person: httpx2.Client
) -> None:
    desk, phone, lost = (log_in(person, account.email) for _ in range(3))
    listed = person.get("/v1/api/sessions", headers=desk).json()["data"]["sessions"]
    assert [session["current"] for session in listed] == [False, False, True]
    ended = person.delete(f"/v1/api/sessions/{listed[0]['id']}", headers=desk)
    assert ended.status_code == 204, ended.text
    assert [status(person, headers=session) for session in (desk, phone, lost)] == [200, 200, 401]

    wrong = person.post(f"{ME}/password", json={"current": "guess", "new": NEW}, headers=desk)
    assert error_of(wrong)["details"]["fields"][0]["path"] == "current"
    change = {"current": PASSWORD, "new": NEW}
    assert person.post(f"{ME}/password", json=change, headers=desk).status_code == 204
    assert [status(person, headers=session) for session in (desk, phone)] == [200, 401]
    assert status(person, auth=(account.email, PASSWORD)) == 401
    assert status(person, auth=(account.email, NEW)) == 200
    # Keys stay as they are.
    assert account.generate("lilypad/tiny-text-classification").status_code == 200


def test_a_reset_link_gives_the_account_to_the_owner_of_an_unconfirmed_address_once(
    stack: Stack, account: Account, person: httpx2.Client, mailbox: Mailbox
) -> None:
    """The account's creator, who does not own the address, loses all access."""
    stranger = log_in(person, account.email)
    hook = {"url": "http://127.0.0.1:9/", "events": ["alert.raised"]}
    added = account.post("/v1/api/webhooks", hook)
    assert added.status_code == 201, added.text
    token = {"token": "hf_stranger"}
    assert person.put(f"{ME}/hub-token", json=token, headers=stranger).status_code == 200
    totp = person.post(f"{ME}/totp", json={"password": PASSWORD}, headers=stranger)
    assert totp.status_code == 409
    assert "confirm your e-mail address first" in error_of(totp)["message"]
    for email in (account.email, "nobody@example.com"):
        answer = person.post(f"{ME}/reset", json={"email": email})
        assert (answer.status_code, answer.json()["data"]) == (202, None)
    link = mailbox.next_link(account.email)
    assert link.startswith(f"{stack.url}/reset?token=")
    form = person.get(link)
    [token] = re.findall(r'name="token" value="(\w[^"]+)"', form.text)
    done = person.post("/reset", data={"token": token, "new": NEW})
    unanswered = False
    while done.status_code == 503:  # the webhooks service is busy, and the link still works
        unanswered = True
        time.sleep(1)
        done = person.post("/reset", data={"token": token, "new": NEW})
    # A link whose answer was lost has been used, as the lines below check.
    if not (unanswered and done.status_code == 400):
        assert (done.status_code, done.headers.get("location")) == (303, "/login"), done.text

    again = person.post(f"{ME}/reset/confirm", json={"token": token, "new": PASSWORD})
    assert "ask for a new link" in error_of(again)["message"]
    assert status(person, headers=stranger) == 401
    assert (
        account.generate("lilypad/tiny-text-classification").status_code == 401
    )  # a key created before
    assert status(person, auth=(account.email, PASSWORD)) == 401
    owner = log_in(person, account.email, NEW)
    totp = person.post(f"{ME}/totp", json={"password": NEW}, headers=owner)
    assert totp.status_code == 201, "the link has confirmed the address"
    tried = person.post(f"{ME}/hub-token/test", headers=owner)
    assert "no Hub token is stored" in error_of(tried)["message"]
    made = person.post("/v1/api/keys", json={"name": "own"}, headers=owner).json()["data"]["key"]
    listed = person.get("/v1/api/webhooks", headers={"Authorization": f"Bearer {made}"})
    assert [each["enabled"] for each in listed.json()["data"]["webhooks"]] == [False]
    assert "nobody@example.com" not in mailbox.received
    assert "password_reset" in acts(stack, account.id)


def test_an_operators_command_prints_a_link_that_works_once(
    stack: Stack, account: Account, person: httpx2.Client
) -> None:
    gateway = next(service for service in SERVICES if service.name == "gateway")
    printed = subprocess.run(
        [sys.executable, "-m", "gateway.recovery", account.email],
        env={**os.environ, **stack.environment_of(gateway)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert printed.startswith(f"{stack.url}/reset?token=")
    body = {"token": printed.partition("token=")[2], "new": NEW}
    answers = [person.post(f"{ME}/reset/confirm", json=body).status_code for _ in range(2)]
    assert answers == [204, 400]
    assert status(person, auth=(account.email, NEW)) == 200


def test_a_second_factor_takes_each_code_once_in_the_header_or_the_body(
    stack: Stack, account: Account, person: httpx2.Client
) -> None:
    confirm_address(stack, account.email)
    auth = (account.email, PASSWORD)

    def send(method: str, path: str, code: str = "", **body: str) -> httpx2.Response:
        headers = {"X-Lilypad-Code": code} if code else {}
        return person.request(method, ME + path, json=body or None, auth=auth, headers=headers)

    app = pyotp.parse_uri(send("POST", "/totp", password=PASSWORD).json()["data"]["uri"])
    assert isinstance(app, pyotp.TOTP)
    body = {"code": app.now()}
    confirmed = person.post(f"{ME}/totp/confirm", json=body, auth=auth)
    recovery = confirmed.json()["data"]["recoveryCodes"]

    without = send("GET", "")
    assert (without.status_code, error_of(without)["details"]) == (401, {"reason": "totp"})
    assert "X-Lilypad-Code" in error_of(without)["message"]
    code = app.at(int(time.time()) + app.interval)  # the next step's: the last one is used up
    # On whichever gateway each request arrives.
    assert [send("GET", "", code).status_code for _ in range(3)] == [200, 401, 401]
    assert [send("GET", "", recovery[0]).status_code for _ in range(2)] == [200, 401]
    # The page asks for it in a second step.
    assert "challenge" in person.post("/login", data={"email": auth[0], "password": PASSWORD}).text

    refused = send("POST", "/password", current=PASSWORD, new=NEW)
    assert error_of(refused)["details"]["fields"][0]["path"] == "code"
    change = {"current": PASSWORD, "new": NEW, "code": recovery[1]}
    done = person.post(f"{ME}/password", json=change, auth=auth)
    assert done.status_code == 204, done.text
    end = {"password": NEW, "code": recovery[2]}
    ended = person.request("DELETE", f"{ME}/totp", json=end, auth=(account.email, NEW))
    assert ended.status_code == 204, ended.text
    assert status(person, auth=(account.email, NEW)) == 200
