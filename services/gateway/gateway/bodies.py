"""Reading what a caller sends, as if it were meant to harm.

JSON is read twice: here for its form, where a lenient parser would let two
readers see two things (a repeated key, NaN, half a character), and then by
pydantic for its content.
"""

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NoReturn
from urllib.parse import parse_qs

import orjson
from pydantic import ValidationError

from common.contracts import Message
from common.errors import InvalidRequest
from common.service import invalid

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

# What is larger is read beside the event loop, see `endpoint`.
LARGE = 100_000
# No object that is asked for has half as many keys. A batch of 50,000 values has 80,000 commas;
# who has twice as many in texts sends smaller batches. Reading 200,000 values takes 0.1 s.
MOST_KEYS = 256
MOST_COMMAS = 200_000
# What stands in a path or a query is an id, or shorter.
LONGEST_PARAMETER = 512

# U+0000 as JSON writes it: an odd number of backslashes before u0000.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


async def read(receive: Receive, headers: dict[bytes, bytes], most: int) -> bytes:
    """The whole body, at most `most` bytes, counted as it arrives.

    Raises:
        InvalidRequest: 413, or 400 when the caller went away in the middle.
    """
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and (len(announced) > 12 or int(announced) > most):
        raise _too_large(most)
    message = await receive()
    if not message.get("more_body") and message["type"] == "http.request":
        body: bytes = message.get("body", b"")
        if len(body) > most:
            raise _too_large(most)
        return body
    chunks, size = [], 0
    while True:
        if message["type"] != "http.request":
            raise InvalidRequest("the body ended before it was whole")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > most:
            raise _too_large(most)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()


def is_small(headers: dict[bytes, bytes]) -> bool:
    """Whether it is said to be, which the server sees to."""
    announced = headers.get(b"content-length", b"")
    return announced.isdigit() and len(announced) <= 12 and int(announced) <= LARGE


def require_json(headers: dict[bytes, bytes]) -> None:
    """Raises InvalidRequest (415) for any other media type."""
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise InvalidRequest("send Content-Type: application/json", status=415)


def parse_query(query: bytes, model: type[Message]) -> Message:
    """What stands behind the question mark; of what stands there twice, the last, and all known.

    Raises:
        InvalidRequest: as `parse`.
    """
    try:
        values = parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=MOST_KEYS)
    except ValueError:
        raise InvalidRequest(f"the query has more than {MOST_KEYS} parameters") from None
    last = {name: given[-1] for name, given in values.items()}
    for name, value in last.items():
        check_parameter(name[:64], value)
    try:
        return model.model_validate(last, extra="forbid")
    except ValidationError as error:
        raise invalid(error) from None


def check_parameter(name: str, value: str) -> None:
    """Raises InvalidRequest for what nothing in a path or a query can look like."""
    if "\0" in value or len(value) > LONGEST_PARAMETER:
        fault = f"no NUL, and at most {LONGEST_PARAMETER} characters"
        raise InvalidRequest(f"{name}: {fault}", fields=[{"path": name, "message": fault}])


def parse(body: bytes, model: type[Message]) -> Message:
    """The body as what the endpoint expects.

    Raises:
        InvalidRequest: with `details.fields`; never with what was submitted.
    """
    check_form(body)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from None


def check_form(body: bytes) -> None:
    """Raises InvalidRequest unless every reader of the JSON would see the same."""
    if body.count(b",") > MOST_COMMAS:
        raise InvalidRequest(f"the body has more than {MOST_COMMAS} values; send smaller ones")
    try:
        value = json.loads(body, object_pairs_hook=_once, parse_constant=_no_constant)
    except InvalidRequest:
        raise
    except RecursionError:
        raise InvalidRequest("the JSON is nested too deeply") from None
    except ValueError:
        raise InvalidRequest("the body is not JSON") from None
    if b"\\u" not in body:
        return  # neither can be written without an escape
    try:
        again = orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError:
        raise InvalidRequest("a string holds half a character, or a number is too large") from None
    if _NUL.search(again):
        raise InvalidRequest("a string holds the character U+0000")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MOST_KEYS:
        raise InvalidRequest(f"an object has more than {MOST_KEYS} keys")
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise InvalidRequest("a key stands twice in the same object")
    return mapping


def _no_constant(_: str) -> NoReturn:
    raise InvalidRequest("NaN and Infinity are not JSON numbers")


def _too_large(most: int) -> InvalidRequest:
    return InvalidRequest(f"the body is larger than {most} bytes", status=413, limit=most)
