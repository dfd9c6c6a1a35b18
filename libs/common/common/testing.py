"""A bus without a network, for unit tests."""

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic_core import to_json

from common.contracts import Body, Event, Reply, Request, Rpc
from common.errors import ServiceError, Unavailable


class MemoryBus:
    """A bus that calls registered handlers and records published messages.

    Bodies and errors pass through their wire form, as on the real bus.
    """

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[[Any], Awaitable[Any]]] = {}
        self.published: list[tuple[str, Any]] = []

    def answer(
        self, rpc: Rpc[Request, Reply], handler: Callable[[Request], Awaitable[Reply]]
    ) -> None:
        self.handlers[rpc.subject] = handler

    async def call(self, rpc: Rpc[Request, Reply], request: Request) -> Reply:
        answer = await self.pass_on(rpc, request)
        return rpc.reply.model_validate_json(answer, extra="ignore")

    async def pass_on(self, rpc: Rpc[Request, Reply], request: Request) -> bytes:
        if rpc.subject not in self.handlers:
            raise Unavailable(f"the {rpc.service} service is unavailable; try again", retry_after=1)
        sent = rpc.request.model_validate_json(request.model_dump_json(), extra="ignore")
        try:
            reply = await self.handlers[rpc.subject](sent)
        except ServiceError as error:
            raise ServiceError.from_wire(error.to_wire()) from None
        return to_json(reply, by_alias=True)

    async def publish(self, event: Event[Body], body: Body, account: str, id: str) -> None:
        self.published.append((f"{event.subject}.{account}.{id}", body))
