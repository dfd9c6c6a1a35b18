"""The whole stack with real servers, as a user's machine has it, in front of the small Hub."""

from collections.abc import Callable, Iterator

import pytest

from hub.testing import RunningHub
from integration.caller import Account
from local.stack import Stack


@pytest.fixture(scope="session")
def hub() -> Iterator[RunningHub]:
    with RunningHub() as running:
        yield running


@pytest.fixture(scope="session")
def stack(hub: RunningHub) -> Iterator[Stack]:
    """Limits as they are by default."""
    # But for accounts: every test registers some, all from one address.
    environment = {"HF_ENDPOINT": hub.url, "RATE_REGISTER": "100000"}
    with Stack(environment=environment) as running:
        yield running


@pytest.fixture(scope="session")
def generous_stack(hub: RunningHub) -> Iterator[Stack]:
    """For load: limits that are not reached."""
    names = ("RATE_API", "RATE_GENERATE", "RATE_REGISTER", "RATE_LOGIN")
    limits = dict.fromkeys(names, "10000000")
    with Stack(environment={"HF_ENDPOINT": hub.url, **limits}, flood_limit=1_000_000) as running:
        yield running


@pytest.fixture(scope="session")
def new_account(stack: Stack) -> Callable[[], Account]:
    return lambda: Account(stack.url)


@pytest.fixture
def account(stack: Stack) -> Iterator[Account]:
    made = Account(stack.url)
    yield made
    made.http.close()
