"""Who asked, under which number, and until when: what travels with a request.

It is carried in message headers, put into every log line, and handed on to
whatever is called while the request is being answered.
"""

from contextvars import ContextVar
from dataclasses import dataclass

REQUEST_ID = "X-Request-Id"
ACCOUNT = "Lilypad-Account"
DEADLINE = "Lilypad-Deadline"
TRACEPARENT = "traceparent"
IDEMPOTENCY_KEY = "Lilypad-Idempotency-Key"


@dataclass(frozen=True, slots=True)
class Context:
    """`deadline` is in seconds since 1970, on the caller's clock; None: no limit.

    Two requests of an account with the same `idempotency_key` ask for the same
    thing: a service that makes something makes it once for both. It is empty
    where the caller gave none, and not the caller's own words but their digest.
    """

    request_id: str = ""
    account: str = ""
    deadline: float | None = None
    traceparent: str = ""
    idempotency_key: str = ""

    def to_headers(self, deadline: float | None = None) -> dict[str, str]:
        headers = {}
        if self.request_id:
            headers[REQUEST_ID] = self.request_id
        if self.account:
            headers[ACCOUNT] = self.account
        if self.traceparent:
            headers[TRACEPARENT] = self.traceparent
        if self.idempotency_key:
            headers[IDEMPOTENCY_KEY] = self.idempotency_key
        if deadline is not None:
            headers[DEADLINE] = f"{deadline:.3f}"
        return headers

    @staticmethod
    def from_headers(headers: dict[str, str] | None) -> "Context":
        if not headers:
            return Context()
        deadline = headers.get(DEADLINE)
        return Context(
            headers.get(REQUEST_ID, ""),
            headers.get(ACCOUNT, ""),
            float(deadline) if deadline else None,
            headers.get(TRACEPARENT, ""),
            headers.get(IDEMPOTENCY_KEY, ""),
        )


current: ContextVar[Context] = ContextVar("current", default=Context())  # noqa: B039  (frozen)
