"""The pages: what this is, and the live documentation."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.staticfiles import StaticFiles

from gateway import sessions

# Nothing from elsewhere, nothing inline: what is not served from here does not run.
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# Swagger UI sets styles on its elements.
DOCS_CSP = CSP.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # What one person sees is not for the next one at the same machine.
    "Cache-Control": "no-store",
}


class Pages:
    """Renders a template; every page knows its address, and whether somebody is logged in."""

    def __init__(self, public_url: str) -> None:
        self.public_url = public_url
        self._templates = Environment(
            loader=PackageLoader("gateway"), autoescape=True, undefined=StrictUndefined
        )

    def show(self, name: str, request: Request, status: int = 200, **values: Any) -> HTMLResponse:
        headers = dict(request.scope["headers"])
        page = self._templates.get_template(name).render(
            public_url=self.public_url,
            path=request.url.path,
            logged_in=sessions.token_in(headers) is not None,
            **values,
        )
        return HTMLResponse(page, status, headers=HEADERS)


def add(app: FastAPI, pages: Pages) -> None:
    swagger = Path(fastapi_offline.__file__).parent / "static"
    app.mount("/static/swagger", StaticFiles(directory=swagger))
    app.mount("/static", StaticFiles(directory=str(files("gateway").joinpath("static"))))

    async def start(request: Request) -> HTMLResponse:
        return pages.show("start.html", request)

    async def docs(request: Request) -> HTMLResponse:
        page = pages.show("docs.html", request)
        page.headers["Content-Security-Policy"] = DOCS_CSP
        return page

    # As the other pages, and other than `app.get`, with HEAD.
    app.add_route("/", start, methods=["GET"], include_in_schema=False)
    app.add_route("/docs", docs, methods=["GET"], include_in_schema=False)
