"""The Hub's protocol of huggingface_hub 2.4: model documents, trees, files, errors."""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, quote, unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from hub.info import model_info
from hub.repository import DATE, Commit, File, Repository
from hub.stock import Stock

MEMBER_TOKEN = "hf_member"  # may read everything
STRANGER_TOKEN = "hf_stranger"  # a valid account that no gated or private model has let in
ACCOUNTS = {MEMBER_TOKEN: "member", STRANGER_TOKEN: "stranger"}

QUOTA, WINDOW = 100_000, 300  # requests per seconds; the real one has 500 (api), tests are busier
PAGE = 1000  # entries of a tree, as on the real Hub
CHUNK = 1 << 16

# Paths are used as sent: the client quotes slashes and newlines of a revision or a file.
REPO = r"(?P<repo>[^/]+(?:/[^/]+)?)"
ROUTES = [
    ("info", re.compile(rf"/api/models/{REPO}/revision/(?P<revision>[^/]+)")),
    ("tree", re.compile(rf"/api/models/{REPO}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?")),
    ("paths_info", re.compile(rf"/api/models/{REPO}/paths-info/(?P<revision>[^/]+)")),
    ("refs", re.compile(rf"/api/models/{REPO}/refs")),
    ("info", re.compile(rf"/api/models/{REPO}")),
    ("search", re.compile(r"/api/models")),
    ("resolve", re.compile(rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")),
    ("cdn", re.compile(rf"/cdn/{REPO}/(?P<revision>[0-9a-f]{{40}})/(?P<path>.+)")),
]


class RefusalError(Exception):
    """An error answer with the Hub's wording."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        # A message may repeat any request; a header may not.
        self.headers = {"X-Error-Message": message.encode("unicode_escape").decode(), **headers}
        if code:
            self.headers["X-Error-Code"] = code
        self.status = status


class MovedError(Exception):
    """A redirect of a renamed repository to the same path under its new name."""


class Hub:
    """An ASGI application over a stock of repositories."""

    def __init__(self, stock: Stock) -> None:
        self.stock = stock
        self.signing_key = secrets.token_bytes()
        self.spent: dict[tuple[str, int], int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self.answer(request)
        except MovedError as moved:
            response = JSONResponse({"url": str(moved)}, 307, {"Location": str(moved)})
        except RefusalError as refusal:
            response = JSONResponse({"error": str(refusal)}, refusal.status, refusal.headers)
        response.headers.update(self.rate_limit(request))
        trace = request.headers.get("x-amzn-trace-id", "")
        response.headers["X-Request-Id"] = f"Root=1-{secrets.token_hex(12)};{trace}"
        await response(scope, receive, send)

    async def answer(self, request: Request) -> Response:
        raw_path = request.scope["raw_path"].decode("ascii")
        if raw_path == "/api/whoami-v2":
            return self.whoami(request)
        name, arguments = route(raw_path)
        path = arguments.get("path", "")
        if name == "search":
            return self.search(request)
        if name == "cdn":
            self.check_signature(request)
            repository = await self.stock.repository(arguments["repo"])
            commit = repository.commits[arguments["revision"]]
            return content(request, commit.files[path], commit)
        repository = await self.repository(request, arguments["repo"])
        revision = arguments.get("revision", "main")
        if (at := repository.at(revision)) is None:
            raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        match name:
            case "info":
                return self.info(request, repository, at)
            case "tree":
                return self.tree(request, at, path)
            case "paths_info":
                return await self.paths_info(request, at)
            case "refs":
                return self.refs(repository)
            case _:
                return self.resolve(request, repository, at, path)

    # Callers and their permissions

    def account(self, request: Request) -> str | None:
        """Return the account's name; None without a token. Raises RefusalError if unknown."""
        authorization = request.headers.get("authorization")
        if authorization is None:
            return None
        account = ACCOUNTS.get(authorization.removeprefix("Bearer "))
        if account is None:
            raise RefusalError(401, "Invalid credentials in Authorization header")
        return account

    async def repository(self, request: Request, name: str) -> Repository:
        account = self.account(request)
        canonical = self.stock.names.get(name.lower())
        model = self.stock.models.get(canonical or "")
        if canonical is None or model is None or (model.private and account != "member"):
            # The real Hub does not tell a stranger whether a private repository exists.
            if account is None:
                raise RefusalError(401, "Invalid username or password.", "RepoNotFound")
            raise RefusalError(404, "Repository not found", "RepoNotFound")
        if model.disabled:
            raise RefusalError(403, "Access to this resource is disabled.")
        if canonical != name:
            location = request.scope["raw_path"].decode("ascii").replace(name, canonical, 1)
            query = request.url.query
            raise MovedError(f"{location}?{query}" if query else location)
        return await self.stock.repository(canonical)

    def let_in(self, request: Request, repository: Repository) -> None:
        """Raise RefusalError unless the caller may read a gated repository's files."""
        account = self.account(request)
        name = repository.model.id
        if not repository.model.gated or account == "member":
            return
        if account is None:
            message = (
                f"Access to model {name} is restricted. You must have access to it and be "
                "authenticated to access it. Please log in."
            )
            raise RefusalError(401, message, "GatedRepo")
        message = (
            f"Access to model {name} is restricted and you are not in the authorized list. "
            f"Visit https://huggingface.co/{name} to ask for access."
        )
        raise RefusalError(403, message, "GatedRepo")

    def whoami(self, request: Request) -> Response:
        account = self.account(request)
        if account is None:
            raise RefusalError(401, "Invalid username or password.")
        token = {"displayName": "test", "role": "read"}
        return JSONResponse(
            {
                "type": "user",
                "id": hashlib.sha256(account.encode()).hexdigest()[:24],
                "name": account,
                "orgs": [],
                "auth": {"type": "access_token", "accessToken": token},
            }
        )

    # Documents

    def search(self, request: Request) -> Response:
        """Answer a list of models by owner and by a part of their ids, as the Hub's search does."""
        query = request.query_params
        if "filter" in query:
            return JSONResponse([])  # this Hub searches no tags
        author, part = query.get("author", ""), query.get("search", "").lower()
        member = self.account(request) == "member"
        matches = [
            {"id": model.id, "modelId": model.id, "private": model.private, "downloads": 0}
            for model in self.stock.models.values()
            if (member or not model.private)
            and part in model.id.lower()
            and (not author or model.id.startswith(f"{author}/"))
        ]
        return JSONResponse(matches[: int(query.get("limit", "1000"))])

    def info(self, request: Request, repository: Repository, commit: Commit) -> Response:
        query = request.query_params
        document = model_info(
            repository, commit, blobs="blobs" in query, security="securityStatus" in query
        )
        if expand := query.getlist("expand"):
            document = {
                name: value
                for name, value in document.items()
                if name in {"_id", "id", "modelId", *expand}
            }
        return JSONResponse(document)

    def tree(self, request: Request, commit: Commit, folder: str) -> Response:
        query = request.query_params
        if folder and folder not in commit.folders and folder not in commit.files:
            message = f"{folder} does not exist on {commit.sha}"
            raise RefusalError(404, message, "EntryNotFound", **{"X-Repo-Commit": commit.sha})
        prefix = f"{folder}/" if folder else ""
        deep = query.get("recursive", "").lower() in {"true", "1"}
        expand = query.get("expand", "").lower() in {"true", "1"}
        entries = [
            entry(commit, path, expand)
            for path in sorted([*commit.files, *commit.folders])
            if path.startswith(prefix) and (deep or "/" not in path.removeprefix(prefix))
        ]
        start = int(query.get("cursor", 0))
        response = JSONResponse(
            entries[start : start + PAGE], headers={"X-Repo-Commit": commit.sha}
        )
        if start + PAGE < len(entries):
            following = request.url.include_query_params(cursor=start + PAGE)
            response.headers["Link"] = f'<{following}>; rel="next"'
        return response

    async def paths_info(self, request: Request, commit: Commit) -> Response:
        form = parse_qs((await request.body()).decode())
        known = [path for path in form.get("paths", []) if path in {*commit.files, *commit.folders}]
        expand = form.get("expand") == ["true"]
        return JSONResponse([entry(commit, path, expand) for path in known])

    def refs(self, repository: Repository) -> Response:
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha}
            for name, sha in repository.branches.items()
        ]
        return JSONResponse({"branches": branches, "converts": [], "tags": []})

    # Files

    def resolve(
        self, request: Request, repository: Repository, commit: Commit, path: str
    ) -> Response:
        self.let_in(request, repository)
        file = commit.files.get(path)
        if file is None:
            raise RefusalError(
                404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.sha}
            )
        if not file.is_lfs:
            return content(request, file, commit)
        location = f"/cdn/{repository.model.id}/{commit.sha}/{quote(path)}"
        return Response(
            f"Found. Redirecting to {location}",
            302,
            {
                "Location": f"{location}?Signature={self.signature(location)}",
                "X-Repo-Commit": commit.sha,
                "X-Linked-Size": str(file.size),
                "X-Linked-ETag": f'"{file.etag}"',
                "Accept-Ranges": "bytes",
            },
            media_type="text/plain",
        )

    def check_signature(self, request: Request) -> None:
        """Raise RefusalError unless the Hub signed this address; do not check its expiry."""
        expected = self.signature(request.scope["raw_path"].decode("ascii"))
        if not hmac.compare_digest(expected, request.query_params.get("Signature", "")):
            raise RefusalError(403, "AccessDenied")

    def signature(self, raw_path: str) -> str:
        return hmac.new(self.signing_key, raw_path.encode(), "sha256").hexdigest()

    def rate_limit(self, request: Request) -> dict[str, str]:
        """Return the Hub's RateLimit headers (IETF draft); the limit is never enforced."""
        resource = "api" if request.url.path.startswith("/api/") else "resolvers"
        window, into = divmod(int(time.monotonic()), WINDOW)
        spent = self.spent[resource, window] = self.spent.get((resource, window), 0) + 1
        return {
            "RateLimit": f'"{resource}";r={max(0, QUOTA - spent)};t={WINDOW - into}',
            "RateLimit-Policy": f'"fixed window";"{resource}";q={QUOTA};w={WINDOW}',
        }


