"""The `Route` decorator, which declares a handler's path, bodies, scope and limits."""

from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from common.contracts import Message
from gateway import bodies
from gateway.answer import Answer
from gateway.authentication import Caller
from gateway.capacity import Capacity
from gateway.keyring import Scope
from gateway.limits import Standing
from gateway.usage import UsageKind
from gateway.versions import Version

__all__ = ["Answer", "Call", "Endpoint", "Route", "Version", "always", "endpoints_of"]

HttpScope = MutableMapping[str, Any]
Function = TypeVar("Function", bound=Callable[..., Any])

# Ten times the largest body of any endpoint except batches of records; and the bound for bodies of
# a few fields.
MAX_BODY_BYTES = bodies.LARGE_BODY_BYTES
MAX_SMALL_BODY_BYTES = 10_000
# Attribute of a handler that holds its row.
ROUTE = "__route__"


@dataclass(slots=True)
class Call:
    """The parts of a request that a handler needs."""

    scope: HttpScope
    headers: dict[bytes, bytes]
    request_id: str
    version: Version
    capacity: Capacity
    caller: Caller | None = None
    standings: list[Standing] = field(default_factory=list)
    joining: bool = False
    kind: UsageKind | None = None
    # The code of the error that it was answered with.
    error: int | None = None
    traceparent: str = ""

    @property
    def account(self) -> str:
        assert self.caller is not None, "only on endpoints that know their caller"
        return self.caller.account

    @property
    def session(self) -> str | None:
        """The token of the request's session, if it has one."""
        return self.caller.session if self.caller else None

    @property
    def owes_code(self) -> bool:
        """Whether the body must contain a code, if the account has a second factor."""
        assert self.caller is not None, "only on endpoints that know their caller"
        return self.caller.owes_code

    def path_parameter(self, name: str) -> str:
        """Return a path parameter; raise InvalidRequest for text that cannot be an id."""
        value: str = self.scope["path_params"][name]
        bodies.check_parameter(name, value)
        return value


# Bytes are the JSON of a message, as another service wrote it.
Handler = Callable[[Call, Any], Awaitable[Message | bytes | Answer | None]]


def never(_: Any) -> bool:
    return False


def always(_: Any) -> bool:
    return True


@dataclass(frozen=True)
class Route:
    """The declaration of an endpoint: path, body, reply, rights and limits. Decorates the handler.

    Attributes:
        allows: the scope that the key must have; `"account"` for the person,
            by HTTP Basic or a session's cookie; None for anybody.
        limits: the policies that a request counts against, of the account, or of
            the address where anybody may call. The first counts every request,
            the others only those that are understood.
        idempotent: whether `Idempotency-Key` is honoured.
        query: the message that the query string is read as; the handler gets it as its body.
        joins: whether a repeated request with this body, while the first is under way, is answered
            by the handler as well (`Call.joining`), counted as a request alone, and not refused.
        parameters: what OpenAPI says of headers.
        csv: whether the answer may be CSV as well, by `Accept` or `format`.
        later: whether the answer may be 202, with the work still under way.
        code_in_body: whether a code of the second factor may come in the body's `code`.
        kind: the kind that a request with this body counts as in the account's usage, if any.
        harmless: whether the handler changes nothing for this body, so that it may run while the
            request is counted; the result of a refused request is dropped.
    """

    method: str
    path: str
    _: KW_ONLY
    summary: str
    allows: Scope | Literal["account"] | None = None
    body: type[Message] | None = None
    reply: type[Message] | None = None
    query: type[Message] | None = None
    max_body_bytes: int = MAX_BODY_BYTES
    status: int = 200
    errors: tuple[int, ...] = ()
    limits: tuple[str, ...] = ("api",)
    versions: tuple[Version, ...] = ("v1", "v2")
    media_type: str = "application/json"
    idempotent: bool = False
    joins: Callable[[Any], bool] = never
    parameters: tuple[dict[str, Any], ...] = ()
    csv: bool = False
    later: bool = False
    code_in_body: bool = False
    kind: Callable[[Any], UsageKind] | None = None
    harmless: Callable[[Any], bool] = never

    def __call__(self, handler: Function) -> Function:
        setattr(handler, ROUTE, self)
        return handler


@dataclass(frozen=True, kw_only=True)
class Endpoint(Route):
    """A route with its handler; `tag` is the heading under which OpenAPI lists it."""

    handler: Handler
    tag: str


class Routes(Protocol):
    """A class whose methods are handlers with a `Route` on each."""

    tag: str


def handlers_of(group: object) -> Iterator[tuple[Any, Any]]:
    """Yield the row and the handler of each route, in the order in which a class declares them."""
    for name, function in vars(type(group)).items():
        if (row := getattr(function, ROUTE, None)) is not None:
            yield row, getattr(group, name)


def endpoints_of(*groups: Routes) -> list[Endpoint]:
    """List the endpoints of each group, in the order in which its class declares them."""
    return [
        Endpoint(**vars(route), handler=handler, tag=group.tag)
        for group in groups
        for route, handler in handlers_of(group)
    ]
