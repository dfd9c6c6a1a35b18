from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi

from hub.testing import RunningHub


@pytest.fixture(scope="package")
def session_hub() -> Iterator[RunningHub]:
    with RunningHub() as hub:
        yield hub


@pytest.fixture
def hub(session_hub: RunningHub) -> Iterator[RunningHub]:
    session_hub.forget()
    yield session_hub
    session_hub.heal()


@pytest.fixture
def api(hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HfApi:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return HfApi(endpoint=hub.url, token=False)
