"""The context of a request: its id, account, deadline, trace, idempotency key and tenant.

It travels in message headers, is in every log line, and is passed on to
every call made while the request is answered.
"""

from contextvars import ContextVar
from dataclasses import dataclass

REQUEST_ID = "X-Request-Id"
ACCOUNT = "Lilypad-Account"
DEADLINE = "Lilypad-Deadline"
TRACEPARENT = "traceparent"
IDEMPOTENCY_KEY = "Lilypad-Idempotency-Key"
TENANT = "Lilypad-Tenant"


@dataclass(frozen=True, slots=True)
class Context:
    """A request's context.

    Attributes:
        deadline: seconds since 1970 by the caller's clock; None for no limit.
        idempotency_key: a digest of the caller's key, "" for none. Two requests of an
            account with the same key are one: what they create is created once.
        tenant: the name under which the queue counts the request's runs, "" for the account's.
    """

    request_id: str = ""
    account: str = ""
    deadline: float | None = None
    traceparent: str = ""
    idempotency_key: str = ""
    tenant: str = ""

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
        if self.tenant:
            headers[TENANT] = self.tenant
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
            headers.get(TENANT, ""),
        )


current: ContextVar[Context] = ContextVar("current", default=Context())  # noqa: B039  (frozen)