def route(raw_path: str) -> tuple[str, dict[str, str]]:
    """Return the name of the handler, and the unquoted parts of the path."""
    for name, pattern in ROUTES:
        if match := pattern.fullmatch(raw_path):
            return name, {key: unquote(part) for key, part in match.groupdict().items() if part}
    raise RefusalError(404, "Sorry, we can't find the page you are looking for.")


def entry(commit: Commit, path: str, expand: bool) -> dict[str, object]:
    """Return the entry of one file or folder in a tree."""
    file = commit.files.get(path)
    if file is None:
        line: dict[str, object] = {
            "type": "directory",
            "oid": commit.folders[path],
            "size": 0,
            "path": path,
        }
    else:
        line = {"type": "file", "oid": file.oid, "size": file.size, "path": path}
        if file.is_lfs:
            line["lfs"] = {
                "oid": file.sha256,
                "size": file.size,
                "pointerSize": len(file.pointer),
            }
    if expand:
        line["lastCommit"] = {"id": commit.sha, "title": "Make", "date": DATE}
    return line


def content(request: Request, file: File, commit: Commit) -> Response:
    """Answer with a file (200), the range of a Range header (206), or a refusal of it (416)."""
    headers = {
        "X-Repo-Commit": commit.sha,
        "X-Linked-Size": str(file.size),
        "ETag": f'"{file.etag}"',
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(file.path.rpartition('/')[2])}",
        "Content-Type": "application/octet-stream" if file.is_lfs else "text/plain; charset=utf-8",
    }
    start, stop = 0, file.size
    # More than one range is answered with everything, as RFC 9110 allows.
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if match and any(match.groups()):
        first, last = match.groups()
        start = int(first) if first else max(0, file.size - int(last))
        stop = min(int(last) + 1, file.size) if first and last else file.size
        if start >= stop:
            raise RefusalError(
                416, "Range Not Satisfiable", **{"Content-Range": f"bytes */{file.size}"}
            )
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    headers["Content-Length"] = str(stop - start)
    status = 206 if "Content-Range" in headers else 200
    if request.method == "HEAD":
        return Response(None, status, headers)
    return StreamingResponse(chunks(file, start, stop), status, headers)


async def chunks(file: File, start: int, stop: int) -> AsyncIterator[bytes]:
    with file.stored.open("rb") as stored:
        stored.seek(start)
        while start < stop:
            size = min(CHUNK, stop - start)
            chunk = stored.read(size) or bytes(size)
            yield chunk
            start += len(chunk)
