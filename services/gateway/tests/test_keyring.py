"""An account's API keys."""

from gateway.keyring import KeyChange, NewKey

from .conftest import Desk


async def test_a_repeated_scope_is_stored_once_on_creation_and_change(
    desk: Desk,
) -> None:
    account, _ = await desk.key()
    twice = ["generate", "benchmark", "generate"]
    created = await desk.keyring.create(
        account, NewKey.model_validate({"name": "x", "scopes": twice})
    )
    change = KeyChange.model_validate({"scopes": [*twice, "benchmark"]})
    changed = await desk.keyring.change(account, created.id, change)
    assert created.scopes == changed.scopes == ["generate", "benchmark"]
