"""Client for the Hugging Face Hub, which it does not trust: bounded bytes, time and redirects.

`huggingface_hub` supplies the rules (what an id is, what its error answers mean).
Its client is not used: `model_info` and `hf_hub_download` read an answer of any
size into memory, follow redirects to any host, and their timeout is for each
read, so that a byte per second holds a thread for ever. Here one
`httpx2.AsyncClient` streams under a cap, and the caller sets an overall deadline.
"""

import asyncio
import copy
import re
import time
from collections.abc import Callable, Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Self
from urllib.parse import quote, urlencode

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

from common.contracts.hub import STORAGE_HOST
from common.errors import HubUnavailable, ModelNotFound, ModelRefused, ServiceError
from generator.reading import Reader
from generator.shares import Shares
from models.dtypes import KIB, MIB

# A model with 20,000 files is described in about 6 MiB.
MAX_METADATA_BYTES = 8 * MIB
MAX_ERROR_BYTES = 64 * KIB
# Results requested of a search.
MAX_FOUND = 100
# Models made from another one that are listed, and what the Hub tells of each.
MAX_RELATIVES = 20
EXPANDED = ("config", "gated", "library_name", "pipeline_tag", "tags")
ID = re.compile(r"[A-Za-z0-9._-]{1,96}(/[A-Za-z0-9._-]{1,96})?")
MAX_REDIRECTS = 3
# Concurrent requests; each holds at most MAX_METADATA_BYTES.
MAX_CONCURRENT = 32
# Concurrent reads of large files; a parsed file takes several times its size.
MAX_CONCURRENT_LARGE = 4
# Until the response's headers, which take milliseconds; a body's time depends on its size.
HEAD_TIMEOUT_S = 10.0
# The longest window of the Hub's rate limits.
MAX_WINDOW_S = 300
PUBLIC = "https://huggingface.co"
# Distinguishes a bad token from the 401 of a missing model, as `huggingface_hub` does.
REFUSED_LOGIN = "Invalid credentials in Authorization header"
NO_SUCH_MODEL = "no such model on the Hub, or it is private"
NOT_OPEN_TO_OWNER = "no such model on the Hub, or your Hub token has no access to it"
STORE_TOKEN = "store your Hub token with PUT /v1/api/account/hub-token"  # noqa: S105  (advice)
KEPT_HEADERS = ("x-error-code", "x-error-message", "retry-after", "ratelimit", "ratelimit-policy")


class NoSuchModel(ModelNotFound):
    """Error for a model that the Hub does not have, or hides from this token."""


class HubDown(HubUnavailable):
    """Error of the Hub that affects every model: no connection, 5xx or 429."""


