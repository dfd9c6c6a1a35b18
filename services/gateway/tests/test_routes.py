"""The table of endpoints."""

from types import SimpleNamespace
from typing import Any, cast

from gateway import routes


def test_every_handler_is_a_method_that_a_trace_can_name() -> None:
    parts = dict.fromkeys(("accounts", "sessions", "recovery", "deletion"))
    nothing = cast("Any", SimpleNamespace(**parts))
    names = [
        each.handler.__qualname__ for each in routes.endpoints(nothing, nothing, nothing, nothing)
    ]
    assert "GenerationRoutes.generate" in names
    assert not [name for name in names if "<" in name]
    assert len(names) == len(set(names))
