"""OpenAPI, generated from the endpoints that are served."""

import asyncio
import inspect
import re
import threading
from typing import Annotated, Any

from fastapi import FastAPI, Path, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute

from common.contracts import Message
from gateway import envelope, operation_samples, samples, sessions
from gateway.endpoint import Endpoint, Version
from gateway.envelope import Envelope, ErrorEnvelope
from gateway.second_factor import HEADER

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
| 2001 | missing, unknown, expired or revoked credentials |
| 2002 | rate limit exceeded |
| 2003 | permission denied |
| 3001 | not found |
| 3002 | conflict |
| 5001 | internal error |
| 5003 | overloaded, or a dependency is unavailable |

Remedies for each: [errors](/docs/reference/errors). Permitted request rates:
[limits](/docs/reference/limits). Guides to everything else: [documentation](/docs).
"""

# The guide to each tag's operations.
GUIDES = {
    "Model generation": "modules",
    "Benchmarking": "benchmark",
    "Monitoring": "monitor",
    "Webhooks": "webhooks",
    "Accounts and keys": "keys",
}

MEANINGS = {
    304: "Not modified: the `ETag` that was sent is still current.",
    400: "The request is not valid.",
    401: "Missing, unknown, expired or revoked credentials.",
    403: "The key lacks the scope, v2 is not enabled, or the request comes from another site.",
    404: "Not found.",
    408: "The request took longer than 30 seconds to arrive.",
    409: "Conflict, or the first request with this Idempotency-Key is still under way.",
    413: "The body is too large.",
    415: "The media type is not JSON, or the body is compressed.",
    422: "The request is valid but was refused; the message says why.",
    429: "A rate limit is exceeded; `Retry-After` says for how long.",
    500: "Internal error.",
    502: "The Hub's answer is invalid.",
    503: "Overloaded, or a dependency is unavailable; `Retry-After` says when to retry.",
    504: "The answer timed out.",
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
    "description": "Within 24 hours, a request with the same key and body is carried out"
    " once, and gets the first answer again. Use a UUID.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}
    | {"examples": ["6f1c0f3e-4f55-4f0e-9d3b-1f6a2f3c8f10"]},
}
IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` of your copy: if it is still current, the answer is 304.",
    "schema": {"type": "string", "examples": [f'"{"0123456789abcdef" * 4}"']},
}
RATE_HEADERS = (
    "RateLimit",
    "RateLimit-Policy",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
)
HEADERS: dict[str, dict[str, Any]] = {
    name: {"description": description, "schema": {"type": kind}, "example": example}
    for name, kind, description, example in (
        (
            *("X-Request-Id", "string"),
            "Id of the request; send your own to find it in logs.",
            samples.REQUEST_ID,
        ),
        (
            *("RateLimit", "string"),
            "By policy: remaining requests, and seconds until more are admitted.",
            '"api";r=97;t=41, "generate";r=9;t=41',
        ),
        (
            *("RateLimit-Policy", "string"),
            "By policy: admitted requests, and the window in seconds.",
            '"api";q=100;w=60, "generate";q=10;w=60',
        ),
        (
            *("X-RateLimit-Limit", "integer"),
            "Limit of the policy with the fewest requests left.",
            10,
        ),
        (*("X-RateLimit-Remaining", "integer"), "Remaining requests of that policy.", 9),
        (*("X-RateLimit-Reset", "integer"), "Seconds until more requests are admitted.", 41),
        (*("Retry-After", "integer"), "Seconds to wait before a retry.", 12),
        (
            *("Location", "string"),
            "Address of the result.",
            "/v1/api/benchmark/bench_0123456789abcdef",
        ),
        (
            *("Link", "string"),
            "Address of the next page of a CSV; absent on the last.",
            '</v1/api/monitor/samples?modelId=openai%2Fgpt2&metric=latency&cursor=8>; rel="next"',
        ),
        (
            *("ETag", "string"),
            "SHA-256 of the archive; send it back as `If-None-Match`.",
            f'"{"0123456789abcdef" * 4}"',
        ),
        (
            *("Content-Disposition", "string"),
            "The archive's file name.",
            'attachment; filename="module.zip"',
        ),
        (
            *("Idempotent-Replayed", "boolean"),
            "`true` on the stored answer to an earlier request with the same key.",
            True,
        ),
    )
}
# By name: the file's kind, and its first characters.
PATH_PARAMETERS = {
    "id": ("Id of the run, or of the verification.", "bench"),
    "key_id": ("Id of the key.", "key"),
    "rule_id": ("Id of the rule.", "rule"),
    "session_id": ("Id of the session.", "session"),
    "webhook_id": ("Id of the webhook.", "hook"),
    "delivery_id": ("Id of the delivery.", "msg_alert"),
}
SECURITY: dict[str, list[dict[str, list[str]]]] = {
    "": [],
    "account": [{"password": []}, {"session": []}],
}


class Status(Message):
    status: str

    def to_envelope(self, request_id: str) -> bytes:
        return envelope.success(self, "v1", request_id)


class EndpointRoute(APIRoute):
    """A FastAPI route that describes an endpoint."""

    described: Endpoint
    version: Version


def route(endpoint: Endpoint, path: str, version: Version) -> EndpointRoute:
    """Build the route that describes an endpoint to FastAPI; its door serves it."""
    statuses = {400, 500, 503, 504, *endpoint.errors}
    if endpoint.allows:
        statuses |= {401, 429}
        statuses |= {403}
    if version == "v2":
        statuses |= {403}
    if endpoint.body:
        statuses |= {408, 413, 415}
    if endpoint.idempotent:
        statuses |= {409, 422}
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
    if endpoint.csv:
        responses[200] = {"content": {"text/csv": {"schema": {"type": "string"}}}}
    responses.setdefault(endpoint.status, {})
    for status, response in responses.items():
        response["headers"] = _headers(endpoint, int(status))
    parameters = [
        *_query(endpoint.query),
        *endpoint.parameters,
        *([IDEMPOTENCY_KEY] if endpoint.idempotent else []),
        *([IF_NONE_MATCH] if 304 in responses else []),
        *([BETA] if version == "v2" else []),
    ]
    extra = {"parameters": parameters} if parameters else {}
    security = SECURITY.get(endpoint.allows or "", [{"key": []}])
    described = EndpointRoute(
        path,
        _described(endpoint, path),
        methods=[endpoint.method],
        response_model=Envelope[endpoint.reply] if endpoint.reply else None,  # type: ignore[name-defined]
        response_class=response_class,
        status_code=endpoint.status,
        summary=endpoint.summary,
        tags=[endpoint.tag if version == "v1" else f"{endpoint.tag} (v2, beta)"],
        responses=responses,
        operation_id=endpoint.handler.__name__ + ("" if version == "v1" else f"_{version}"),
        include_in_schema=path.startswith(f"/{version}/"),  # the alias is described in words
        openapi_extra={"security": security, **extra},
    )
    described.described, described.version = endpoint, version
    return described


def _query(model: type[Message] | None) -> list[dict[str, Any]]:
    """Describe a message's fields as query parameters, which cannot be null."""
    if model is None:
        return []
    parameters = []
    described = model.model_json_schema()
    for name, field in described["properties"].items():
        schema = {key: value for key, value in field.items() if key not in {"title", "description"}}
        kinds = [kind for kind in schema.pop("anyOf", []) if kind != {"type": "null"}]
        if kinds:
            del schema["default"]
        parameter = {
            "name": name,
            "in": "query",
            "required": name in described.get("required", ()),
            "schema": schema | dict(*kinds),
        }
        if "description" in field:
            parameter["description"] = field["description"]
        if name in (known := samples.QUERIES.get(model.__name__, {})):
            parameter["example"] = known[name]
        parameters.append(parameter)
    return parameters


