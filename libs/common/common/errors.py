"""Errors that may cross the bus, and their public numbers.

* ServiceError                5001  500  something broke; the message says nothing about the inside
  - InvalidModel              1001  400  not an address of a model
  - ModelNotFound             1001  404  no such model on the Hub
  - ModelRefused              1002  422  a model that cannot be served; details.reason
  - HubUnavailable            1002  503  the Hub is away, slow or answers nonsense
  - InvalidRequest            1003  400  details.fields[] = {path, message}
  - BenchmarkFailed           1004  422  a run that cannot be, or did not end well; details.reason
  - Unauthenticated           2001  401
  - RateLimited               2002  429  details.limit
  - PermissionDenied          2003  403
  - NotFound                  3001  404  also somebody else's object
  - Conflict                  3002  409
  - Unavailable               5003  503  overloaded, or a dependency is away

`code` is the number that callers of the public API see. `status` is the
number of NATS ADR-32, sent in the reply's headers; its values are HTTP's.
"""

from typing import Any, ClassVar


class ServiceError(Exception):
    """An answer that is an error.

    Args:
        message: a sentence that says what to do; shown to the caller.
        status: in place of the class's own, where one code has several.
        retry_after: seconds after which trying again makes sense.
        details: more about it, as JSON; never what the caller submitted.
    """

    code: int = 5001
    status: int = 500

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: int | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.retry_after = retry_after
        if status is not None:
            self.status = status

    by_code: ClassVar[dict[int, type["ServiceError"]]] = {}

    def __init_subclass__(cls) -> None:
        # The first class of a code is the one that a reply from the bus becomes.
        ServiceError.by_code.setdefault(cls.code, cls)

    def to_wire(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "status": self.status,
            "message": self.message,
            "details": self.details,
            "retryAfter": self.retry_after,
        }

    @staticmethod
    def from_wire(wire: dict[str, Any]) -> "ServiceError":
        """The error that another service answered; unknown codes keep their number."""
        error = ServiceError.by_code.get(wire["code"], ServiceError)(
            wire["message"], status=wire["status"], retry_after=wire.get("retryAfter")
        )
        error.code = wire["code"]
        error.details = wire.get("details") or {}
        return error


class InvalidModel(ServiceError):
    code, status = 1001, 400


class ModelNotFound(ServiceError):
    code, status = 1001, 404


class ModelRefused(ServiceError):
    code, status = 1002, 422


class HubUnavailable(ServiceError):
    code, status = 1002, 503


class InvalidRequest(ServiceError):
    code, status = 1003, 400


class BenchmarkFailed(ServiceError):
    code, status = 1004, 422


class Unauthenticated(ServiceError):
    code, status = 2001, 401


class RateLimited(ServiceError):
    code, status = 2002, 429


class PermissionDenied(ServiceError):
    code, status = 2003, 403


class NotFound(ServiceError):
    code, status = 3001, 404


class Conflict(ServiceError):
    code, status = 3002, 409


class Unavailable(ServiceError):
    code, status = 5003, 503
