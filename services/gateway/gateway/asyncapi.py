"""The sockets as an AsyncAPI document, in addition to OpenAPI.

`asyncapi.json` is held to the realtime service by the tests of `tests/documents`.
"""

import json
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse


def document(public_url: str) -> dict[str, Any]:
    """Return the document, with the host of `public_url` as its server."""
    text = files("gateway").joinpath("asyncapi.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    loaded["servers"]["edge"]["host"] = urlsplit(public_url).netloc
    return loaded


def add(app: FastAPI, public_url: str) -> None:
    shown = document(public_url)

    async def asyncapi(_: Request) -> JSONResponse:
        return JSONResponse(shown)

    app.add_route("/asyncapi.json", asyncapi, methods=["GET"], include_in_schema=False)
