"""Settings of every test of the checkout."""

import gc
from functools import cache
from pathlib import Path
from typing import Any

import httpcore2
import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from local import ports

# How long an example takes is the machine's business, not the behaviour's.
settings.register_profile(
    "checkout", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("checkout")

# Nothing is garbage while the tests and their libraries load.
gc.disable()
# Each client would read a hundred certificates, which takes longer than a request; the tests speak
# plain HTTP.
httpcore2.default_ssl_context = cache(httpcore2.default_ssl_context)

# What integration tests start, dearest first; the tests of `generous_stack` use `stack` as well.
SHARED = ("measuring_stack", "monitored_stack", "narrow", "stack")


class Together(LoadScopeScheduling):
    """Scheduling that keeps together the files that share a stack, and each other file."""

    def _split_scope(self, nodeid: str) -> str:
        return together(nodeid.partition("::")[0])


@cache
def together(file: str) -> str:
    text = Path(file).read_text() if file.startswith("tests/integration") else ""
    return next((name for name in SHARED if f"{name}: " in text), file)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests that share a stack, also without xdist."""
    places: dict[str, int] = {}
    for item in items:
        places.setdefault(together(item.location[0]), len(places))
    items.sort(key=lambda item: places[together(item.location[0])])


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Function, nextitem: pytest.Item | None) -> None:
    """Close a stack that no later test shares: until the end, it would take a tenth of a core."""
    name = together(item.location[0])
    if name.endswith("_stack") and nextitem and together(nextitem.location[0]) != name:
        item.funcargs[name].close()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # the libraries stay; scanning them again and again takes seconds
    gc.enable()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    return Together(config, log)


# A proxy of this machine's is for the registries alone.
ports.reach_directly()
