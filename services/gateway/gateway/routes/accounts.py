from gateway.accounts import Account, Accounts, CreatedKey, Keys, NewAccount, NewKey
from gateway.endpoint import Call, Endpoint


def endpoints(accounts: Accounts) -> list[Endpoint]:
    async def register(_: Call, body: NewAccount) -> Account:
        """An account; make an API key with its e-mail address and password next."""
        return await accounts.register(body)

    async def create_key(call: Call, body: NewKey) -> CreatedKey:
        """A key for `Authorization: Bearer`. It is shown in this answer and never again."""
        return await accounts.create_key(call.account, body)

    async def list_keys(call: Call, _: None) -> Keys:
        """The account's keys, without the keys themselves."""
        return await accounts.list_keys(call.account)

    async def revoke_key(call: Call, _: None) -> None:
        """The key is refused from now on."""
        await accounts.revoke_key(call.account, call.path_parameter("key_id"))

    tag = "Accounts and keys"
    return [
        Endpoint(
            method="POST",
            path="/accounts",
            handler=register,
            body=NewAccount,
            reply=Account,
            status=201,
            summary="Register",
            tag=tag,
        ),
        Endpoint(
            method="POST",
            path="/keys",
            handler=create_key,
            allows="password",
            body=NewKey,
            reply=CreatedKey,
            status=201,
            summary="Make an API key",
            tag=tag,
        ),
        Endpoint(
            method="GET",
            path="/keys",
            handler=list_keys,
            allows="password",
            reply=Keys,
            summary="List the API keys",
            tag=tag,
        ),
        Endpoint(
            method="DELETE",
            path="/keys/{key_id}",
            handler=revoke_key,
            allows="password",
            status=204,
            errors=(404,),
            summary="Revoke an API key",
            tag=tag,
        ),
    ]
