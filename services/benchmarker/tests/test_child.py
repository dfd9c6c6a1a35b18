"""The two processes of a run, asked directly."""

import asyncio
import os
import signal
import sys
import weakref
from asyncio.subprocess import PIPE
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from huggingface_hub import HfApi

from benchmarker.worker.child import Child, Failed, OutOfMemory, started
from benchmarker.worker.measure import Bench, explain
from hub.testing import RunningHub

FETCH, MEASURE = "benchmarker.worker.fetch", "benchmarker.worker.measure"


async def fetched(hub: RunningHub, models, model: str) -> str:
    commit = HfApi(endpoint=hub.url).model_info(model).sha
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(models)}
    async with started(FETCH, environment) as child:
        return (await child.ask(id=model, commit=commit))["folder"]


async def load(child: Child, folder: str, task: str, **fields):
    question = {
        "folder": folder,
        "task": task,
        "library": "transformers",
        "device": "cpu",
        "dtype": "float32",
        "attention": None,
        "compile": False,
        "inputTokens": None,
        "newTokens": 4,
        "steps": 2,
        "seed": 0,
        "mostMemory": None,
        "memoryShare": 0.9,
    }
    return await child.ask(do="load", **question | fields)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


async def test_operations_do_not_depend_on_how_attention_is_written(hub, models) -> None:
    folder = await fetched(hub, models, "lilypad/tiny-feature-extraction")
    counted = []
    async with started(MEASURE) as child:
        for attention in ("sdpa", "eager"):
            setup = await load(child, folder, "feature-extraction", attention=attention)
            counted.append(setup["operations"])
            assert setup["missing"] == {}
    assert counted[0] == counted[1]


async def test_an_encoder_is_read_once_and_its_decoder_for_every_token(hub, models) -> None:
    folder = await fetched(hub, models, "lilypad/tiny-summarization")
    read = []
    async with started(MEASURE) as child:
        for tokens in (2, 4):
            setup = await load(child, folder, "summarization", newTokens=tokens)
            read.append(setup["bytesPerCall"])
            assert 0 < setup["bytesPerSample"] < setup["bytesPerCall"]
        block = await child.ask(do="block", round=0, batchSize=2, calls=3, warmup=1)
    assert [len(steps) for steps in block["steps"]] == [4] * 3
    assert block["device"] is None  # a CPU has no other clock
    decoder = (read[1] - read[0]) / 2
    assert 0 < read[0] - 2 * decoder < 2**20 * setup["weights"]


async def test_memory_grows_with_the_batch_until_it_runs_out_and_each_starts_clean(
    hub, models
) -> None:
    task = "feature-extraction"
    folder = await fetched(hub, models, f"lilypad/tiny-{task}")
    async with started(MEASURE) as child:
        await load(child, folder, task, mostMemory=400.0)
        large = (await child.ask(do="probe", batchSize=512))["peakRss"]
        small = (await child.ask(do="probe", batchSize=1))["peakRss"]
        assert large - small > 512 * 128 * 64 * 4 / 2**20  # its hidden states, in MiB
        with pytest.raises(OutOfMemory):
            await child.ask(do="probe", batchSize=4096)
        # The process is alive; what it had is free again.
        again = (await child.ask(do="probe", batchSize=1))["peakRss"]
        assert again < 1.5 * small


def test_what_a_size_leaves_in_reference_cycles_is_gone_before_the_next_is_probed() -> None:
    left, clean = [], []

    class Activations:
        def __init__(self) -> None:
            self.cycle = self
            left.append(weakref.ref(self))

    bench = Bench()
    bench.loaded = SimpleNamespace(prepare=lambda _: Activations)
    bench.memory = SimpleNamespace(
        reset=lambda: clean.append(not any(there() for there in left)), peak=dict
    )
    for size in (1, 2):
        bench.probe({"batchSize": size})
    assert clean == [True, True]


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory. Tried to allocate 20.00 GiB.",
        "CUDA error: out of memory\nCUDA kernel errors might be reported later.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 8589934592 bytes.",
        "std::bad_alloc",
        "[Errno 12] Cannot allocate memory",
    ],
)
def test_memory_that_runs_out_is_recognised_whoever_says_it(words) -> None:
    assert "outOfMemory" in explain(RuntimeError(words))


def test_other_failures_are_the_models() -> None:
    for words in ("out of resource: shared memory, Required: 270336", "index out of range in self"):
        assert explain(RuntimeError(words))["reason"] == "model"


async def test_a_child_that_is_killed_ran_out_of_memory_and_one_that_crashed_did_not() -> None:
    async with started(FETCH) as child:
        os.kill(child.process.pid, signal.SIGKILL)
        with pytest.raises(OutOfMemory):
            await child.ask(id="a", commit="b")
    async with started(FETCH) as child:
        os.kill(child.process.pid, signal.SIGSEGV)
        with pytest.raises(Failed, match="SIGSEGV"):
            await child.ask(id="a", commit="b")


async def test_a_pickle_is_not_fetched_whoever_names_it(hub, models) -> None:
    model = "lilypad/tiny-pickle"
    commit = HfApi(endpoint=hub.url).model_info(model).sha
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(models)}
    async with started(FETCH, environment) as child:
        for more in ({}, {"files": ["config.json", "pytorch_model.bin"]}):
            folder = Path((await child.ask(id=model, commit=commit, **more))["folder"])
            assert (folder / "config.json").is_file()
            assert not list(folder.rglob("*.bin"))


async def test_only_a_commit_is_fetched_and_no_secret_is_passed_on(monkeypatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    device = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"}
    for name, value in device.items():
        monkeypatch.setenv(name, value)
    async with started(FETCH) as child:
        environment = psutil.Process(child.process.pid).environ()
        assert not any("secret" in value for value in environment.values())
        assert device.items() <= environment.items()  # it has the device that this process has
        with pytest.raises(Failed, match="40 hexadecimal"):
            await child.ask(id="lilypad/tiny", commit="main")


async def test_a_child_goes_with_its_supervisor_even_while_it_starts(tmp_path, monkeypatch) -> None:
    imported = tmp_path / "imported"
    (tmp_path / "slow_start.py").write_text(
        f"import pathlib, time\npathlib.Path({str(imported)!r}).touch()\ntime.sleep(600)"
    )
    supervise = """if True:
        import asyncio
        from benchmarker.worker.child import started

        async def main():
            async with started("slow_start") as child:
                print(child.process.pid, flush=True)
                await asyncio.sleep(600)

        asyncio.run(main())
    """
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    supervisor = await asyncio.create_subprocess_exec(sys.executable, "-c", supervise, stdout=PIPE)
    assert supervisor.stdout
    child = psutil.Process(int(await supervisor.stdout.readline()))
    while child.is_running() and not imported.exists():
        await asyncio.sleep(0.01)
    supervisor.kill()
    await supervisor.wait()
    assert child.wait(60) is None
