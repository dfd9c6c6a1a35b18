"""The home page: what the generator does, and a first call."""

from fastapi import Request
from fastapi.responses import Response

from gateway.pages.page import Page
from gateway.pages.site import Pages


class StartPages:
    def __init__(self, pages: Pages) -> None:
        self.pages = pages

    @Page("GET", "/", public=True)
    async def start(self, request: Request) -> Response:
        return self.pages.show("start.html", request)