class Hub:
    """A bounded client of the Hub. Every method may raise the errors of `_refusal`."""

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
        # Whether the token is that of an account, not of the operator.
        self.is_own = False
        # Held while a large file and its parsed content are in memory.
        self.large = Shares(MAX_CONCURRENT_LARGE)
        self.reader = Reader()
        # When the Hub's rate limit resets, by kind of request (`_resource`).
        self._spent_until: dict[str, float] = {}
        self._origin = httpx2.URL(self.endpoint)
        # Not from build_hf_headers, which blocks on a request of its own to identify the calling
        # program. No compression, so that a small response cannot expand.
        self._headers = {"user-agent": "lilypad-generator/0.1.0", "accept-encoding": "identity"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"
        self._client = httpx2.AsyncClient(
            transport=transport,
            follow_redirects=False,
            # Waiting for our own pool is not the Hub's silence, so its timeout comes first.
            timeout=httpx2.Timeout(10.0, connect=5.0, pool=HEAD_TIMEOUT_S / 2),
            limits=httpx2.Limits(max_connections=MAX_CONCURRENT, max_keepalive_connections=8),
        )
        # No cookies: a session that a mirror opens for one token must not serve another token.
        self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    async def close(self) -> None:
        await self.reader.close()
        await self._client.aclose()

    def with_token(self, token: str) -> Self:
        """Return a view of the Hub with an account's own token; it shares the connections."""
        view = copy.copy(self)
        view.use_own(token)
        return view

    def use_own(self, token: str) -> None:
        self.token, self.is_own = token, True
        self._headers = {**self._headers, "authorization": f"Bearer {token}"}
        self._spent_until = {}

    async def whoami(self) -> dict[str, Any]:
        """Fetch the token's owner; unvalidated."""
        return _object((await self._get("/api/whoami-v2", MAX_METADATA_BYTES)).content)

    async def model(self, id: str, revision: str) -> dict[str, Any]:
        """Fetch the description of a model at a revision; validated as a JSON object only."""
        path = f"/api/models/{id}/revision/{quote(revision, safe='')}"
        answer = await self._get(f"{path}?blobs=true&securityStatus=true", MAX_METADATA_BYTES)
        return _object(answer.content)

    async def pull_requests(self, id: str, author: str) -> dict[str, Any]:
        """Fetch the first page of an author's open pull requests to a model; unvalidated."""
        query = f"p=0&type=pull_request&status=open&author={quote(author, safe='')}"
        answer = await self._get(f"/api/models/{id}/discussions?{query}", MAX_METADATA_BYTES)
        return _object(answer.content)

    async def file(self, id: str, commit: str, name: str, max_bytes: int) -> bytes:
        """Fetch a whole file of at most `max_bytes` bytes."""
        return (await self._get(_resolve(id, commit, name), max_bytes)).content

    async def part(self, id: str, commit: str, name: str, begin: int, length: int) -> bytes:
        """Fetch at most `length` bytes of a file, starting at byte `begin`."""
        if length <= 0:  # HTTP has no such range: the Hub would answer with an error of its own
            return b""
        wanted = {"range": f"bytes={begin}-{begin + length - 1}"}
        answer = await self._get(_resolve(id, commit, name), length, wanted, cut=True)
        if answer.status_code != 206 and begin:
            raise HubUnavailable("the Hub sent another byte range than requested", status=502)
        return answer.content

    async def search(self, **query: str) -> list[str]:
        """Search the Hub for public models; return their ids, most downloaded first."""
        path = "/api/models?" + urlencode(query | {"sort": "downloads", "limit": str(MAX_FOUND)})
        # Anonymous, because the token would also find its owner's private models.
        answer = await self._get(path, MAX_METADATA_BYTES, anonymous=True)
        return _ids(answer.content)

    async def made_from(self, id: str) -> list[dict[str, Any]]:
        """List public models with `id` as their base, in safetensors, most downloaded first."""
        query = [("filter", f"base_model:{id}"), ("filter", "safetensors"), ("sort", "downloads")]
        query += [("limit", str(MAX_RELATIVES)), *(("expand[]", name) for name in EXPANDED)]
        path = "/api/models?" + urlencode(query)
        answer = await self._get(path, MAX_METADATA_BYTES, anonymous=True)
        return _listed(answer.content)

    async def _get(
        self,
        path: str,
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
        *,
        cut: bool = False,
        anonymous: bool = False,
    ) -> httpx2.Response:
        self._check_quota(path)
        url = httpx2.URL(self.endpoint + path)
        sent = {**self._headers, **(headers or {})}
        if anonymous:
            sent.pop("authorization", None)
        try:
            for _ in range(MAX_REDIRECTS + 1):
                request = self._client.build_request("GET", url, headers=sent)
                async with asyncio.timeout(HEAD_TIMEOUT_S):
                    answer = await self._client.send(request, stream=True)
                try:
                    self._note_quota(path, answer)
                    if not answer.is_redirect:
                        return await _read(answer, max_bytes, cut)
                    url = self._follow(url, answer)
                    if not self._is_home(url):
                        sent.pop("authorization", None)
                finally:
                    await answer.aclose()
        except HfHubHTTPError as error:
            raise self._refusal(error, path) from None
        except httpx2.PoolTimeout:
            raise HubUnavailable(
                "too many models are being read; try again", retry_after=5
            ) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError):
            raise HubDown(
                "the Hugging Face Hub cannot be reached; try again shortly", retry_after=5
            ) from None
        raise HubUnavailable("the Hub redirects in a loop", status=502)

    def _check_quota(self, path: str) -> None:
        """Raise while a rate limit is used up: more requests would only make the Hub stricter."""
        wait = self._spent_until.get(_resource(path), 0.0) - self.clock()
        if wait > 0:
            raise _limited(int(wait) + 1)

    def _note_quota(self, path: str, answer: httpx2.Response) -> None:
        limit = parse_ratelimit_headers(answer.headers)
        if limit and limit.remaining <= 0:
            wait = min(limit.reset_in_seconds, MAX_WINDOW_S)
            self._spent_until[_resource(path)] = self.clock() + wait

    def _follow(self, url: httpx2.URL, answer: httpx2.Response) -> httpx2.URL:
        """Return the target of a redirect if it is on the Hub itself."""
        target = url.join(answer.headers.get("location", ""))
        is_storage = (
            self.endpoint == PUBLIC
            and "/resolve/" in url.path
            and (target.scheme, target.port, target.userinfo) == ("https", None, b"")
            and STORAGE_HOST.fullmatch(target.host)
        )
        if not is_storage and not self._is_home(target):
            raise HubUnavailable("the Hub redirects to another host", status=502)
        return target

    def gated(self, id: str) -> ModelRefused:
        """Return the refusal of a gated model, which says how to get access."""
        where = f"{self.endpoint}/{id}"
        if self.is_own:
            advice = f"the Hub account of your token has no access: ask for it at {where}"
        else:
            advice = f"ask for access at {where}, then {STORE_TOKEN}"
        return ModelRefused(f"the model is gated; {advice}", reason="gated")

    def _refusal(self, error: HfHubHTTPError, path: str) -> ServiceError:
        if isinstance(error, GatedRepoError):
            return self.gated(_id_in(path))
        refusal = _refusal(error)
        if not self.is_own:
            return refusal
        if refusal.details.get("reason") == "hub-token":
            return ModelRefused(
                "the Hub does not accept your Hub token any more; store another with"
                " PUT /v1/api/account/hub-token",
                reason="hub-token",
            )
        if isinstance(refusal, NoSuchModel):
            return NoSuchModel(NOT_OPEN_TO_OWNER)
        return refusal

    def _is_home(self, url: httpx2.URL) -> bool:
        home = self._origin
        return (url.scheme, url.host, url.port, url.userinfo) == (
            home.scheme,
            home.host,
            home.port,
            b"",
        )


