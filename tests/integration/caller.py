"""Somebody who calls the public API, and what a well-formed answer is."""

import json
import secrets
from typing import Any

import httpx2

PASSWORD = "correct horse battery"


class Account:
    """A new account with a key, and what it may ask through the edge."""

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
        made: dict[str, Any] = answer.json()["data"]
        return made

    def post(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        headers = {**self.headers, **options.pop("headers", {})}
        return self.http.post(path, json=body, headers=headers, **options)

    def generate(self, model: str, **fields: Any) -> httpx2.Response:
        return self.post("/v1/api/generate", {"modelUrl": model, **fields})


def error_of(response: httpx2.Response) -> dict[str, Any]:
    """The error in a well-formed envelope; fails on anything else."""
    assert response.headers["content-type"] == "application/json", response.text
    body = json.loads(response.text)
    assert set(body) == {"data", "error", "meta"}, body
    assert body["data"] is None
    assert set(body["error"]) == {"code", "message", "details"}, body
    assert body["meta"]["requestId"] == response.headers["x-request-id"]
    assert body["meta"]["timestamp"].endswith("Z")
    error: dict[str, Any] = body["error"]
    return error
