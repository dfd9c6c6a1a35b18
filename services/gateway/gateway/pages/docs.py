"""Pages of the documentation: guides, and the API's operations, each of which can be tried."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException

from gateway.pages import guides, site
from gateway.pages.page import Page
from gateway.pages.reference import Operation, Reference
from gateway.pages.site import Pages

# Pictures change with the package.
CACHE = "public, max-age=3600"


class DocumentationPages:
    def __init__(self, app: FastAPI, pages: Pages) -> None:
        self.pages = pages
        self.reference = Reference(app)

    @Page("GET", "/docs", public=True)
    async def v1(self, request: Request) -> Response:
        """Serve the API's stable version, and the guides."""
        return await self._show("api.html", request, "v1", guides=True)

    @Page("GET", "/docs/v2", public=True)
    async def v2(self, request: Request) -> Response:
        return await self._show("api.html", request, "v2", guides=False)

    @Page("GET", "/docs/{path:path}", public=True)
    async def page(self, request: Request) -> Response:
        """Serve a guide, an operation, or a file that a guide shows."""
        path = request.url.path
        if guide := guides.guides().get(path):
            section = guides.SECTIONS[guide.file.parent.name]
            text = guides.render(guide)
            return await self._show("guide.html", request, "v1", section, guide=guide, text=text)
        if operation := (await asyncio.to_thread(self.reference.by_address)).get(path):
            return await self._operation(request, operation)
        if file := guides.attachments().get(path):
            return FileResponse(file, headers={**site.HEADERS, "Cache-Control": CACHE})
        raise HTTPException(404)

    async def _operation(self, request: Request, operation: Operation) -> Response:
        tag = operation.tag
        version = operation.version
        return await self._show("operation.html", request, version, tag, operation=operation)

    async def _show(
        self, name: str, request: Request, version: str, section: str = "", **values: Any
    ) -> Response:
        # Read from OpenAPI on first use, which takes seconds.
        await asyncio.to_thread(self.reference.by_address)
        return self.pages.show(
            name,
            request,
            version=version,
            here_section=section,
            sections=guides.contents(),
            operations=self.reference.by_tag(version),
            introduction=self.reference.introduction(),
            **values,
        )
