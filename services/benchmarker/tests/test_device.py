"""Detection of a machine's memory, cores and devices."""

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
    """A fake control group with a container's limits."""
    monkeypatch.setattr(device, "CGROUP", tmp_path)
    (tmp_path / "memory.current").write_text(f"{512 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon {412 * MIB}\ninactive_file {100 * MIB}\n")
    return tmp_path


def test_a_models_memory_is_a_share_of_its_containers(group) -> None:
    (group / "memory.max").write_text(f"{1024 * MIB}\n")
    assert device.describe(0.5, None)["memory"] == 512
    assert device.describe(0.5, 100.0)["memory"] == 100
    assert device.machine("cpu")["memory"] == 1024
    # Inactive page cache counts as free.
    assert device.free_memory("cpu") == 612


def test_a_containers_memory_is_bounded_in_control_groups_version_1_too(
    monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr(device, "CGROUP", tmp_path)
    memory = tmp_path / "memory"
    memory.mkdir()
    (memory / "memory.usage_in_bytes").write_text(f"{512 * MIB}\n")
    (memory / "memory.stat").write_text(
        f"inactive_file {10 * MIB}\ntotal_inactive_file {100 * MIB}\n"
    )
    (memory / "memory.limit_in_bytes").write_text(f"{1024 * MIB}\n")
    assert device.total_memory("cpu") == 1024
    assert device.free_memory("cpu") == 612
    (memory / "memory.limit_in_bytes").write_text("9223372036854771712\n")  # none
    assert device.total_memory("cpu") == psutil.virtual_memory().total / MIB


def test_a_container_without_a_limit_has_the_machines_memory(group) -> None:
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
def test_a_containers_quota_bounds_its_cores_and_threads(
    group, monkeypatch, share, cores, threads
) -> None:
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    if share:
        (group / "cpu.max").write_text(f"{share}\n")
    assert (device.machine("cpu")["cores"], device.threads()) == (cores, threads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # as set by OMP_NUM_THREADS
    assert device.threads() == 1


def test_a_container_beyond_its_quota_is_reported_as_throttled(group) -> None:
    def tell(microseconds: int) -> None:
        (group / "cpu.stat").write_text(f"usage_usec 7\nthrottled_usec {microseconds}\n")

    tell(1000)
    with energy.throttling("cpu") as reasons:
        pass
    assert reasons == set()
    with energy.throttling("cpu") as reasons:
        tell(60_000_000)
    assert reasons == {"quota"}


def test_a_gpus_ceilings_are_measured_after_it_has_raised_its_clocks(monkeypatch) -> None:
    now, worked = [0.0], [0]

    def multiply(_, right, **__) -> None:
        assert right.t().is_contiguous()  # as in a layer; some processors require it
        # The first 20 calls take six times as long.
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
    for sizes in (device.COPY_BYTES, device.MATRIX_ROWS):
        monkeypatch.setitem(sizes, "cuda", 64)
    ceilings = device.ceilings("cuda", "bfloat16")
    assert ceilings["compute"] == pytest.approx(2 * 64**3 / 0.001 / 1e9, rel=0.01)


def test_a_machine_with_a_gpu_also_announces_its_cpu(group, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    described = device.describe(1.0, None, "cpu")
    assert (described["device_class"], described["name"]) == ("cpu", device.cpu_name())


def test_an_attention_is_announced_if_its_kernels_are_installed() -> None:
    assert device.describe(1.0, None)["attentions"] == ["eager", "sdpa"]
