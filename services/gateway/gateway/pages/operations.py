"""The API's operations, called by the pages for a logged-in person."""

import dataclasses
from typing import Any

from common import context
from common.contracts import Message
from common.errors import NotFound
from gateway.authentication import Caller
from gateway.door import Guards
from gateway.endpoint import Answer, Call, Endpoint
from gateway.envelope import Envelope
from gateway.pages.visit import Visit


class Operations:
    """The endpoints by operation id, called without HTTP."""

    def __init__(self, endpoints: list[Endpoint], guards: Guards) -> None:
        self._endpoints = {endpoint.handler.__name__: endpoint for endpoint in endpoints}
        self._guards = guards

    async def call(self, visit: Visit, name: str, body: Message | None = None, **path: str) -> Any:
        """Return the operation's typed reply, or its `Answer` if that is a file.

        The visit itself is already counted as a request; the operation's further limits are
        counted here.
        """
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            raise NotFound("this gateway does not serve that operation; reload the page")
        if more := endpoint.limits[1:]:
            visit.standings += await self._guards.limits.admit(visit.account, more)
        call = Call(
            {**visit.request.scope, "path_params": path},
            # Pages follow long work by themselves.
            {b"prefer": b"respond-async"},
            visit.request.state.request_id,
            "v1",
            self._guards.capacity,
            Caller(visit.account, None, frozenset(), session=visit.session or None),
        )
        return _typed(endpoint, await endpoint.handler(call, body))

    async def once(
        self, visit: Visit, number: str, name: str, body: Message, ignore: set[str] | None = None
    ) -> Any:
        """Call an operation as `call` does, but once for all forms with the same `number`.

        `ignore`: fields of the body that differ although it is the same form.
        """
        endpoint = self._endpoints[name]
        before = context.current.get()

        async def work(digest: str) -> Answer:
            context.current.set(dataclasses.replace(before, idempotency_key=digest))
            try:
                reply = await self.call(visit, name, body)
            finally:
                context.current.set(before)
            return Answer(reply.model_dump_json().encode())

        key = b"form " + number.encode("ascii", "replace")
        request = name.encode() + body.model_dump_json(exclude=ignore).encode()
        answer = await self._guards.idempotency.once(visit.account, key, request, work)
        assert endpoint.reply is not None, "a form's operation answers with a message"
        return endpoint.reply.model_validate_json(answer.content)


def _typed(endpoint: Endpoint, result: Message | bytes | Answer | None) -> Any:
    if isinstance(result, bytes) and endpoint.reply is not None:
        return endpoint.reply.model_validate_json(result)
    if isinstance(result, Answer) and endpoint.media_type == "application/json":
        if endpoint.reply is None or not result.content:
            return None
        envelope = Envelope[endpoint.reply]  # type: ignore[name-defined]
        return envelope.model_validate_json(result.content).data
    return result
