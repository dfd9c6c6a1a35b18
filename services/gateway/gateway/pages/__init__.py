"""The dashboard's pages, which offer the functions of the API in a browser."""

from fastapi import FastAPI

from gateway.door import Guards
from gateway.endpoint import Endpoint
from gateway.keyring import KeyRing
from gateway.pages import page, site
from gateway.pages.accounts import AccountPages
from gateway.pages.benchmarks import BenchmarkPages
from gateway.pages.docs import DocumentationPages
from gateway.pages.keys import KeyPages
from gateway.pages.models import ModelPages
from gateway.pages.modules import ModulePages
from gateway.pages.operations import Operations
from gateway.pages.overview import OverviewPages
from gateway.pages.site import Pages
from gateway.pages.start import StartPages
from gateway.pages.usage import UsagePages
from gateway.pages.visits import Visits

__all__ = ["Pages", "add"]


def add(
    app: FastAPI, pages: Pages, endpoints: list[Endpoint], guards: Guards, keyring: KeyRing
) -> None:
    site.add_static(app)
    page.serve(app, StartPages(pages))
    page.serve(app, DocumentationPages(app, pages))
    visits = Visits(guards, pages, Operations(endpoints, guards))
    visits.serve(
        app,
        OverviewPages(visits),
        AccountPages(visits),
        KeyPages(visits),
        ModulePages(visits),
        BenchmarkPages(visits, keyring),
        ModelPages(visits, keyring),
        UsagePages(visits, keyring),
    )
