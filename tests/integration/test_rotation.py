"""Rotation of secrets in a serving stack, as in docs/reference/security.md."""

import asyncio
import threading
from dataclasses import replace

import httpx2
import pytest
from cryptography.fernet import Fernet

from gateway import rotation
from hub.app import MEMBER_TOKEN, STRANGER_TOKEN
from hub.testing import RunningHub
from integration.caller import PASSWORD, Account
from local.services import SERVICES
from local.stack import Stack

OPEN, GATED = "lilypad/tiny-text-classification", "lilypad/tiny-gated"
PARTS = {s.name: replace(s, replicas=2) for s in SERVICES if s.name in ("gateway", "generator")}


def roll(stack: Stack, service: str, **variables: str) -> None:
    """Restart the replicas of a service one after the other, with new variables."""
    stack.environment |= variables
    for replica in range(PARTS[service].replicas):
        process = stack.processes[f"{service}-{replica + 1}"]
        environment = stack.environment_of(PARTS[service], replica)
        process.program = replace(process.program, environment=environment)
        stack.restart(process.name)


class Caller(threading.Thread):
    """A thread that generates modules and checks its stored Hub token until stopped."""

    def __init__(self, account: Account) -> None:
        super().__init__()
        self.account = account
        self.stopped = threading.Event()
        self.answers: list[httpx2.Response] = []

    def run(self) -> None:
        login = (self.account.email, PASSWORD)
        while not self.stopped.wait(0.05):
            self.answers.append(self.account.generate(OPEN))
            self.answers.append(
                self.account.http.post("/v1/api/account/hub-token/test", auth=login)
            )


@pytest.mark.long
def test_a_rotation_of_hub_tokens_and_encryption_keys_fails_no_request(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": STRANGER_TOKEN,
        "SHARED_MODELS": GATED,
        "ENCRYPTION_KEYS": old,
        **dict.fromkeys(("RATE_API", "RATE_GENERATE", "RATE_LOGIN"), "1000000"),
    }
    with Stack(
        services=list(PARTS.values()), environment=environment, flood_limit=1_000_000
    ) as stack:
        account = Account(stack.url)
        stored = account.http.put(
            "/v1/api/account/hub-token",
            json={"token": MEMBER_TOKEN},
            auth=(account.email, PASSWORD),
        )
        assert stored.status_code == 200, stored.text
        other = Account(stack.url)
        assert other.generate(GATED).status_code == 422
        caller = Caller(account)
        caller.start()
        try:
            roll(stack, "generator", HF_TOKEN=MEMBER_TOKEN)
            assert other.generate(GATED).status_code == 200
            roll(stack, "gateway", ENCRYPTION_KEYS=f"{old},{new}")
            roll(stack, "gateway", ENCRYPTION_KEYS=f"{new},{old}")
            monkeypatch.setenv("DATABASE_URL", stack.postgres.url("gateway"))
            monkeypatch.setenv("ENCRYPTION_KEYS", f"{new},{old}")
            assert asyncio.run(rotation.main()) == 0
            roll(stack, "gateway", ENCRYPTION_KEYS=new)
        finally:
            caller.stopped.set()
            caller.join()
            account.http.close()
            other.http.close()
    # A machine that does much else may answer 503; a secret that is not accepted, 401 or 422.
    refused = [answer.text for answer in caller.answers if answer.status_code not in (200, 503)]
    assert refused == []
    statuses = [answer.status_code for answer in caller.answers]
    assert statuses.count(200) > 0.9 * len(statuses) > 10
