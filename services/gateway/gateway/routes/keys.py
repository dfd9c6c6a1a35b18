"""Routes of an account's API keys."""

from gateway.endpoint import MAX_SMALL_BODY_BYTES, Call, Route
from gateway.keyring import CreatedKey, Key, KeyChange, KeyRing, Keys, NewKey


class KeyRoutes:
    """Routes that create, list, change and revoke API keys."""

    tag = "Accounts and keys"

    def __init__(self, keyring: KeyRing) -> None:
        self.keyring = keyring

    @Route(
        "POST",
        "/keys",
        summary="Create an API key",
        allows="account",
        body=NewKey,
        max_body_bytes=MAX_SMALL_BODY_BYTES,
        reply=CreatedKey,
        status=201,
        errors=(409,),
        idempotent=True,
    )
    async def create_key(self, call: Call, body: NewKey) -> CreatedKey:
        """Create a key for `Authorization: Bearer`. Only this answer shows it."""
        return await self.keyring.create(call.account, body)

    @Route(
        "GET",
        "/keys",
        summary="List the API keys",
        allows="account",
        reply=Keys,
    )
    async def list_keys(self, call: Call, _: None) -> Keys:
        """List the account's keys, without the keys themselves."""
        return await self.keyring.list(call.account)

    @Route(
        "GET",
        "/keys/{key_id}",
        summary="Get an API key",
        allows="account",
        reply=Key,
        errors=(400, 404),
    )
    async def get_key(self, call: Call, _: None) -> Key:
        """Return a key's description, without the key itself."""
        return await self.keyring.get(call.account, call.path_parameter("key_id"))

    @Route(
        "PATCH",
        "/keys/{key_id}",
        summary="Change an API key",
        allows="account",
        body=KeyChange,
        max_body_bytes=MAX_SMALL_BODY_BYTES,
        reply=Key,
        errors=(404,),
    )
    async def change_key(self, call: Call, body: KeyChange) -> Key:
        """Change the name, scopes or expiry; omitted fields stay as they are."""
        return await self.keyring.change(call.account, call.path_parameter("key_id"), body)

    @Route(
        "DELETE",
        "/keys/{key_id}",
        summary="Revoke an API key",
        allows="account",
        status=204,
        errors=(400, 404),
    )
    async def revoke_key(self, call: Call, _: None) -> None:
        """Revoke the key on every replica and close its sockets."""
        await self.keyring.revoke(call.account, call.path_parameter("key_id"))
