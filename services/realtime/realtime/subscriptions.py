"""The handlers of `subscribe_metrics` and `unsubscribe_metrics`."""

from typing import Any, TypeVar

import orjson
from pydantic import ValidationError

from common.contracts import Input
from common.errors import InvalidRequest, NotFound, ServiceError, Unavailable
from common.faults import invalid
from realtime.client import Client
from realtime.cursor import Cursor
from realtime.replay import Replay
from realtime.requests import Subscribe, Unsubscribe
from realtime.topics import Topics
from realtime.update import model_topic

# Models one socket may follow.
MAX_MODELS = 500

Request = TypeVar("Request", bound=Input)


class Subscriptions:
    def __init__(self, topics: Topics, replay: Replay) -> None:
        self.topics = topics
        self.replay = replay

    async def subscribe(self, client: Client, data: Any) -> dict[str, Any]:
        """Subscribe a client to a model, from now or from `since`; return the acknowledgement.

        A model without a record can be followed too, so it is indistinguishable from
        another account's.
        """
        request = _read(Subscribe, data)
        async with client.lock(request.model_id):
            return await self._subscribe(client, request)

    async def _subscribe(self, client: Client, request: Subscribe) -> dict[str, Any]:
        account, model = client.account, request.model_id
        if model not in client.models and len(client.models) >= MAX_MODELS:
            raise InvalidRequest(
                f"one socket follows at most {MAX_MODELS} models; unsubscribe from one first"
            )
        metrics = frozenset(request.metrics) if request.metrics else None
        with_cursor = request.cursor or isinstance(request.since, Cursor)
        hold = with_cursor or request.since is not None
        if request.since is None:
            self.topics.resume(account, model, client)  # no replay follows
        topic = await self.topics.join(account, model, client, metrics, hold=hold)
        if client.closed or client.account != account:
            self.topics.leave(account, model, client)
            raise Unavailable("the connection was lost; connect again")
        client.models.add(model)
        answer: dict[str, Any] = {"status": "success"}
        subscriber = topic.subscribers[client]
        seen = self.topics.accounts[account].clients[client]
        if request.since is not None:
            try:
                answer["complete"] = await self.replay.run(
                    client, seen, topic, since=request.since, with_cursor=with_cursor
                )
            except ServiceError:
                # A subscription with a gap would look like one without.
                client.models.discard(model)
                topic.give_up(client, seen)
                self.topics.remove_unused(topic)
                # The error must not overtake the replayed updates: the client resumes from the
                # last.
                await client.has_sent_guaranteed()
                raise
        elif with_cursor and subscriber.cursor is None:
            await self.replay.start(topic, client, seen)
        else:
            subscriber.cursor = subscriber.cursor if with_cursor else None
            topic.release(client, subscriber, seen)
        await client.has_sent_guaranteed()
        if subscriber.cursor is not None and not client.has_waiting(model_topic(model)):
            answer["cursor"] = subscriber.cursor.text
        return answer

    async def unsubscribe(self, client: Client, data: Any) -> dict[str, Any]:
        request = _read(Unsubscribe, data)
        async with client.lock(request.model_id):
            client.models.discard(request.model_id)
            if not self.topics.leave(client.account, request.model_id, client):
                raise NotFound("not subscribed to this model")
        return {"status": "success"}


def _read(model: type[Request], data: Any) -> Request:
    try:
        return model.model_validate_json(_to_json(data))
    except ValidationError as error:
        raise invalid(error, model) from None


def _to_json(data: Any) -> bytes:
    """Encode an event's data as strict JSON, for validation."""
    try:
        return orjson.dumps(data)
    except TypeError:
        raise InvalidRequest(
            "half a surrogate pair in a string, or an integer of more than 64 bits"
        ) from None
