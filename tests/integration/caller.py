"""A caller of the public API, and the check that an answer is well-formed."""

import json
import secrets
from typing import Any

import httpx2
import psycopg

from local.stack import Stack

# Not the password in the examples, which tools that send those would change.
PASSWORD = "a frog on a lily pad"


class Account:
    """A new account with a key, and its requests through the edge."""

    def __init__(self, url: str) -> None:
        self.email = f"{secrets.token_hex(6)}@example.com"
        self.http = httpx2.Client(base_url=url, timeout=60)
        body = {"email": self.email, "password": PASSWORD}
        self.id: str = self.http.post("/v1/api/accounts", json=body).json()["data"]["id"]
        self.key = self.make_key("test")["key"]
        self.headers = {"Authorization": f"Bearer {self.key}"}

    def make_key(self, name: str, **fields: Any) -> dict[str, Any]:
        answer = self.http.post(
            "/v1/api/keys", json={"name": name, **fields}, auth=(self.email, PASSWORD)
        )
        assert answer.status_code == 201, answer.text
        key: dict[str, Any] = answer.json()["data"]
        return key

    def post(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        headers = {**self.headers, **options.pop("headers", {})}
        return self.http.post(path, json=body, headers=headers, **options)

    def generate(self, model: str, **fields: Any) -> httpx2.Response:
        return self.post("/v1/api/generate", {"modelUrl": model, **fields})


def error_of(response: httpx2.Response) -> dict[str, Any]:
    """Return the error of a well-formed envelope; fail on anything else."""
    assert response.headers["content-type"] == "application/json", response.text
    body = json.loads(response.text)
    assert set(body) == {"data", "error", "meta"}, body
    assert body["data"] is None
    assert set(body["error"]) == {"code", "message", "details"}, body
    assert body["meta"]["requestId"] == response.headers["x-request-id"]
    assert body["meta"]["timestamp"].endswith("Z")
    error: dict[str, Any] = body["error"]
    return error


def from_address(stack: Stack, address: str, **options: object) -> httpx2.Client:
    """Open a client at a separate address, so that its failed logins count separately."""
    transport = httpx2.HTTPTransport(local_address=address)
    return httpx2.Client(base_url=stack.url, transport=transport, timeout=60, **options)  # type: ignore[arg-type]


def confirm_address(stack: Stack, email: str) -> None:
    """Confirm an account's e-mail address, as the first mailed link does."""
    with psycopg.connect(stack.postgres.url("gateway")) as database:
        database.execute("update accounts set confirmed_at = now() where email = %s", [email])


def acts(stack: Stack, account: str) -> list[str]:
    """List the account's audit entries, oldest first."""
    with psycopg.connect(stack.postgres.url("gateway")) as database:
        rows = database.execute(
            "select act from audit where account_id = %s order by id", [account]
        )
        return [act for (act,) in rows]
