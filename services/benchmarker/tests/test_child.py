"""The two processes of a run, called directly."""

import asyncio
import os
import signal
import subprocess
import sys
import weakref
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from huggingface_hub import HfApi
from trial_attempt import MEMORY_SHARE, SANDBOX

from benchmarker.worker import child as child_process
from benchmarker.worker.child import Child, OutOfMemory, started
from benchmarker.worker.confinement import confined
from benchmarker.worker.measure import Bench, explain
from benchmarker.worker.process import Failed
from hub.testing import RunningHub

FETCH = "benchmarker.worker.fetch"


async def fetched(hub: RunningHub, models, model: str) -> str:
    commit = HfApi(endpoint=hub.url).model_info(model).sha
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(models)}
    async with started(FETCH, environment) as child:
        return (await child.request(id=model, commit=commit))["folder"]


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
        "maxMemoryMib": None,
        "memoryShare": 0.9,
        "givesBack": False,
    }
    return await child.request(do="load", **question | fields)


@pytest.fixture(scope="module")
def modules_path() -> Iterator[None]:
    """Make the modules in this folder importable by children, with one thread each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
async def measuring(models, modules_path) -> AsyncIterator[Child]:
    models.chmod(0o755)
    with confined(SANDBOX, str(models), MEMORY_SHARE) as confinement:
        async with started("watched_measure", None, confinement) as child:
            yield child


@pytest.fixture
async def child(measuring) -> Child:
    """Start a new process in the sandbox that these tests share."""
    assert await measuring.renew()
    return measuring


async def test_operations_do_not_depend_on_the_attention_implementation(hub, models, child) -> None:
    folder = await fetched(hub, models, "lilypad/tiny-feature-extraction")
    counted = []
    for attention in ("sdpa", "eager"):
        setup = await load(child, folder, "feature-extraction", attention=attention)
        counted.append(setup["operations"])
        assert setup["missing"] == {}
    assert counted[0] == counted[1]


@pytest.mark.long
async def test_dtype_attention_and_compilation_are_as_requested(hub, models, child) -> None:
    folder = await fetched(hub, models, "lilypad/tiny-feature-extraction")
    options = {"dtype": "bfloat16", "attention": "eager"}
    setup = await load(child, folder, "feature-extraction", compile=True, **options)
    assert options.items() <= setup.items()
    assert setup["operations"] > 0
    # Asserts what actually ran; the flag alone states only the request.
    assert setup["compiled"]
    assert (await child.request(do="block", round=0, batchSize=1, calls=1, warmup=0))["compiled"]


@pytest.mark.parametrize("task", ["image-segmentation", "audio-classification"])
async def test_random_images_and_sounds_have_the_shapes_of_the_models_processor(
    hub, models, child, task
) -> None:
    setup = await load(child, await fetched(hub, models, f"lilypad/tiny-{task}"), task)
    assert (setup["tokens"], setup["newTokens"]) == (None, None)
    block = await child.request(do="block", round=0, batchSize=2, calls=3, warmup=0)
    assert all(nanoseconds > 0 for nanoseconds in block["wall"])


async def test_an_encoders_weights_are_read_once_and_its_decoders_for_every_token(
    hub, models, child
) -> None:
    folder = await fetched(hub, models, "lilypad/tiny-summarization")
    read = []
    for tokens in (2, 4):
        setup = await load(child, folder, "summarization", newTokens=tokens)
        read.append(setup["bytesPerCall"])
        assert 0 < setup["bytesPerSample"] < setup["bytesPerCall"]
    block = await child.request(do="block", round=0, batchSize=2, calls=3, warmup=1)
    assert [len(steps) for steps in block["steps"]] == [4] * 3
    assert block["device"] is None  # a CPU has no clock of its own
    decoder = (read[1] - read[0]) / 2
    assert 0 < read[0] - 2 * decoder < 2**20 * setup["weights"]


async def test_memory_grows_with_the_batch_and_is_reset_before_each_probe(
    hub, models, child
) -> None:
    task = "feature-extraction"
    folder = await fetched(hub, models, f"lilypad/tiny-{task}")
    setup = await load(child, folder, task, maxMemoryMib=400.0, givesBack=True)
    descendants = psutil.Process(child.process.pid).children(recursive=True)
    importing = next(each for each in descendants if each.name().startswith("python"))
    assert importing.num_threads() == 1  # other threads would be missing in the fork
    # The libraries count as if the process had imported them itself.
    assert setup["base"] > importing.memory_info().rss / 2**20
    large = (await child.request(do="probe", batchSize=512))["peakRss"]
    small = (await child.request(do="probe", batchSize=1))["peakRss"]
    assert large - small > 512 * 128 * 64 * 4 / 2**20  # its hidden states, in MiB
    with pytest.raises(OutOfMemory):
        await child.request(do="probe", batchSize=4096)
    # The process is alive, and its memory is free again.
    again = (await child.request(do="probe", batchSize=1))["peakRss"]
    assert again < 1.5 * small


def test_reference_cycles_of_a_size_are_collected_before_the_next_probe() -> None:
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
def test_out_of_memory_is_recognised_from_any_library(words) -> None:
    assert "outOfMemory" in explain(RuntimeError(words))


def test_errors_other_than_out_of_memory_are_failures_of_the_model() -> None:
    for words in ("out of resource: shared memory, Required: 270336", "index out of range in self"):
        assert explain(RuntimeError(words))["reason"] == "model"


async def test_a_killed_child_counts_as_out_of_memory_and_a_crashed_child_does_not() -> None:
    async with started(FETCH) as child:
        os.kill(child.process.pid, signal.SIGKILL)
        with pytest.raises(OutOfMemory):
            await child.request(id="a", commit="b")
    async with started(FETCH) as child:
        os.kill(child.process.pid, signal.SIGSEGV)
        with pytest.raises(Failed, match="SIGSEGV"):
            await child.request(id="a", commit="b")


async def test_a_forked_process_inherits_nothing_and_its_end_is_explained(modules_path) -> None:
    async with started("forked_answers") as child:
        first = await child.request(leave=True)
        assert await child.renew()
        assert not psutil.pid_exists(first["left"])
        for how, failure, words in (
            ({"signal": signal.SIGKILL}, OutOfMemory, "killed"),
            ({"signal": signal.SIGSEGV}, Failed, "SIGSEGV"),
            ({"exit": 0}, Failed, "exit code 0"),
            ({"print": "[]", "exit": 0}, Failed, "no JSON object"),
            ({"print": "[" * 100_000, "exit": 0}, Failed, "no JSON object"),
        ):
            with pytest.raises(failure, match=words):
                await child.request(**how)
            assert await child.renew()
        # A process that ends between two questions is detected before the next one.
        process = psutil.Process((await child.request())["process"])
        process.kill()
        while process.is_running():
            await asyncio.sleep(0.01)
        assert await child.renew()
        last = await child.request()
        assert last["importedBy"] == first["importedBy"] == child.process.pid
        assert last["process"] not in (first["process"], process.pid)


async def test_forked_processes_end_with_their_parent(modules_path) -> None:
    async with started("forked_answers") as child:
        process = psutil.Process((await child.request())["process"])
        child.process.kill()
        process.wait()
        with pytest.raises(OutOfMemory):
            await child.request()
        assert not await child.renew()


async def test_a_childs_output_is_logged_within_bounds_as_the_workers_own_lines(
    modules_path, monkeypatch, capfd
) -> None:
    logged: list[str] = []
    log = SimpleNamespace(
        info=lambda _, module, line: logged.append(line),
        warning=lambda event, **_: logged.append(event),
    )
    monkeypatch.setattr(child_process, "log", log)
    monkeypatch.setattr(child_process, "LAST_WORDS_S", 60.0)
    forged = '{"service": "gateway", "event": "forged"}'
    async with started("forked_answers") as child:
        await child.request(complaint=f"{'x' * 10**6}\n{forged}\n")
        await child.request(complaint=f"{forged}\n" * 1_000)
    assert logged == [
        "x" * child_process.MAX_LOGGED_CHARACTERS,
        *[forged] * (child_process.MAX_LOGGED_LINES - 1),
        "further lines of the child are dropped",
    ]
    assert capfd.readouterr().err == ""
    logged.clear()
    async with started("forked_answers") as child:
        await child.request(complaint="out of memory")
    assert logged == ["out of memory"], "the last line may lack a newline"


def test_the_supervisor_may_be_process_1_of_its_container(modules_path) -> None:
    program = """
