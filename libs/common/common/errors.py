"""Errors that may cross the bus, and their public codes.

* ServiceError                5001  500  internal error; the message gives no details
  - InvalidModel              1001  400  not a model URL
  - ModelNotFound             1001  404  no such model on the Hub
  - ModelRefused              1002  422  a model that cannot be served; details.reason
  - HubUnavailable            1002  503  the Hub is unavailable, slow or answers nonsense
  - InvalidRequest            1003  400  details.fields[] = {path, message}
  - BenchmarkFailed           1004  422  a run that is impossible or failed; details.reason
  - MonitoringFailed          1005  422  samples that cannot be stored; details.reason
  - Unauthenticated           2001  401
  - RateLimited               2002  429  details.limit
  - PermissionDenied          2003  403
  - NotFound                  3001  404  also somebody else's object
  - Conflict                  3002  409
  - Unavailable               5003  503  overloaded, or a dependency is unavailable

`code` is the public API's error code. `status` is the error code of NATS ADR-32
in the reply's headers; its values are HTTP's.
"""

from typing import Any, ClassVar

# The message of an error whose cause is logged and not shown.
INTERNAL = "internal error; if it persists, report it with its requestId to the operator"


class ServiceError(Exception):
    """An error that a service sends as its reply.

    Args:
        message: what is wrong and what to do; shown to the caller.
        status: overrides the class's own, where one code has several.
        retry_after: seconds after which a retry makes sense.
        details: more about the error, as JSON; never a submitted value.
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
        # A reply from the bus becomes the first class of its code.
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
        """Restore an error from another service's reply; an unknown code keeps its number."""
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


class MonitoringFailed(ServiceError):
    code, status = 1005, 422


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


class NoResponders(Unavailable):
    """No service listens to the subject: the request was not delivered, and may be retried."""
