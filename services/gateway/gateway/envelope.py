"""The envelope of every JSON answer: `{"data", "error", "meta"}`."""

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

import orjson
from pydantic import Field
from pydantic_core import to_json

from common.contracts import Message
from common.errors import ServiceError

Data = TypeVar("Data")


class ErrorBody(Message):
    code: int = Field(description="One of the [codes](/docs/reference/errors).")
    message: str = Field(description="Description of the error, and what to do.")
    details: dict[str, Any] = Field(
        description="Details for programs; their content depends on the code."
    )


class Meta(Message):
    version: Literal["v1", "v2"] = Field(description="Version of the API that answered.")
    timestamp: datetime = Field(description="Time of the answer, in UTC.")
    request_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")] = Field(
        description="Number of the request, also in `X-Request-Id`."
    )


class Envelope(Message, Generic[Data]):
    data: Data = Field(description="The answer.")
    error: None = Field(description="Null: the request succeeded.")
    meta: Meta = Field(description="Facts about the answer itself.")


class ErrorEnvelope(Message):
    data: None = Field(description="Null: there is no answer.")
    error: ErrorBody = Field(description="The error.")
    meta: Meta = Field(description="Facts about the answer itself.")


def success(data: Message | bytes, version: str, request_id: str) -> bytes:
    """Wrap a message, or a message's JSON, in the envelope."""
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
