"""Admission of a client, by its token and its account's free socket slots."""

from typing import Any

from common.bus import Bus
from common.contracts.access import AUTHENTICATE, Credentials
from common.errors import Unauthenticated, Unavailable
from realtime.client import Client
from realtime.keys import SCOPE, Keys, lacks_scope, revoked
from realtime.slots import Slots, full
from realtime.topics import Topics

MAX_TOKEN_CHARACTERS = 4096


class Admission:
    def __init__(self, bus: Bus, slots: Slots, topics: Topics, keys: Keys) -> None:
        self.bus = bus
        self.slots = slots
        self.topics = topics
        self.keys = keys

    async def admit(self, client: Client, auth: Any) -> None:
        """Check the token in `auth`, claim a slot, and subscribe to the account's events.

        Raises:
            ServiceError: the client is refused. `leave` undoes the steps done so far.
        """
        token = auth.get("token") if isinstance(auth, dict) else None
        if not isinstance(token, str) or not 0 < len(token) <= MAX_TOKEN_CHARACTERS:
            raise Unauthenticated("no API key; connect with auth: {token: <an API key>}")
        access = await self.bus.call(AUTHENTICATE, Credentials(token=token))
        if access.key and SCOPE not in access.scopes:
            raise lacks_scope()
        slot = await self.slots.claim(access.account, lambda: client.dismiss(full()))
        if client.closed:
            await self.slots.release(slot)
            raise Unavailable("the connection was lost; connect again")
        client.slot = slot
        if self.keys.is_revoked(access.key):  # after the gateway had answered
            raise revoked()
        client.account, client.key, client.token = access.account, access.key, token
        await self.topics.enter(access.account, client)
        if client.closed:
            # If admitted, it would stay in python-socketio permanently: its end was reported too
            # early.
            raise Unavailable("the connection was lost; connect again")

    async def leave(self, client: Client) -> None:
        """Undo a client's admission and subscriptions; idempotent."""
        account, client.account = client.account, ""
        if account:
            self.topics.exit(account, client)
            for model in client.models:
                self.topics.leave(account, model, client)
        client.models = set()
        slot, client.slot = client.slot, None
        if slot is not None:
            await self.slots.release(slot)
