import json
import logging

import pytest
import structlog

from common import logs
from common.context import Context, current


@pytest.fixture(autouse=True)
def _restored() -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    current.set(Context())


def test_each_line_is_json_with_its_request_id(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("gateway")
    current.set(Context(request_id="abcdefgh", account="acc1"))
    structlog.get_logger().info("hello", model="m")
    logging.getLogger("a.library").warning("beware")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first["requestId"] == second["requestId"] == "abcdefgh"
    assert (first["event"], first["model"], first["service"]) == ("hello", "m", "gateway")
    assert (second["event"], second["level"]) == ("beware", "warning")


def test_keys_and_passwords_never_reach_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("gateway")
    key, password = "lmg_live_" + "a" * 36, "hunter2"
    structlog.get_logger().info("made", key=key, url=f"nats://gateway:{password}@127.0.0.1:4222")
    try:
        raise ValueError(key)
    except ValueError:
        structlog.get_logger().exception("failed")
    text = capsys.readouterr().err
    assert key not in text
    assert password not in text
    assert all(json.loads(line) for line in text.splitlines())
