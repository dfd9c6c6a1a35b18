"""Samples of an operation for OpenAPI: its body, its answers, and its own refusals."""

import re
from collections.abc import Callable
from typing import Any, Protocol

import orjson

from common.errors import INTERNAL, InvalidRequest
from gateway import bodies, samples
from gateway.endpoint import Endpoint, Version
from gateway.limits import OverLimit
from gateway.settings import GatewaySettings
from gateway.windows import Policy

Error = tuple[int, str, dict[str, Any]]

WAIT_S = 12
MODEL_MISSING = "no such model on the Hub, or it is private; did you mean `openai-community/gpt2`?"
MODEL_REFUSED = (
    "the model has pickled weights only, and a file does more than hold tensors (it has more than"
    " tensors), which could be anyone's code and is never run; what would help: a copy saved with"
    " save_pretrained() of today, which writes safetensors"
)
ANOTHER_SITE = "the request comes from another site; send it from this one, or use an API key"
NOT_OPTED_IN = (
    "v2 is a beta: opt in by sending the header X-Lilypad-Beta: v2 with each request, or switch it"
    " on for the account in the dashboard"
)
REFUSED_BY_HUB = (
    "the Hub does not accept your Hub token any more; store another with PUT"
    " /v1/api/account/hub-token"
)
CONFLICTS = {
    "/account/totp": "the second factor is on; end it first with DELETE /v1/api/account/totp",
    "/account/totp/confirm": (
        "no second factor is being set up; start with POST /v1/api/account/totp"
    ),
}
# By the path's last parameter, or by the path.
MISSING = {
    "/benchmark/{id}": "no such benchmark run; GET /v1/api/benchmark lists the runs",
    "/benchmark/{id}/plot": "no such benchmark run; GET /v1/api/benchmark lists the runs",
    "/generate/{id}": "no such verification; GET /v1/api/generations lists verified modules",
    "/account/hub-token": "no Hub token is stored; PUT /v1/api/account/hub-token stores one",
    "/account/hub-token/test": "no Hub token is stored; PUT /v1/api/account/hub-token stores one",
    "key_id": "no such API key; GET /v1/api/keys lists them",
    "rule_id": "no such rule; GET /v1/api/alerts/rules lists the rules",
    "session_id": "no such session; GET /v1/api/sessions lists them",
    "webhook_id": "no such webhook; GET /v1/api/webhooks lists them",
    "delivery_id": "no such delivery; GET /v1/api/webhooks/<id>/deliveries lists them",
}
REFUSED: dict[str, Error] = {
    "/benchmark": (
        1004,
        "`inputTokens`: the model reads at most 512 tokens, new ones included; got 4096 + 0",
        {"reason": "tokens", "limit": 512},
    ),
    "/benchmark/{id}/plot": (
        1004,
        "the run is queued and has no results to plot",
        {"reason": "queued"},
    ),
    "/account/hub-token/test": (1002, REFUSED_BY_HUB, {"reason": "hub-token"}),
}
ANYWHERE: dict[int, Error] = {
    401: (2001, "no API key; send Authorization: Bearer lmg_live_...", {}),
    409: (3002, "the first request with this Idempotency-Key is still under way; try again", {}),
    408: (1003, "the request took longer than 30 seconds to arrive; send it again", {}),
    415: (1003, "send JSON, with Content-Type: application/json", {}),
    500: (5001, INTERNAL, {}),
    502: (1002, "the Hub's answer is malformed", {}),
    503: (5003, "the server has too many requests under way; try again", {}),
    504: (5003, "the answer took too long; try again", {}),
}


class Described(Protocol):
    """A route that describes an endpoint under one version."""

    described: Endpoint
    version: Version


def show(operation: dict[str, Any], route: Described) -> None:
    """Add a sample to an operation's body and to each of its JSON answers.

    FastAPI would leave out their null values.
    """
    endpoint, version = route.described, route.version
    if endpoint.body:
        content = operation["requestBody"]["content"]["application/json"]
        content["example"] = samples.REQUESTS[endpoint.body.__name__]
    for media_type, sample in samples.FILES.items():
        if media_type in (file := operation["responses"].get("200", {}).get("content", {})):
            file[media_type].update(sample)
    for status, response in operation["responses"].items():
        content = response.get("content", {}).get("application/json")
        if content is None:
            continue
        if int(status) >= 400:
            code, message, details = error_of(endpoint, version, int(status))
            error = {"code": code, "message": message, "details": details}
            content["example"] = envelope(version, error=error)
        else:
            data = samples.answers()[endpoint.reply.__name__] if endpoint.reply else None
            content["example"] = envelope(version, data)


