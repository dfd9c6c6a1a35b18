"""What an account does with its keys."""

from gateway.keyring import KeyChange, NewKey

from .conftest import Desk


async def test_a_scope_that_is_named_twice_is_had_once_however_the_key_came_to_it(
    desk: Desk,
) -> None:
    account, _ = await desk.key()
    twice = ["generate", "benchmark", "generate"]
    made = await desk.keyring.create(account, NewKey.model_validate({"name": "x", "scopes": twice}))
    change = KeyChange.model_validate({"scopes": [*twice, "benchmark"]})
    changed = await desk.keyring.change(account, made.id, change)
    assert made.scopes == changed.scopes == ["generate", "benchmark"]
