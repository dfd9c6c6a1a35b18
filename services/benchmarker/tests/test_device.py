"""What a machine says of itself."""

import psutil
import pytest
import torch

from benchmarker.worker import device
from benchmarker.worker.device import MIB


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def group(monkeypatch, tmp_path):
    """A container's limits, as the kernel tells them."""
    monkeypatch.setattr(device, "GROUP", tmp_path)
    (tmp_path / "memory.current").write_text(f"{512 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon {412 * MIB}\ninactive_file {100 * MIB}\n")
    return tmp_path


def test_what_a_model_may_take_is_a_share_of_what_its_container_may(group) -> None:
    (group / "memory.max").write_text(f"{1024 * MIB}\n")
    assert device.describe(0.5, None)["memory"] == 512
    assert device.describe(0.5, 100.0)["memory"] == 100
    assert device.machine("cpu")["memory"] == 1024
    # Files that are only kept in case somebody reads them again are in nobody's way.
    assert device.free_memory("cpu") == 612


def test_without_a_limit_it_is_the_machines(group) -> None:
    total = psutil.virtual_memory().total / MIB
    for limit in ("max\n", None):
        (group / "memory.max").unlink(missing_ok=True)
        if limit:
            (group / "memory.max").write_text(limit)
        assert device.total_memory("cpu") == total
        assert 0 < device.free_memory("cpu") < total


def test_an_attention_is_announced_where_its_kernels_are_installed() -> None:
    assert device.describe(1.0, None)["attentions"] == ["eager", "sdpa"]