def envelope(version: str, data: Any = None, error: Any = None) -> dict[str, Any]:
    """Wrap an answer's sample in the envelope."""
    meta = {
        "version": version,
        "timestamp": "2026-01-31T12:00:00.000Z",
        "requestId": samples.REQUEST_ID,
    }
    return {"data": data, "error": error, "meta": meta}


def error_of(endpoint: Endpoint, version: str, status: int) -> Error:
    """Return the sample error (code, message, details) of an operation with this status."""
    own: dict[int, Callable[[], Error]] = {
        400: lambda: _invalid(endpoint),
        403: lambda: _forbidden(endpoint, version),
        404: lambda: _missing(endpoint),
        413: lambda: _too_large(endpoint.max_body_bytes),
        422: lambda: _refused(endpoint),
        429: lambda: _over_limit(endpoint),
    }
    if status in own:
        return own[status]()
    if status == 401 and endpoint.allows == "account":
        return 2001, "the e-mail address or the password is wrong", {}
    if status == 409 and not endpoint.idempotent:
        return 3002, CONFLICTS[endpoint.path], {}
    return ANYWHERE[status]


def _invalid(endpoint: Endpoint) -> Error:
    """Return the error for a body whose first field has a wrong type, or for an invalid query."""
    try:
        if endpoint.body:
            sample = samples.REQUESTS[endpoint.body.__name__]
            first = next(iter(sample))
            wrong = "x" if isinstance(sample[first], list | bool) else []
            bodies.parse(orjson.dumps({**sample, first: wrong}), endpoint.body)
        elif endpoint.query and "limit" in endpoint.query.model_fields:
            required = samples.QUERIES.get(endpoint.query.__name__, {})
            query = "&".join(f"{name}={value}" for name, value in required.items())
            bodies.parse_query(f"{query}&limit=0".encode(), endpoint.query)
        elif endpoint.query:
            bodies.parse_query(b"modelid=m", endpoint.query)
    except InvalidRequest as error:
        return error.code, error.message, error.details
    return 1003, "X-Request-Id: sent twice; send it once", {}


def _forbidden(endpoint: Endpoint, version: str) -> Error:
    if endpoint.allows == "account":
        return 2003, ANOTHER_SITE, {}
    if endpoint.allows is None:
        assert version == "v2"
        return 2003, NOT_OPTED_IN, {}
    scope = endpoint.allows
    message = f"API key lacks the scope `{scope}`; create one that has it, or add the scope"
    return 2003, message, {"scope": scope}


def _missing(endpoint: Endpoint) -> Error:
    parameters = re.findall(r"{(\w+)}", endpoint.path)
    known = MISSING.get(endpoint.path) or MISSING.get(parameters[-1] if parameters else "")
    if known:
        return 3001, known, {}
    if endpoint.allows in {"generate", "benchmark"}:
        return 1001, MODEL_MISSING, {"suggestion": "openai-community/gpt2"}
    return 3001, "no metrics have been recorded for this model; check `modelId`", {}


def _too_large(max_bytes: int) -> Error:
    message = f"the body is larger than {max_bytes:,} bytes; send less"
    # The edge refuses requests that the gateway would accept.
    if max_bytes == bodies.LARGE_BODY_BYTES:
        message = "the body is larger than 100,000 bytes; send less"
    elif max_bytes > bodies.LARGE_BODY_BYTES:
        message = f"the batch is larger than {max_bytes:,} bytes; send it in parts"
    return 1003, message, {"limit": max_bytes}


def _refused(endpoint: Endpoint) -> Error:
    if endpoint.path in REFUSED:
        return REFUSED[endpoint.path]
    if endpoint.allows == "generate":
        return 1002, MODEL_REFUSED, {"reason": "pickle-only"}
    return 3002, "this Idempotency-Key was used with another request; send a new key", {}


def _over_limit(endpoint: Endpoint) -> Error:
    """Return the error for exceeding the operation's own policy at its default limit."""
    defaults = {
        name.removeprefix("rate_"): field.default
        for name, field in GatewaySettings.model_fields.items()
    }
    own = [Policy(name, defaults[name]) for name in endpoint.limits if name in defaults]
    over = OverLimit(own[-1], WAIT_S)
    return over.code, over.message, over.details
