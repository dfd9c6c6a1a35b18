"""Energy and throttling of a GPU, with a fake board."""

import threading
from types import SimpleNamespace

import pynvml
import pytest

from benchmarker.worker import energy


@pytest.fixture
def board(monkeypatch) -> SimpleNamespace:
    """A fake board, which throttles for the given reasons and counts a joule per reading."""
    board = SimpleNamespace(reasons=0, looks=threading.Semaphore(0), joules=0, processes=1, mps=0)
    board.name = "NVIDIA H200"

    def reasons(_):
        board.looks.release()
        return board.reasons

    def counter(_):
        board.joules += 1
        return board.joules * 1000

    replies = {
        "nvmlDeviceGetCurrentClocksEventReasons": reasons,
        "nvmlDeviceGetTotalEnergyConsumption": counter,
        "nvmlDeviceGetMigMode": lambda _: (0, 0),
        "nvmlDeviceGetComputeRunningProcesses_v3": lambda _: [None] * board.processes,
        "nvmlDeviceGetMPSComputeRunningProcesses_v3": lambda _: [None] * board.mps,
    }
    for name, reply in replies.items():
        monkeypatch.setattr(pynvml, name, reply)
    monkeypatch.setattr(energy, "_handle", lambda: "board")
    monkeypatch.setattr(energy.torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(energy.torch.cuda, "get_device_name", lambda _: board.name)
    monkeypatch.setattr(energy, "WINDOW_S", 0.01)
    return board


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        (pynvml.nvmlClocksEventReasonSwThermalSlowdown, "thermal"),
        (pynvml.nvmlClocksEventReasonSwPowerCap, "power"),
        (pynvml.nvmlClocksEventReasonHwSlowdown, "hardware"),
        (pynvml.nvmlClocksEventReasonGpuIdle, None),
    ],
)
def test_the_reason_for_lowered_clocks_is_reported(board, reason, name) -> None:
    with energy.throttling("cuda") as reasons:
        board.reasons = reason
        for _ in range(3):  # the second poll saw the reason, and had finished before the third
            assert board.looks.acquire(timeout=60)
        board.reasons = pynvml.nvmlClocksEventReasonGpuIdle
    assert reasons == ({name} if name else set())


def test_nvml_starts_before_the_timed_block(board, monkeypatch) -> None:
    started = []
    monkeypatch.setattr(energy, "_handle", lambda: started.append(threading.current_thread()) or "")
    with energy.throttling("cuda"):
        assert started == [threading.main_thread()]


def test_without_nvml_no_throttling_is_reported_and_energy_is_missing(monkeypatch) -> None:
    def absent():
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(energy, "_handle", absent)
    monkeypatch.setattr(energy.torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    with energy.throttling("cuda") as reasons:
        assert reasons == set()
    assert energy.sharing("cuda") is None
    assert "Not Found" in energy.measure(lambda: None, 1, "cuda")["missing"]


def test_a_shared_board_yields_no_energy_figure(board) -> None:
    assert energy.measure(lambda: None, 1, "cuda")["perInference"] > 0
    assert energy.sharing("cuda") == 0
    for board.processes, board.mps in ((3, 0), (1, 2)):  # the latter through MPS
        answer = energy.measure(lambda: None, 1, "cuda")
        assert "other processes use the board" in answer["missing"]
        assert energy.sharing("cuda") == 2


def test_a_mig_partition_yields_no_energy_figure(board, monkeypatch) -> None:
    def unknown():
        raise pynvml.NVMLError_NotFound

    monkeypatch.setattr(energy, "_handle", unknown)
    board.name = "NVIDIA H200 MIG 1g.18gb"
    assert "MIG partition" in energy.measure(lambda: None, 1, "cuda")["missing"]


def test_a_run_survives_a_driver_that_cannot_count_processes(monkeypatch) -> None:
    def missing(name):
        raise pynvml.NVMLError_FunctionNotFound

    monkeypatch.setattr(energy, "_handle", lambda: "board")
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", missing)
    assert energy.sharing("cuda") is None