import asyncio, os
from benchmarker.worker.child import started

async def main():
    async with started("forked_answers") as child:
        print(os.getpid(), sorted(await child.request()))

asyncio.run(main())
"""
    container = [
        "--bind",
        "/",
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
        "--unshare-pid",
        "--as-pid-1",
    ]
    command = ["bwrap", *container, "--unshare-pid", "--as-pid-1", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "1 ['importedBy', 'left', 'process']\n", done.stderr


async def test_a_pickle_is_fetched_only_if_the_module_converts_it(hub, models) -> None:
    model = "lilypad/tiny-pickle"
    commit = HfApi(endpoint=hub.url).model_info(model).sha
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(models)}
    async with started(FETCH, environment) as child:
        siblings = HfApi(endpoint=hub.url).model_info(model, files_metadata=True).siblings
        named = [
            {"path": file.rfilename, "size": file.size, "blob": file.blob_id}
            for file in siblings
            if file.rfilename in {"config.json", "pytorch_model.bin"}
        ]
        for more in ({}, {"files": named}):
            folder = Path((await child.request(id=model, commit=commit, **more))["folder"])
            assert (folder / "config.json").is_file()
            assert not list(folder.rglob("*.bin"))
        [pickled] = [file for file in siblings if file.rfilename == "pytorch_model.bin"]
        file = {"path": pickled.rfilename, "size": pickled.size, "sha256": pickled.lfs.sha256}
        named = [{**file, "becomes": "model.safetensors"}]
        folder = Path((await child.request(id=model, commit=commit, files=named))["folder"])
        assert len(list(folder.rglob("*.bin"))) == 1


async def test_only_a_commit_is_fetched_and_secrets_stay_in_the_worker(monkeypatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    device = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"}
    for name, value in device.items():
        monkeypatch.setenv(name, value)
    async with started(FETCH) as child:
        # Linux shows none for a moment after the program was started.
        while not (environment := psutil.Process(child.process.pid).environ()):
            await asyncio.sleep(0.01)
        assert not any("secret" in value for value in environment.values())
        assert device.items() <= environment.items()  # it has the device that this process has
        with pytest.raises(Failed, match="40 hexadecimal"):
            await child.request(id="lilypad/tiny", commit="main")


async def test_a_child_dies_with_its_supervisor_even_while_it_starts(tmp_path, monkeypatch) -> None:
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
