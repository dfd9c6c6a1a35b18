"""Reads the Hugging Face Hub as if it were hostile: so many bytes, so many seconds, no further.

`huggingface_hub` supplies the rules (what an id is, what its error answers mean).
Its client is not used: `model_info` and `hf_hub_download` read an answer of any
size into memory, follow redirects to any host, and their timeout is for each
read, so that a byte per second holds a thread for ever. Here one
`httpx2.AsyncClient` streams under a cap, and the caller sets a deadline for all.
"""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import httpx2
import orjson
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._http import hf_raise_for_status, parse_ratelimit_headers

from common.errors import HubUnavailable, ModelNotFound, ModelRefused, ServiceError

# A model with 20,000 files is described in about 6 MiB.
MOST_METADATA = 8 * 2**20
MOST_ERROR = 64 * 2**10
REDIRECTS = 3
# Answers under way at once; each holds at most MOST_METADATA.
AT_ONCE = 32
# Files of more than a few kB; what one is read into takes several times its size.
LARGE_AT_ONCE = 4
# The Hub hands out large files from hosts of its own; files only, without the token.
STORAGE = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*\.hf\.co")
# Seconds that its limits are counted over.
LONGEST_WINDOW = 300
PUBLIC = "https://huggingface.co"
# So `huggingface_hub`, too, tells it from the 401 of a model that is not there.
REFUSED_LOGIN = "Invalid credentials in Authorization header"
KEPT_HEADERS = ("x-error-code", "x-error-message", "retry-after", "ratelimit", "ratelimit-policy")


