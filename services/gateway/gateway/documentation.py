"""OpenAPI, made from the same endpoints that are served, so that it cannot say something else."""

import inspect
import re
from typing import Annotated, Any

from fastapi import FastAPI, Path
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute

from common.contracts import Message
from gateway import envelope, sessions
from gateway.endpoint import Endpoint, Version
from gateway.envelope import Envelope, ErrorEnvelope

DESCRIPTION = """
From a Hugging Face model to a module that runs.

Every JSON answer is an envelope: `data`, `error` and `meta`. `/api/...` is the
same as `/v1/api/...`. Get a key with `POST /v1/api/accounts`, then
`POST /v1/api/keys` (HTTP Basic), and send it as `Authorization: Bearer <key>`.

| code | meaning |
|---|---|
| 1001 | invalid model URL, or no such model |
| 1002 | generation failed |
| 1003 | the request is not valid |
| 1004 | benchmark failed |
| 1005 | monitoring error |
| 2001 | no, unknown, expired or revoked token |
| 2002 | rate limit exceeded |
| 2003 | permission denied |
| 3001 | not found |
| 3002 | conflict |
| 5001 | internal error |
| 5003 | overloaded, or a dependency is away |
"""

MEANINGS = {
    304: "Not changed: the same bytes as those of the `ETag` that was sent.",
    400: "The request is not valid.",
    401: "No, unknown, expired or revoked credentials.",
    403: "Not allowed: the key lacks the scope, v2 is not opted in to, or another site asks.",
    404: "Not found.",
    408: "The request took longer than 30 seconds to arrive.",
    409: "Conflict, or the first request with this Idempotency-Key is still under way.",
    413: "The body is too large.",
    415: "The body is not JSON by its media type.",
    422: "Understood, and refused; the message says why.",
    429: "A rate limit is exceeded; `Retry-After` says for how long.",
    500: "Internal error.",
    502: "The Hub answered something that makes no sense.",
    503: "Overloaded, or a dependency is away; `Retry-After` says when to try again.",
    504: "The answer took longer than it may.",
}

BETA = {
    "name": "X-Lilypad-Beta",
    "in": "header",
    "required": False,
    "description": "Opts in to the beta; not needed where the account has switched it on.",
    "schema": {"const": "v2"},
}
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key and body again within 24 hours is answered with what was"
    " answered the first time, and done once. Use a UUID.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` of what one has: if it is still the same, the answer is 304.",
    "schema": {"type": "string"},
}
SECURITY: dict[str, list[dict[str, list[str]]]] = {
    "": [],
    "account": [{"password": []}, {"session": []}],
}


class Status(Message):
    status: str

    def to_envelope(self, request_id: str) -> bytes:
        return envelope.success(self, "v1", request_id)


def route(endpoint: Endpoint, path: str, version: Version) -> APIRoute:
    """The endpoint as FastAPI understands it; it describes, and is served by its door."""
    statuses = {500, 503, 504, *endpoint.errors}
    if endpoint.allows:
        statuses |= {401, 429}
        statuses |= {403}
    if version == "v2":
        statuses |= {403}
    if endpoint.body:
        statuses |= {400, 408, 413, 415}
    if "{" in path or endpoint.query:
        statuses |= {400}
    if endpoint.idempotent:
        statuses |= {400, 409, 422}
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorEnvelope, "description": MEANINGS[status]}
        for status in sorted(statuses)
    }
    if endpoint.later:
        responses[202] = {
            "model": Envelope[endpoint.reply],  # type: ignore[name-defined]
            "description": "Accepted and under way; `Location` says where to look.",
        }
    response_class: type[Response] = JSONResponse
    if endpoint.media_type != "application/json":
        response_class = type("File", (Response,), {"media_type": endpoint.media_type})
        schema = {"type": "string", "format": "binary"}
        responses[200] = {
            "description": "The file.",
            "content": {endpoint.media_type: {"schema": schema}},
        }
        responses[304] = {"description": MEANINGS[304]}
    parameters = [
        *_query(endpoint.query),
        *endpoint.parameters,
        *([IDEMPOTENCY_KEY] if endpoint.idempotent else []),
        *([IF_NONE_MATCH] if 304 in responses else []),
        *([BETA] if version == "v2" else []),
    ]
    extra = {"parameters": parameters} if parameters else {}
    security = SECURITY.get(endpoint.allows or "", [{"key": []}])
    return APIRoute(
        path,
        _described(endpoint, path),
        methods=[endpoint.method],
        response_model=Envelope[endpoint.reply] if endpoint.reply else None,  # type: ignore[name-defined]
        response_class=response_class,
        status_code=endpoint.status,
        summary=endpoint.summary,
        tags=[endpoint.tag],
        responses=responses,
        operation_id=endpoint.handler.__name__ + ("" if version == "v1" else f"_{version}"),
        include_in_schema=path.startswith(f"/{version}/"),  # the alias is described in words
        openapi_extra={"security": security, **extra},
    )


def _query(model: type[Message] | None) -> list[dict[str, Any]]:
    """The fields of a message as parameters of a query; null cannot be written there."""
    if model is None:
        return []
    parameters = []
    for name, field in model.model_json_schema()["properties"].items():
        schema = {key: value for key, value in field.items() if key not in {"title", "description"}}
        kinds = [kind for kind in schema.pop("anyOf", []) if kind != {"type": "null"}]
        if kinds:
            del schema["default"]
        parameter = {
            "name": name,
            "in": "query",
            "required": False,
            "schema": schema | dict(*kinds),
        }
        if "description" in field:
            parameter["description"] = field["description"]
        parameters.append(parameter)
    return parameters


def _described(endpoint: Endpoint, path: str) -> Any:
    """A function with the signature that FastAPI reads; the door answers in its place."""

    async def described(**_: Any) -> None: ...

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[str, Path()])
        for name in re.findall(r"{(\w+)}", path)
    ]
    if endpoint.body:
        parameters.append(
            inspect.Parameter("body", inspect.Parameter.KEYWORD_ONLY, annotation=endpoint.body)
        )
    described.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    described.__doc__ = endpoint.handler.__doc__
    return described


def complete(app: FastAPI, public_url: str) -> None:
    """Add what FastAPI cannot know: how to authenticate, and what every answer carries."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        schema = make()
        schema["info"]["description"] = DESCRIPTION
        schema["servers"] = [{"url": public_url}]
        schema.setdefault("components", {})["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer", "bearerFormat": "lmg_live_..."},
            "password": {"type": "http", "scheme": "basic"},
            "session": {"type": "apiKey", "in": "cookie", "name": sessions.COOKIE},
        }
        request_id = {
            "description": "The number of the request; send your own to find it again.",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{8,64}$"},
        }
        retry_after = {"description": "Seconds.", "schema": {"type": "integer"}}
        for operations in schema["paths"].values():
            for operation in operations.values():
                if _is_fastapis_own(operation):
                    del operation["responses"]["422"]
                for status, response in operation["responses"].items():
                    if int(status) >= 400:  # FastAPI takes the type of a file for its errors' too
                        [content] = response["content"].values()
                        response["content"] = {"application/json": content}
                    response["headers"] = {"X-Request-Id": request_id}
                    if status in {"429", "503"}:
                        response["headers"]["Retry-After"] = retry_after
        for unused in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(unused, None)
        app.openapi_schema = schema
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _is_fastapis_own(operation: dict[str, Any]) -> bool:
    """FastAPI documents a 422 of its own; ours are 400 with code 1003."""
    return "HTTPValidationError" in str(operation["responses"].get("422"))
