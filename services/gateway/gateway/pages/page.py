"""The `Page` decorator, which declares the method and path of a page beside its handler."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeVar

from fastapi import FastAPI

from gateway.endpoint import ROUTE, handlers_of

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Page:
    """A page's row. Decorates the handler; `public` if anybody may open it, without a login."""

    method: str
    path: str
    _: KW_ONLY
    public: bool = False

    def __call__(self, handler: Function) -> Function:
        setattr(handler, ROUTE, self)
        return handler


def serve(app: FastAPI, group: object) -> None:
    """Serve the pages of a group that has handlers of requests, in their order."""
    for page, handler in handlers_of(group):
        add(app, page, handler, handler.__qualname__)


def add(app: FastAPI, page: Page, answer: Callable[..., Any], name: str) -> None:
    """Serve a page by a function of the request; `name` is that of its handler."""
    # Unlike `app.get`, `add_route` serves HEAD too.
    app.add_route(page.path, answer, [page.method], name, include_in_schema=False)
