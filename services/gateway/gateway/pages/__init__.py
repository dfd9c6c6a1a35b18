"""The dashboard's pages, which offer the functions of the API in a browser."""

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from gateway.door import Guards
from gateway.endpoint import Endpoint
from gateway.keyring import KeyRing
from gateway.pages import accounts, benchmarks, docs, keys, models, modules, overview, site, usage
from gateway.pages.operations import Operations
from gateway.pages.site import Pages
from gateway.pages.visits import Visits

__all__ = ["Pages", "add"]


def add(
    app: FastAPI, pages: Pages, endpoints: list[Endpoint], guards: Guards, keyring: KeyRing
) -> None:
    site.add_static(app)
    _add_start(app, pages)
    docs.add(app, pages)
    operations = Operations(endpoints, guards)
    visits = Visits(guards, pages, operations)
    for part in (overview, accounts, keys, modules, benchmarks, models, usage):
        part.add(app, visits, keyring)


def _add_start(app: FastAPI, pages: Pages) -> None:
    async def start(request: Request) -> HTMLResponse:
        return pages.show("start.html", request)

    # Unlike `app.get`, `add_route` serves HEAD too.
    app.add_route("/", start, methods=["GET"], include_in_schema=False)
