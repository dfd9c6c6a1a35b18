"""Rendering: templates, static files, and the headers of every page."""

import hashlib
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from gateway import sessions
from gateway.pages import figures, wording

# Only what this origin serves may load or run; nothing inline.
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # The next person at the same machine must not see a cached page.
    "Cache-Control": "no-store",
}
# A file's address carries its digest, so a copy never gets stale.
HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
IMMUTABLE = "public, max-age=31536000, immutable"

PACKAGE = Path(str(files("gateway.pages")))
STATIC = PACKAGE / "static"
# npm installs these at set-up, by package.json.
NPM = PACKAGE / "node_modules"
LIBRARIES = {
    "htmx.js": "htmx.org/dist/htmx.min.js",
    "uplot.js": "uplot/dist/uPlot.iife.min.js",
    "uplot.css": "uplot/dist/uPlot.min.css",
    "socket.io.js": "socket.io-client/dist/socket.io.min.js",
}


class Pages:
    """A renderer of templates, which get the page's URL and whether a session cookie came."""

    def __init__(self, public_url: str) -> None:
        self.public_url = public_url
        self._templates = Environment(
            loader=PackageLoader("gateway.pages"),
            autoescape=True,
            finalize=figures.finalize,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            # Templates change with the package alone.
            auto_reload=False,
        )
        self._templates.globals.update(asset=_addresses().__getitem__, labels=wording.LABELS)
        self._templates.filters.update(figures.FILTERS, labelled=wording.labelled)

    def show(self, name: str, request: Request, status: int = 200, **values: Any) -> HTMLResponse:
        headers = dict(request.scope["headers"])
        page = self._templates.get_template(name).render(
            here=self._origin(headers),
            path=request.url.path,
            logged_in=sessions.token_in(headers) is not None,
            **values,
        )
        return HTMLResponse(page, status, headers=HEADERS)

    def _origin(self, headers: dict[bytes, bytes]) -> str:
        """Return the address at which the browser opened the page; snippets use it."""
        host = headers.get(b"host", b"").decode("latin-1")
        scheme = headers.get(b"x-forwarded-proto", b"").decode("latin-1")
        if not HOST.fullmatch(host) or scheme not in ("http", "https"):
            return self.public_url
        return f"{scheme}://{host}"


def is_fragment(request: Request) -> bool:
    """Whether htmx asks for a part of a page."""
    return request.headers.get("hx-request") == "true"


class _Static(StaticFiles):
    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        scope = arguments[2]
        versioned = scope["query_string"].startswith(b"v=")
        # Modules import one another by their bare names.
        response.headers["Cache-Control"] = IMMUTABLE if versioned else "no-cache"
        return response


def add_static(app: FastAPI) -> None:
    """Serve the npm libraries and the pages' own files below /static."""
    app.add_route("/static/npm/{name}", _library, methods=["GET"], include_in_schema=False)
    app.mount("/static", _Static(directory=STATIC))


async def _library(request: Request) -> Response:
    source = LIBRARIES.get(request.path_params["name"])
    if source is None or not (NPM / source).is_file():
        raise HTTPException(404)
    return FileResponse(NPM / source, headers={"Cache-Control": IMMUTABLE})


def _addresses() -> dict[str, str]:
    """Return the URLs of static files by name, each with its digest."""
    return {name: f"/static/{name}?v={digest}" for name, digest in _digests()}


def _digests() -> Iterator[tuple[str, str]]:
    for path in STATIC.iterdir():
        yield path.name, hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    for name, source in LIBRARIES.items():
        path = NPM / source
        content = path.read_bytes() if path.is_file() else b""
        yield f"npm/{name}", hashlib.sha256(content).hexdigest()[:12]
