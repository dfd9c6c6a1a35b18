"""The pages: what this is, and the live documentation."""

from importlib.resources import files
from pathlib import Path

import fastapi_offline
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader
from starlette.staticfiles import StaticFiles

# Nothing from elsewhere, nothing inline: what is not served from here does not run.
# Swagger UI sets styles on its elements and draws its icons from data: addresses.
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def add(app: FastAPI, public_url: str) -> None:
    templates = Environment(loader=PackageLoader("gateway"), autoescape=True)
    swagger = Path(fastapi_offline.__file__).parent / "static"
    app.mount("/static/swagger", StaticFiles(directory=swagger))
    app.mount("/static", StaticFiles(directory=str(files("gateway").joinpath("static"))))

    def show(name: str) -> HTMLResponse:
        page = templates.get_template(name).render(public_url=public_url)
        return HTMLResponse(page, headers=HEADERS)

    @app.get("/", include_in_schema=False)
    async def start(_: Request) -> HTMLResponse:
        return show("start.html")

    @app.get("/docs", include_in_schema=False)
    async def docs(_: Request) -> HTMLResponse:
        return show("docs.html")
