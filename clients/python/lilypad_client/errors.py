"""The exceptions of the client.

* LilypadError
  - APIConnectionError              no answer: the network, or something else at base_url
    - APITimeoutError               no answer before the deadline
  - JobTimeoutError                 a run did not finish in time; it was canceled
  - ArchiveError                    an archive that is damaged or not safe to extract
  - APIStatusError                  the service refused; its `code`:
    - InvalidModelError             1001  not the address of a model, or no such model
    - GenerationError               1002  the model is refused, or the Hub is unavailable
    - InvalidRequestError           1003  a field is wrong: `details["fields"]`
    - BenchmarkError                1004  the run was refused, or failed
    - MonitoringError               1005
    - AuthenticationError           2001  no, unknown, expired or revoked key
    - RateLimitError                2002  `retry_after`
    - PermissionDeniedError         2003  the key lacks a scope, or v2 is not switched on
    - NotFoundError                 3001  also another account's object
    - ConflictError                 3002  an Idempotency-Key in use
    - InternalError                 5001
    - UnavailableError              5003  overloaded, or a dependency is unavailable
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar


class LilypadError(Exception):
    """The base class of all errors; `advice` is a sentence on what to do next."""

    advice: str = "change what the message names, then call again"


class APIConnectionError(LilypadError):
    advice = "check base_url and the network, then try again"


class APITimeoutError(APIConnectionError):
    advice = "try again, or give the client a longer timeout"


class JobTimeoutError(LilypadError):
    advice = "start it again with a longer wait_timeout"


class ArchiveError(LilypadError):
    advice = "download it again; do not extract this one"


class APIStatusError(LilypadError):
    """An error answer: `code` is the API's error code, `status_code` the HTTP status.

    `request_id` finds the request in the service's logs; quote it to its operators.
    `retry_after` is how many seconds the service asked to wait, if it did.
    """

    by_code: ClassVar[dict[int, type["APIStatusError"]]] = {}
    advice = "read the message; the service lists its codes at /docs/reference/errors"

    def __init__(
        self,
        message: str,
        *,
        status_code: int,
        code: int = 0,
        details: Mapping[str, Any] | None = None,
        request_id: str = "",
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = status_code
        self.code = code
        self.details = dict(details or {})
        self.request_id = request_id
        self.headers = dict(headers or {})
        self.retry_after = retry_after

    def __init_subclass__(cls, code: int) -> None:
        cls.by_code[code] = cls

    def __reduce__(self) -> tuple[Any, ...]:
        # Raised in a worker process, an error arrives in its parent.
        named = {name: value for name, value in vars(self).items() if name != "message"}
        return partial(type(self), **named), (self.message,)

    def __str__(self) -> str:
        number = f"code {self.code}" if self.code else f"HTTP {self.status_code}"
        return f"{self.message} ({number}, request {self.request_id or 'unknown'})"


class InvalidModelError(APIStatusError, code=1001):
    advice = "check the model's address: https://huggingface.co/<owner>/<name>"


class GenerationError(APIStatusError, code=1002):
    advice = "details['reason'] says why; use another model, or retry once the Hub is available"


class InvalidRequestError(APIStatusError, code=1003):
    advice = "correct the fields that details['fields'] names"


class BenchmarkError(APIStatusError, code=1004):
    advice = "details['reason'] says why; try fewer or smaller batch sizes"


class MonitoringError(APIStatusError, code=1005):
    advice = "try again later"


class AuthenticationError(APIStatusError, code=2001):
    advice = "use another key: `lilypad login`, or LILYPAD_API_KEY"


class RateLimitError(APIStatusError, code=2002):
    advice = "wait retry_after seconds"


class PermissionDeniedError(APIStatusError, code=2003):
    advice = "use a key that has the scope details['scope'], or switch v2 on"


class NotFoundError(APIStatusError, code=3001):
    advice = "check the id, and that it belongs to this account"


class ConflictError(APIStatusError, code=3002):
    advice = "leave the idempotency key out, or use a new one"


class InternalError(APIStatusError, code=5001):
    advice = "report request_id to the operators of the service"


class UnavailableError(APIStatusError, code=5003):
    advice = "try again in retry_after seconds"


def status_error(
    status: int,
    error: Mapping[str, Any] | None,
    headers: Mapping[str, str],
    text: str,
    retry_after: float | None,
) -> APIStatusError:
    """Build the exception of an error answer; a foreign answer, such as a proxy's, is quoted."""
    code = error["code"] if error else 0
    message = error["message"] if error else text[:500] or f"HTTP {status}"
    return APIStatusError.by_code.get(code, APIStatusError)(
        message,
        status_code=status,
        code=code,
        details=(error or {}).get("details"),
        request_id=headers.get("x-request-id", ""),
        headers=headers,
        retry_after=retry_after,
    )
