"""What a machine says of itself."""

import psutil
import pytest
import torch

from benchmarker.worker import device, energy
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


@pytest.mark.parametrize(
    ("share", "cores", "threads"),
    [("max 100000", 16, 16), ("250000 100000", 3, 2), ("50000 100000", 1, 1), (None, 16, 16)],
)
def test_of_a_containers_share_of_the_time_so_many_cores_are_counted_and_used(
    group, monkeypatch, share, cores, threads
) -> None:
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    if share:
        (group / "cpu.max").write_text(f"{share}\n")
    assert (device.machine("cpu")["cores"], device.threads()) == (cores, threads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # as OMP_NUM_THREADS asks for
    assert device.threads() == 1


def test_a_container_that_used_up_its_share_of_the_time_is_said_to_be_throttled(group) -> None:
    def tell(microseconds: int) -> None:
        (group / "cpu.stat").write_text(f"usage_usec 7\nthrottled_usec {microseconds}\n")

    tell(1000)
    with energy.throttling("cpu") as found:
        pass
    assert found == set()
    with energy.throttling("cpu") as found:
        tell(60_000_000)
    assert found == {"quota"}


def test_ceilings_are_those_of_a_gpu_that_has_raised_its_clocks(monkeypatch) -> None:
    now, worked = [0.0], [0]

    def multiply(_, right, **__) -> None:
        assert right.t().is_contiguous()  # as in a layer, which some processors need
        # As long as it has not worked for a while it takes six times as long.
        worked[0] += 1
        now[0] += 0.001 if worked[0] > 20 else 0.006

    def read() -> float:
        now[0] += 1e-6
        return now[0]

    monkeypatch.setattr(device.time, "perf_counter", read)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch, "mm", multiply)
    for name, kind in (("rand", torch.rand), ("randn", torch.randn)):
        monkeypatch.setattr(torch, name, lambda *size, device, made=kind: made(*size))
    for sizes in (device.COPIED, device.MATRIX):
        monkeypatch.setitem(sizes, "cuda", 64)
    found = device.ceilings("cuda", "bfloat16")
    assert found["compute"] == pytest.approx(2 * 64**3 / 0.001 / 1e9, rel=0.01)


def test_a_machine_with_a_gpu_has_a_processor_too(group, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = device.describe(1.0, None, "cpu")
    assert (found["device_class"], found["name"]) == ("cpu", device.cpu_name())


def test_an_attention_is_announced_where_its_kernels_are_installed() -> None:
    assert device.describe(1.0, None)["attentions"] == ["eager", "sdpa"]
