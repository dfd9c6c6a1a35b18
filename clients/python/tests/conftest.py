import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from scripted import Service


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The client's pauses between attempts, recorded instead of waited for."""
    recorded: list[float] = []
    sleep, sleep_async = time.sleep, asyncio.sleep

    def is_client() -> bool:
        return bool(sys._getframe(2).f_globals["__name__"].startswith("lilypad_client."))

    def pause(seconds: float) -> None:
        if not is_client():
            return sleep(seconds)
        recorded.append(seconds)
        return None

    def pause_async(seconds: float) -> Awaitable[None]:
        if not is_client():
            return sleep_async(seconds)
        recorded.append(seconds)
        return sleep_async(0)

    monkeypatch.setattr("time.sleep", pause)
    monkeypatch.setattr("asyncio.sleep", pause_async)
    return recorded


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: Service) -> Path:
    """A new working directory; the environment has the service's address and a key."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("LILYPAD_BASE_URL", service.url)
    monkeypatch.setenv("LILYPAD_API_KEY", "lmg_live_x")
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path
