"""The tests' control of the Hub: request log, faults, moves of branches.

`GET /_log` lists requests, `DELETE /_log` forgets them. `POST /_faults` adds a fault and answers
its number, `DELETE /_faults/<number>` takes it away, `DELETE /_faults` all of them.
`POST /_branches {"id", "branch", "commit"}` moves a branch. None of this is logged or struck.
"""

import re
from collections import deque
from dataclasses import asdict, dataclass
from itertools import count

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from hub.app import Hub
from hub.faults import MODES, Exchange, Fault, transport_of

LOGGED = 100_000  # requests; the oldest go first


@dataclass
class LoggedRequest:
    """A request that reached the Hub; `status` is None without an answer's status."""

    method: str
    path: str  # with its query, as it was sent
    range: str | None
    authorization: str | None
    user_agent: str | None
    fault: str | None = None
    status: int | None = None
    sent: int = 0  # bytes of the body, without what a fault wrote past ASGI


class Control:
    """An ASGI application around the Hub that logs requests and applies faults."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.faults: dict[int, Fault] = {}
        self.numbers = count(1)
        self.log: deque[LoggedRequest] = deque(maxlen=LOGGED)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if request.url.path.startswith("/_"):
            response = await self.turn(request)
            await response(scope, receive, send)
            return
        logged = see(request)
        self.log.append(logged)

        async def record(message: Message) -> None:
            logged.status = message.get("status", logged.status)
            logged.sent += len(message.get("body", b"")) * (logged.method != "HEAD")
            await send(message)

        fault = self.strike(logged)
        if fault is None:
            await self.hub(scope, receive, record)
        else:
            exchange = Exchange(self.hub, scope, receive, record, transport_of(send))
            await MODES[fault.mode](fault, exchange)

    def strike(self, logged: LoggedRequest) -> Fault | None:
        """Return the newest fault that applies to this request; use up one of its `times`."""
        for fault in reversed(self.faults.values()):
            concerned = fault.method in {None, logged.method} and re.search(fault.path, logged.path)
            if concerned and fault.times != 0:
                fault.times = None if fault.times is None else fault.times - 1
                logged.fault = fault.mode
                return fault
        return None

    async def turn(self, request: Request) -> Response:
        match request.method, request.url.path.strip("/").split("/"):
            case "GET", ["_log"]:
                return JSONResponse([asdict(logged) for logged in self.log])
            case "DELETE", ["_log"]:
                self.log.clear()
            case "POST", ["_faults"]:
                try:
                    fault = Fault(**await request.json())
                    re.compile(fault.path)
                except (TypeError, ValueError, re.error) as error:
                    return JSONResponse({"error": str(error)}, 400)
                number = next(self.numbers)
                self.faults[number] = fault
                return JSONResponse({"number": number}, 201)
            case "DELETE", ["_faults"]:
                self.faults.clear()
            case "DELETE", ["_faults", number]:
                self.faults.pop(int(number), None)
            case "POST", ["_branches"]:
                move = await request.json()
                repository = await self.hub.stock.repository(move["id"])
                repository.branches[move["branch"]] = repository.commits[move["commit"]].sha
            case _:
                return JSONResponse({"error": "no such control"}, 404)
        return Response(None, 204)


def see(request: Request) -> LoggedRequest:
    query = request.scope["query_string"].decode("ascii")
    return LoggedRequest(
        method=request.method,
        path=request.scope["raw_path"].decode("ascii") + (f"?{query}" if query else ""),
        range=request.headers.get("range"),
        authorization=request.headers.get("authorization"),
        user_agent=request.headers.get("user-agent"),
    )
