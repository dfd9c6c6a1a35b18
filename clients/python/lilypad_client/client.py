"""The client itself: one connection pool, retries, and a method for each question."""

import hashlib
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from lilypad_client.errors import APIConnectionError, LilypadError, status_error
from lilypad_client.modules import Module

# Tried again: the service asks for it, or never saw the request.
RETRIED = frozenset({429, 502, 503, 504})
# The first pause between tries and the longest, in seconds.
PAUSE, LONGEST_PAUSE = 0.5, 60.0


class LilypadClient:
    """Talks to a Lilypad Model Generator.

    Args:
        api_key: as shown when it was made; else the variable LILYPAD_API_KEY.
        base_url: where the service is; else LILYPAD_BASE_URL, else this machine.
        timeout: seconds to wait for an answer.
        max_retries: how often to try again after 429, 502, 503, 504 or a lost
            connection; 0: never.

    Raises:
        LilypadError: there is no key. Every method raises its subclasses.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        timeout: float = 60.0,
        max_retries: int = 2,
    ) -> None:
        key = api_key or os.environ.get("LILYPAD_API_KEY")
        if not key:
            raise LilypadError("give api_key, or set LILYPAD_API_KEY")
        url = base_url or os.environ.get("LILYPAD_BASE_URL") or "http://127.0.0.1:8080"
        self.max_retries = max_retries
        self._http = httpx2.Client(
            base_url=url.rstrip("/"),
            timeout=timeout,
            headers={"Authorization": f"Bearer {key}", "User-Agent": "lilypad-client-python"},
        )

    def generate_module(
        self,
        model_url: str,
        options: dict[str, Any] | None = None,
        *,
        revision: str | None = None,
        accept: Sequence[str] = (),
    ) -> Module:
        """The files of a module that runs the model.

        Args:
            model_url: https://huggingface.co/owner/name, or the id.
            options: any of batchSize, memory, gpu, optimizationLevel.
            revision: a branch, tag or commit in place of the address's own.
            accept: what the model is not to be refused for: license, too-large.
        """
        response = self._post("/v1/api/generate", _body(model_url, options, revision, accept))
        try:
            return Module(response.json()["data"])
        except (ValueError, LookupError, TypeError):
            raise APIConnectionError(
                f"{self._http.base_url} does not answer as a Lilypad Model Generator;"
                " is base_url right?"
            ) from None

    def download(
        self,
        model_url: str,
        to: str | Path,
        options: dict[str, Any] | None = None,
        *,
        revision: str | None = None,
        accept: Sequence[str] = (),
    ) -> Path:
        """The same module as a zip, written to the file `to`, whole or not at all.

        Returns:
            The path it was written to.
        """
        response = self._post("/v1/api/download", _body(model_url, options, revision, accept))
        digest = hashlib.sha256(response.content).hexdigest()
        if response.headers.get("etag") != f'"{digest}"':
            raise APIConnectionError("the archive did not arrive whole; try again")
        path = Path(to)
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(response.content)
        return part.replace(path)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        for attempt in range(self.max_retries + 1):
            last = attempt == self.max_retries
            try:
                response = self._http.post(path, json=body)
            except httpx2.TransportError as error:
                if last:
                    raise APIConnectionError(f"no answer from {self._http.base_url}") from error
                time.sleep(_pause(attempt, None))
                continue
            if response.is_success:
                return response
            if last or response.status_code not in RETRIED:
                raise _error(response)
            time.sleep(_pause(attempt, response.headers.get("retry-after")))
        raise AssertionError("unreachable")


def _body(
    model_url: str, options: dict[str, Any] | None, revision: str | None, accept: Sequence[str]
) -> dict[str, Any]:
    body: dict[str, Any] = {"modelUrl": model_url}
    if options:
        body["options"] = options
    if revision:
        body["revision"] = revision
    if accept:
        body["accept"] = list(accept)
    return body


def _pause(attempt: int, asked: str | None) -> float:
    """What the service asked for, else a growing pause; always with a little chance in it."""
    seconds = float(asked) if asked and asked.isdigit() else PAUSE * 2.0**attempt
    return min(seconds, LONGEST_PAUSE) * (1 + random.random() / 4)  # noqa: S311  (no secret)


def _error(response: httpx2.Response) -> LilypadError:
    try:
        error = response.json()["error"]
        whole = isinstance(error["code"], int) and isinstance(error["message"], str)
    except (ValueError, LookupError, TypeError):
        whole = False
    if not whole:
        error = None
    request_id = response.headers.get("x-request-id", "")
    return status_error(response.status_code, error, request_id, response.text)