class Hub:
    """What is asked of the Hub. Every method may raise the errors of `_refusal`."""

    def __init__(
        self,
        endpoint: str,
        token: str | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.token = token
        self.clock = clock
        # Held by whoever has a large file of a model's in memory, and what it is read into.
        self.large = asyncio.Semaphore(LARGE_AT_ONCE)
        # Until when the Hub has said that it answers no more, by what is asked for.
        self._spent_until: dict[str, float] = {}
        self._origin = httpx2.URL(self.endpoint)
        # Not from build_hf_headers: to name the calling program, that asks the Hub on its own, and
        # waits for it. Compressed answers are not asked for, so that a small one cannot grow.
        self._headers = {"user-agent": "lilypad-generator/0.1.0", "accept-encoding": "identity"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"
        self._client = httpx2.AsyncClient(
            transport=transport,
            follow_redirects=False,
            timeout=httpx2.Timeout(10.0, connect=5.0),
            limits=httpx2.Limits(max_connections=AT_ONCE, max_keepalive_connections=8),
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def model(self, id: str, revision: str) -> dict[str, Any]:
        """What the Hub says of a model at a revision; unchecked beyond being an object."""
        path = f"/api/models/{id}/revision/{quote(revision, safe='')}"
        answer = await self._get(f"{path}?blobs=true&securityStatus=true", MOST_METADATA)
        return _object(answer.content)

    async def file(self, id: str, commit: str, name: str, most: int) -> bytes:
        """A whole file of at most `most` bytes."""
        return (await self._get(_resolve(id, commit, name), most)).content

    async def part(self, id: str, commit: str, name: str, begin: int, length: int) -> bytes:
        """At most `length` bytes of a file from `begin` on, whatever its size."""
        wanted = {"range": f"bytes={begin}-{begin + length - 1}"}
        answer = await self._get(_resolve(id, commit, name), length, wanted, cut=True)
        if answer.status_code != 206 and begin:
            raise HubUnavailable("the Hub gave another part of a file than asked for", status=502)
        return answer.content

    async def _get(
        self, path: str, most: int, headers: Mapping[str, str] | None = None, *, cut: bool = False
    ) -> httpx2.Response:
        self._check_quota(path)
        url = httpx2.URL(self.endpoint + path)
        sent = {**self._headers, **(headers or {})}
        try:
            for _ in range(REDIRECTS + 1):
                request = self._client.build_request("GET", url, headers=sent)
                answer = await self._client.send(request, stream=True)
                try:
                    self._note_quota(path, answer)
                    if not answer.is_redirect:
                        return await _read(answer, most, cut)
                    url = self._follow(url, answer)
                    if not self._is_home(url):
                        sent.pop("authorization", None)
                finally:
                    await answer.aclose()
        except HfHubHTTPError as error:
            raise _refusal(error) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError):
            raise HubUnavailable(
                "the Hugging Face Hub cannot be reached; try again shortly", retry_after=5
            ) from None
        raise HubUnavailable("the Hub redirects without end", status=502)

    def _check_quota(self, path: str) -> None:
        """Ask nothing that the Hub has said it will not answer: that only makes it stricter."""
        wait = self._spent_until.get(_resource(path), 0.0) - self.clock()
        if wait > 0:
            raise _limited(int(wait) + 1)

    def _note_quota(self, path: str, answer: httpx2.Response) -> None:
        limit = parse_ratelimit_headers(answer.headers)
        if limit and limit.remaining <= 0:
            wait = min(limit.reset_in_seconds, LONGEST_WINDOW)
            self._spent_until[_resource(path)] = self.clock() + wait

    def _follow(self, url: httpx2.URL, answer: httpx2.Response) -> httpx2.URL:
        """Where a redirect leads, if the Hub itself answers there."""
        target = url.join(answer.headers.get("location", ""))
        is_storage = (
            self.endpoint == PUBLIC
            and "/resolve/" in url.path
            and (target.scheme, target.port, target.userinfo) == ("https", None, b"")
            and STORAGE.fullmatch(target.host)
        )
        if not is_storage and not self._is_home(target):
            raise HubUnavailable("the Hub redirects to another host", status=502)
        return target

    def _is_home(self, url: httpx2.URL) -> bool:
        home = self._origin
        return (url.scheme, url.host, url.port, url.userinfo) == (
            home.scheme,
            home.host,
            home.port,
            b"",
        )


def _resolve(id: str, commit: str, name: str) -> str:
    return f"/{id}/resolve/{commit}/{quote(name, safe='/')}"


async def _read(answer: httpx2.Response, most: int, cut: bool) -> httpx2.Response:
    """The answer with its body: all of it, or with `cut` its first `most` bytes."""
    if answer.is_error:
        most, cut = MOST_ERROR, True
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise HubUnavailable("the Hub compressed an answer unasked", status=502)
    body = bytearray()
    async for piece in answer.aiter_raw():
        body += piece
        if len(body) > most:
            if not cut:
                raise HubUnavailable(
                    f"the Hub's answer is larger than {most:,} bytes, which none should be",
                    status=502,
                )
            break
    headers = {name: answer.headers[name] for name in KEPT_HEADERS if name in answer.headers}
    whole = httpx2.Response(
        answer.status_code, headers=headers, content=bytes(body[:most]), request=answer.request
    )
    hf_raise_for_status(whole)
    return whole


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise HubUnavailable("the Hub's answer is not what a Hub answers", status=502)
    return value


def _refusal(error: HfHubHTTPError) -> ServiceError:  # noqa: PLR0911  (one per meaning)
    """What an error of the Hub means to the caller."""
    status = error.response.status_code
    if status == 401 and error.response.headers.get("x-error-message") == REFUSED_LOGIN:
        return HubUnavailable(
            "the Hub does not accept this server's HF_TOKEN: its operator has to replace it",
            status=502,
            reason="hub-token",
        )
    if isinstance(error, GatedRepoError):
        return ModelRefused(
            "the model is gated: its owner grants access on request, and this server has none",
            reason="gated",
        )
    if isinstance(error, DisabledRepoError):
        return ModelRefused("the Hub has disabled this model", reason="disabled")
    if status == 403:
        return HubUnavailable(
            "the Hub, or what stands before it, forbids this server to read the model (403)",
            status=502,
            reason="hub-forbidden",
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelNotFound("the model has no such revision")
    if isinstance(error, EntryNotFoundError):
        return ModelRefused("a file of the model is missing on the Hub", reason="incomplete")
    if isinstance(error, RepositoryNotFoundError) or status in {401, 404}:
        return ModelNotFound("no such model on the Hub, or it is private")
    if status == 429:
        return _limited(_wait(error.response))
    return HubUnavailable(
        f"the Hub answers with an error ({status}); try again shortly", retry_after=10
    )


def _limited(seconds: int) -> HubUnavailable:
    return HubUnavailable(
        "the Hub answers no more requests of this server for now",
        retry_after=seconds,
        reason="hub-limit",
    )


def _resource(path: str) -> str:
    """The Hub counts its API and its files apart."""
    return "api" if path.startswith("/api/") else "files"


def _wait(answer: httpx2.Response) -> int:
    """Seconds until the Hub answers again, as it says itself; within its 5 minute window."""
    limit = parse_ratelimit_headers(answer.headers)
    said = answer.headers.get("retry-after", "")
    seconds = limit.reset_in_seconds if limit else int(said) if said.isdecimal() else 30
    return min(max(seconds, 1), LONGEST_WINDOW)


async def within(seconds: float, reading: Any) -> Any:
    """Await a reading that may span several answers, for so long in all."""
    try:
        async with asyncio.timeout(seconds):
            return await reading
    except TimeoutError:
        raise HubUnavailable(
            f"the Hugging Face Hub took longer than {seconds:g} s; try again shortly",
            retry_after=5,
        ) from None
