"""Parsing of request bodies and queries, all treated as hostile.

JSON is parsed twice: here for its syntax, which lenient parsers read in
different ways (a duplicate key, NaN, an unpaired surrogate), and then by
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
from common.faults import invalid

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

# Larger bodies are parsed off the event loop, see `door`.
LARGE_BODY_BYTES = 100_000
# No public object has half as many keys. A batch of 50,000 values has 80,000 commas; a caller
# with twice as many inside strings sends smaller batches. Reading 200,000 values takes 0.1 s.
MAX_OBJECT_KEYS = 256
MAX_COMMAS = 200_000
# Path and query parameters are ids, or shorter.
MAX_PARAMETER_CHARACTERS = 512

# U+0000 as JSON writes it: an odd number of backslashes before u0000.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


# Headers that may be sent only once: given two values, two readers could pick different ones.
SINGLE_HEADERS = frozenset(
    (
        b"authorization",
        b"content-type",
        b"content-length",
        b"idempotency-key",
        b"host",
        b"origin",
        b"prefer",
        b"sec-fetch-site",
        b"traceparent",
        b"x-lilypad-beta",
        b"x-lilypad-code",
        b"x-request-id",
    )
)
# Headers that the edge joins with a comma when sent twice; no valid value contains one.
JOINED_HEADERS = frozenset((b"authorization", b"content-type", b"host", b"origin", b"x-request-id"))
# Names the header that came twice where the edge replaced it.
REPEATED = b"x-lilypad-repeated"
# Parts of misspellings of this header, and of no other header. If one were ignored, a request meant
# to be carried out once could be carried out twice.
IDEMPOTENCY_KEY = b"idempotency-key"
PARTS = (b"dempo", b"idemp", b"potenc", b"potent")
# The parser's messages, and ours. Its other messages name the expected syntax.
DUPLICATE = "duplicate key in a JSON object; send each key once"
CONSTANT = "NaN and Infinity are not JSON numbers; leave the value out"
# Outside strings, which come first.
_TOKEN = re.compile(r'("(?:[^"\\]|\\.)*")|[{}\[\]:,]', re.DOTALL)
_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|(NaN|-?Infinity)', re.DOTALL)
JSON_FAULTS = {
    CONSTANT: CONSTANT,
    DUPLICATE: DUPLICATE,
    "Extra data": "nothing may follow the first JSON value",
    "Unexpected UTF-8 BOM (decode using utf-8-sig)": "leave out the byte-order mark",
    "Expecting value": "expecting a value: a string in double quotes, a number, an object, a list,"
    " true, false or null",
    "Expecting ',' delimiter": "expecting a comma or a closing bracket",
    "Expecting ':' delimiter": "expecting a colon",
    "Expecting property name enclosed in double quotes": "expecting a key in double quotes; JSON"
    " has no comments",
    "Unterminated string starting at": "the string that begins here has no closing quote",
    "Invalid control character at": "write line breaks and other control characters in a string as"
    " escapes, such as \\n",
    "Invalid \\escape": "write a backslash in a string as two",
    "Invalid \\uXXXX escape": "four hexadecimal digits must follow \\u",
}


def refuse_repeated(headers: list[tuple[bytes, bytes]]) -> None:
    """Raise InvalidRequest for a misspelt Idempotency-Key header or a repeated single-value one."""
    seen: dict[bytes, bytes] = {}
    for name, value in headers:
        if b"p" in name and name != IDEMPOTENCY_KEY and any(map(name.__contains__, PARTS)):
            title = name[:64].decode("latin-1").title()
            raise InvalidRequest(f"{title}: unknown header; did you mean `Idempotency-Key`?")
        if name == REPEATED:
            raise InvalidRequest(f"{value.decode('latin-1')}: sent twice; send it once")
        if name not in SINGLE_HEADERS:
            continue
        if name in JOINED_HEADERS and b"," in value:
            raise InvalidRequest(f"{name.decode().title()}: sent twice; send it once")
        if seen.setdefault(name, value.strip()) != value.strip():
            title = name.decode().title()
            raise InvalidRequest(f"{title}: sent twice with different values; send it once")


async def read(receive: Receive, headers: dict[bytes, bytes], max_bytes: int) -> bytes:
    """Read the body, at most `max_bytes` bytes, counted as it arrives.

    Raises:
        InvalidRequest: 413, or 400 when the caller disconnects before the end.
    """
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and (len(announced) > 12 or int(announced) > max_bytes):
        raise _too_large(max_bytes)
    message = await receive()
    if not message.get("more_body") and message["type"] == "http.request":
        body: bytes = message.get("body", b"")
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        return body
    chunks, size = [], 0
    while True:
        if message["type"] != "http.request":
            raise InvalidRequest("the body is incomplete: the connection ended; send it again")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()


def is_small(headers: dict[bytes, bytes]) -> bool:
    """Whether the announced length, which the server enforces, is small."""
    announced = headers.get(b"content-length", b"")
    return announced.isdigit() and len(announced) <= 12 and int(announced) <= LARGE_BODY_BYTES


def require_json(headers: dict[bytes, bytes]) -> None:
    """Raise InvalidRequest (415) unless the headers announce uncompressed JSON."""
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type != b"application/json":
        nothing = not media_type and headers.get(b"content-length", b"0") == b"0"
        empty = "the body is empty; " if nothing and b"transfer-encoding" not in headers else ""
        raise InvalidRequest(f"{empty}send JSON, with Content-Type: application/json", status=415)
    if headers.get(b"content-encoding", b"").strip().lower() not in (b"", b"identity"):
        raise InvalidRequest("send the body uncompressed, without Content-Encoding", status=415)


def parse_query(query: bytes, model: type[Message]) -> Message:
    """Read the query string as a message.

    Raises:
        InvalidRequest: as `parse`.
    """
    try:
        values = parse_qs(
            query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_OBJECT_KEYS
        )
    except ValueError:
        raise InvalidRequest(
            f"the query has more than {MAX_OBJECT_KEYS} parameters; send fewer"
        ) from None
    once = {name: sent[0] for name, sent in values.items()}
    for name, sent in values.items():
        check_parameter(name[:64], sent[0])
        if any(value != sent[0] for value in sent):
            fault = "given twice with different values; give it once"
            path = name[:64]
            raise InvalidRequest(f"{path}: {fault}", fields=[{"path": path, "message": fault}])
    try:
        return model.model_validate(once, extra="forbid")
    except ValidationError as error:
        raise invalid(error, model) from None


def refuse_query(query: bytes, body: type[Message] | None) -> None:
    """Raise InvalidRequest for a query string, which the endpoint would ignore."""
    if not query:
        return
    name = next(iter(parse_qs(query.decode("latin-1")[:MAX_PARAMETER_CHARACTERS])), "")[:64]
    fault = "the endpoint takes no query parameters; " + (
        "send it as a field of the JSON body" if body else "leave it out"
    )
    where = f"{name}: " if name else ""
    raise InvalidRequest(f"{where}{fault}", fields=[{"path": name, "message": fault}])


def check_parameter(name: str, value: str) -> None:
    """Raise InvalidRequest for a value that no path or query parameter can have."""
    if "\0" in value or len(value) > MAX_PARAMETER_CHARACTERS:
        fault = f"must have no NUL and at most {MAX_PARAMETER_CHARACTERS} characters"
        raise InvalidRequest(f"{name}: {fault}", fields=[{"path": name, "message": fault}])


def parse(body: bytes, model: type[Message]) -> Message:
    """Read the body as a message.

    Raises:
        InvalidRequest: with `details.fields`; never with the submitted values.
    """
    check_form(body)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error, model) from None


def check_form(body: bytes) -> None:
    """Raise InvalidRequest unless all JSON parsers would read the body alike."""
    if body.count(b",") > MAX_COMMAS:
        raise InvalidRequest(f"the body has more than {MAX_COMMAS} values; send fewer")
    value = _load(body)
    if b"\\u" not in body:
        return  # neither can be written without an escape
    try:
        encoded = orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError:
        raise InvalidRequest(
            "the body has half a surrogate pair in a string, or an integer of more than 64 bits;"
            " send whole characters, and larger numbers as strings"
        ) from None
    if _NUL.search(encoded):
        raise InvalidRequest("a string holds the character U+0000; leave it out")


def _load(body: bytes) -> Any:
    if not body.strip():
        raise InvalidRequest('the body is empty; send a JSON object, such as {"name": "value"}')
    try:
        text = body.decode()
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except InvalidRequest:
        raise
    except _DuplicateKey:
        raise _not_json(text, json.JSONDecodeError(DUPLICATE, text, _second(text))) from None
    except RecursionError:
        raise InvalidRequest("the JSON is nested too deeply; /docs shows what to send") from None
    except UnicodeDecodeError:
        raise InvalidRequest("the body is not UTF-8; send JSON in UTF-8") from None
    except json.JSONDecodeError as error:
        raise _not_json(text, error) from None
    except _NotANumber:
        at = next(match.start(1) for match in _CONSTANT.finditer(text) if match[1])
        raise _not_json(text, json.JSONDecodeError(CONSTANT, text, at)) from None
    except ValueError:
        raise InvalidRequest("a number in the JSON has too many digits; round it") from None


def _not_json(text: str, error: json.JSONDecodeError) -> InvalidRequest:
    """Return an error that says where the JSON is broken, without quoting it."""
    before, after = text[: error.pos].rstrip(), text[error.pos :].lstrip()
    if error.msg.startswith("Illegal trailing comma") or (
        before.endswith(",") and after.startswith(("}", "]"))
    ):
        fault = "remove the comma before the closing bracket"
        at = before.rfind(",")
        error = json.JSONDecodeError(error.msg, text, at if at >= 0 else error.pos)
    else:
        fault = JSON_FAULTS.get(error.msg, error.msg.lower())
    return InvalidRequest(
        f"the body is not JSON: line {error.lineno}, column {error.colno}: {fault}",
        line=error.lineno,
        column=error.colno,
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_OBJECT_KEYS:
        raise InvalidRequest(f"an object has more than {MAX_OBJECT_KEYS} keys; send fewer")
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise _DuplicateKey
    return mapping


def _second(text: str) -> int:
    """Return the position of the first duplicate key; the text is valid JSON up to there."""
    keys: list[set[str] | None] = []
    expected = False
    for token in _TOKEN.finditer(text):
        match token[0]:
            case "{":
                keys.append(set())
            case "[":
                keys.append(None)
            case "}" | "]":
                keys.pop()
        if token[1] and expected and keys and (known := keys[-1]) is not None:
            key = json.loads(token[1])
            if key in known:
                return token.start()
            known.add(key)
        expected = token[0] in {"{", ","}
    return 0


class _DuplicateKey(Exception):
    """A duplicate key in an object."""


def _no_constant(_: str) -> NoReturn:
    raise _NotANumber


class _NotANumber(Exception):
    """NaN or Infinity, which Python reads and JSON does not have."""


def _too_large(max_bytes: int) -> InvalidRequest:
    return InvalidRequest(
        f"the body is larger than {max_bytes:,} bytes; send less", status=413, limit=max_bytes
    )
