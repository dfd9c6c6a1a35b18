"""`{"data", "error", "meta"}`: what stands around every JSON answer."""

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

import orjson
from pydantic import Field
from pydantic_core import to_json

from common.contracts import Message
from common.errors import ServiceError

Data = TypeVar("Data")


class ErrorBody(Message):
    code: int = Field(description="The table of codes is in the reference.")
    message: str = Field(description="What happened, and what to do.")
    details: dict[str, Any]


class Meta(Message):
    version: Literal["v1", "v2"]
    timestamp: datetime
    request_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")]


class Envelope(Message, Generic[Data]):
    data: Data
    error: None
    meta: Meta


class ErrorEnvelope(Message):
    data: None
    error: ErrorBody
    meta: Meta


def success(data: Message | bytes, version: str, request_id: str) -> bytes:
    """Around a message, or around the JSON of one."""
    body = data if isinstance(data, bytes) else to_json(data, by_alias=True)
    return b'{"data":%b,"error":null,"meta":%b}' % (body, _meta(version, request_id))


def failure(error: ServiceError, version: str, request_id: str) -> bytes:
    body = {"code": error.code, "message": error.message, "details": error.details}
    return b'{"data":null,"error":%b,"meta":%b}' % (
        orjson.dumps(body),
        _meta(version, request_id),
    )


def _meta(version: str, request_id: str) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")[:-6]
    # Both are plain ASCII by construction: nothing to escape.
    return f'{{"version":"{version}","timestamp":"{now}Z","requestId":"{request_id}"}}'.encode()
