"""Accounts, their keys, and the tokens of their sockets."""

from gateway.accounts import Account, AccountChange, AccountFacts, Accounts, NewAccount
from gateway.endpoint import FEW_BYTES, Call, Endpoint
from gateway.keyring import CreatedKey, Key, KeyChange, KeyRing, Keys, NewKey
from gateway.sessions import Sessions, SocketToken

TAG = "Accounts and keys"


def endpoints(accounts: Accounts, keyring: KeyRing, sessions: Sessions) -> list[Endpoint]:
    return [*_account_endpoints(accounts, sessions), *_key_endpoints(keyring)]


def _account_endpoints(accounts: Accounts, sessions: Sessions) -> list[Endpoint]:
    async def register(_: Call, body: NewAccount) -> Account:
        """An account; make an API key with its e-mail address and password next.

        The answer is the same for an address that has an account already.
        """
        return await accounts.register(body)

    async def get_account(call: Call, _: None) -> AccountFacts:
        return await accounts.get(call.account)

    async def change_account(call: Call, body: AccountChange) -> AccountFacts:
        """Switch the beta (`/v2/api`) on or off for all of the account's keys."""
        return await accounts.change(call.account, body)

    async def create_socket_token(call: Call, _: None) -> SocketToken:
        """A short-lived token with which a page's socket connects in place of an API key."""
        session = call.caller.session if call.caller else None
        return await sessions.make_socket_token(call.account, session)

    return [
        Endpoint(
            method="POST",
            path="/accounts",
            handler=register,
            body=NewAccount,
            most_bytes=FEW_BYTES,
            reply=Account,
            status=201,
            errors=(429,),
            limits=("register",),
            summary="Register",
            tag=TAG,
        ),
        Endpoint(
            method="GET",
            path="/account",
            handler=get_account,
            allows="account",
            reply=AccountFacts,
            summary="Look at the account",
            tag=TAG,
        ),
        Endpoint(
            method="PATCH",
            path="/account",
            handler=change_account,
            allows="account",
            body=AccountChange,
            most_bytes=FEW_BYTES,
            reply=AccountFacts,
            summary="Change the account",
            tag=TAG,
        ),
        Endpoint(
            method="POST",
            path="/socket-tokens",
            handler=create_socket_token,
            allows="account",
            reply=SocketToken,
            status=201,
            summary="Make a token for a socket",
            tag=TAG,
        ),
    ]


def _key_endpoints(keyring: KeyRing) -> list[Endpoint]:
    async def create_key(call: Call, body: NewKey) -> CreatedKey:
        """A key for `Authorization: Bearer`. It is shown in this answer and never again."""
        return await keyring.create(call.account, body)

    async def list_keys(call: Call, _: None) -> Keys:
        """The account's keys, without the keys themselves."""
        return await keyring.list(call.account)

    async def get_key(call: Call, _: None) -> Key:
        return await keyring.get(call.account, call.path_parameter("key_id"))

    async def change_key(call: Call, body: KeyChange) -> Key:
        """Rename the key, or change what it may and until when; what is left out stays."""
        return await keyring.change(call.account, call.path_parameter("key_id"), body)

    async def revoke_key(call: Call, _: None) -> None:
        """The key is refused from now on, everywhere, and its sockets are closed."""
        await keyring.revoke(call.account, call.path_parameter("key_id"))

    return [
        Endpoint(
            method="POST",
            path="/keys",
            handler=create_key,
            allows="account",
            body=NewKey,
            most_bytes=FEW_BYTES,
            reply=CreatedKey,
            status=201,
            errors=(409,),
            summary="Make an API key",
            tag=TAG,
            idempotent=True,
        ),
        Endpoint(
            method="GET",
            path="/keys",
            handler=list_keys,
            allows="account",
            reply=Keys,
            summary="List the API keys",
            tag=TAG,
        ),
        Endpoint(
            method="GET",
            path="/keys/{key_id}",
            handler=get_key,
            allows="account",
            reply=Key,
            errors=(400, 404),
            summary="Look at an API key",
            tag=TAG,
        ),
        Endpoint(
            method="PATCH",
            path="/keys/{key_id}",
            handler=change_key,
            allows="account",
            body=KeyChange,
            most_bytes=FEW_BYTES,
            reply=Key,
            errors=(404,),
            summary="Change an API key",
            tag=TAG,
        ),
        Endpoint(
            method="DELETE",
            path="/keys/{key_id}",
            handler=revoke_key,
            allows="account",
            status=204,
            errors=(400, 404),
            summary="Revoke an API key",
            tag=TAG,
        ),
    ]