def _id_in(path: str) -> str:
    """Return the model's id in a path built by one of the methods above."""
    return re.split("/revision/|/resolve/|/discussions", path)[0].removeprefix("/api/models")[1:]


def _resolve(id: str, commit: str, name: str) -> str:
    return f"/{id}/resolve/{commit}/{quote(name, safe='/')}"


async def _read(answer: httpx2.Response, max_bytes: int, cut: bool) -> httpx2.Response:
    """Read the whole body, or with `cut` its first `max_bytes` bytes."""
    if answer.is_error:
        max_bytes, cut = MAX_ERROR_BYTES, True
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise HubUnavailable(
            "the Hub compressed an answer that was requested uncompressed", status=502
        )
    body = bytearray()
    async for piece in answer.aiter_raw():
        body += piece
        if len(body) > max_bytes:
            if not cut:
                raise HubUnavailable(
                    f"the Hub's answer is larger than {max_bytes:,} bytes",
                    status=502,
                )
            break
    headers = {name: answer.headers[name] for name in KEPT_HEADERS if name in answer.headers}
    response = httpx2.Response(
        answer.status_code, headers=headers, content=bytes(body[:max_bytes]), request=answer.request
    )
    hf_raise_for_status(response)
    return response


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise HubUnavailable("the Hub's answer is malformed", status=502)
    return value


def _ids(content: bytes) -> list[str]:
    """Return the well-formed ids in a list of models; skip anything else."""
    return [model["id"] for model in _listed(content)]


def _listed(content: bytes) -> list[dict[str, Any]]:
    """Return the models of a list that have a well-formed id."""
    try:
        listed = orjson.loads(content)
    except orjson.JSONDecodeError:
        listed = []
    models = [model for model in listed if isinstance(model, dict)] if type(listed) is list else []
    return [one for one in models if isinstance(one.get("id"), str) and ID.fullmatch(one["id"])]


def _refusal(error: HfHubHTTPError) -> ServiceError:  # noqa: PLR0911  (one per meaning)
    """Translate an error of the Hub for the caller."""
    status = error.response.status_code
    if status == 401 and error.response.headers.get("x-error-message") == REFUSED_LOGIN:
        return HubUnavailable(
            "the Hub does not accept this server's HF_TOKEN: its operator has to replace it",
            status=502,
            reason="hub-token",
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
        return NoSuchModel(NO_SUCH_MODEL)
    if status == 429:
        return _limited(_wait(error.response))
    kind = HubDown if status >= 500 else HubUnavailable
    return kind(f"the Hub answers with an error ({status}); try again shortly", retry_after=10)


def _limited(seconds: int) -> HubUnavailable:
    return HubDown(
        "the Hub answers no more requests of this server for now",
        retry_after=seconds,
        reason="hub-limit",
    )


def _resource(path: str) -> str:
    """Return which of the Hub's rate limits a path counts against."""
    return "api" if path.startswith("/api/") else "files"


def _wait(answer: httpx2.Response) -> int:
    """Return the seconds to wait that the Hub states, at most its five-minute window."""
    limit = parse_ratelimit_headers(answer.headers)
    header = answer.headers.get("retry-after", "")
    seconds = limit.reset_in_seconds if limit else int(header) if header.isdecimal() else 30
    return min(max(seconds, 1), MAX_WINDOW_S)


async def within(seconds: float, reading: Any) -> Any:
    """Await a read that may take several requests, with one timeout for all of them."""
    try:
        async with asyncio.timeout(seconds):
            return await reading
    except TimeoutError:
        raise HubUnavailable(
            f"the Hugging Face Hub took longer than {seconds:g} s; try again shortly",
            retry_after=5,
        ) from None