def _described(endpoint: Endpoint, path: str) -> Any:
    """Build a function with the signature that FastAPI reads; it is never called."""

    async def described(**_: Any) -> None: ...

    parameters = []
    for name in re.findall(r"{(\w+)}", path):
        description, kind = PATH_PARAMETERS[name]
        if name == "id" and "/generate/" in path:
            kind = "verify"
        parameter = Path(description=description, examples=[f"{kind}_4f1d0c2a9b8e7d6c5b4a3928"])
        annotation = Annotated[str, parameter]
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
        )
    if endpoint.body:
        parameters.append(
            inspect.Parameter("body", inspect.Parameter.KEYWORD_ONLY, annotation=endpoint.body)
        )
    described.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    described.__doc__ = endpoint.handler.__doc__
    return described


def complete(app: FastAPI, public_url: str) -> None:
    """Add facts that FastAPI cannot know: authentication, and the headers of every answer."""
    make, making = app.openapi, threading.Lock()

    def openapi() -> dict[str, Any]:
        with making:
            return app.openapi_schema or cached()

    async def serve(_: Request) -> Response:
        # Made on first use, which takes seconds that other requests must not wait for.
        return JSONResponse(await asyncio.to_thread(app.openapi))

    def cached() -> dict[str, Any]:
        schema = make()
        schema["info"]["description"] = DESCRIPTION
        schema["servers"] = [{"url": public_url}]
        schema["tags"] = [
            {
                "name": tag + beta,
                "externalDocs": {"url": f"{public_url.rstrip('/')}/docs/how-to/{guide}"},
            }
            for beta in ("", " (v2, beta)")
            for tag, guide in GUIDES.items()
        ]
        schema.setdefault("components", {})["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer", "bearerFormat": "lmg_live_..."},
            "password": {
                "type": "http",
                "scheme": "basic",
                "description": "E-mail address and password; where the account has a second"
                f" factor, its code goes into the header `{HEADER}`.",
            },
            "session": {"type": "apiKey", "in": "cookie", "name": sessions.COOKIE},
        }
        schema["components"]["headers"] = HEADERS
        routes = {r.operation_id: r for r in app.routes if isinstance(r, EndpointRoute)}
        for operations in schema["paths"].values():
            for operation in operations.values():
                if _is_fastapis_own(operation):
                    del operation["responses"]["422"]
                for status, response in operation["responses"].items():
                    if int(status) >= 400:  # FastAPI uses a file's type for its errors, too
                        [content] = response["content"].values()
                        response["content"] = {"application/json": content}
                operation_samples.show(operation, routes[operation["operationId"]])
        for unused in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(unused, None)
        app.openapi_schema = schema
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
    app.add_route("/openapi.json", serve, include_in_schema=False)


def _headers(endpoint: Endpoint, status: int) -> dict[str, Any]:
    """Return the headers of an answer, as references to the document's components."""
    names = ["X-Request-Id"]
    if endpoint.allows and status != 401:
        names += RATE_HEADERS
    if status in {429, 503}:
        names.append("Retry-After")
    if status == 202 and endpoint.later:
        names.append("Location")
    if status == 200 and endpoint.csv:
        names.append("Link")
    if status in {200, 304} and endpoint.media_type != "application/json":
        names += ["ETag", "Content-Disposition"]
    if endpoint.idempotent and status < 300:
        names.append("Idempotent-Replayed")
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _is_fastapis_own(operation: dict[str, Any]) -> bool:
    """Whether the 422 is FastAPI's own; ours are 400 with code 1003."""
    return "HTTPValidationError" in str(operation["responses"].get("422"))
