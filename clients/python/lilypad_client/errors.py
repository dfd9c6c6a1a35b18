"""What can go wrong.

* LilypadError
  - APIConnectionError          no answer: the network, or a time-out
  - APIStatusError              an answer that is an error
    - AuthenticationError       401
    - PermissionDeniedError     403
    - NotFoundError             404
    - RateLimitError            429
    - ServerError               500 and above
"""

from typing import Any


class LilypadError(Exception):
    pass


class APIConnectionError(LilypadError):
    pass


class APIStatusError(LilypadError):
    """`code` is the number of the API, `status_code` that of HTTP; quote `request_id` to us."""

    def __init__(
        self, status_code: int, code: int, message: str, details: dict[str, Any], request_id: str
    ) -> None:
        super().__init__(f"{message} (code {code}, request {request_id})")
        self.status_code = status_code
        self.code = code
        self.message = message
        self.details = details
        self.request_id = request_id


class AuthenticationError(APIStatusError):
    pass


class PermissionDeniedError(APIStatusError):
    pass


class NotFoundError(APIStatusError):
    pass


class RateLimitError(APIStatusError):
    pass


class ServerError(APIStatusError):
    pass


BY_STATUS = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    429: RateLimitError,
}


def status_error(
    status: int, error: dict[str, Any] | None, request_id: str, text: str
) -> APIStatusError:
    """The error of an answer; one that is not the API's (a proxy's, say) keeps its text."""
    error = error or {"code": 0, "message": text[:500] or f"HTTP {status}", "details": {}}
    kind = BY_STATUS.get(status, ServerError if status >= 500 else APIStatusError)
    return kind(status, error["code"], error["message"], error.get("details", {}), request_id)
