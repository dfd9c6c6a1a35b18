"""Modules whose resources are measured rather than estimated."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.contracts.benchmarking import PROFILE, Profile, ProfileRequest
from common.contracts.generation import GenerateOptions, GenerateRequest, Module
from common.errors import Unavailable
from common.testing import MemoryBus
from generator.handlers import Handlers
from generator.measured import Measurements

sys.path.insert(0, str(Path(__file__).parent))
from fake_hub import handlers

RUN = "bench_" + "0" * 24
MEASURED = {
    "run_id": RUN,
    "device": "cpu",
    "machine": "Some <b>CPU</b> @ 2.00GHz",
    "dtype": "float32",
    "attention": "sdpa",
    "tokens": 512,  # the module's own limit
    "batch_size": 24,
    "peak_memory": 1240.0,
    "base_memory": 1000.0,
    "memory_per_sample": 10.0,
    "measured_at": datetime(2026, 11, 23, 12, tzinfo=UTC),
}


def measured(**fields: Any) -> Handlers:
    """Return handlers whose caller has measured the model on the requested device and dtype."""
    bus = MemoryBus()

    async def profile(request: ProfileRequest) -> Profile:
        known = Profile(**MEASURED | fields)
        asked_for = (known.device, known.dtype) == (request.device, request.dtype)
        return known if asked_for else Profile()

    bus.answer(PROFILE, profile)
    handlers_with_profile = handlers()
    handlers_with_profile.measurements = Measurements(bus)
    return handlers_with_profile


async def generate(handlers: Handlers, **options: Any) -> Module:
    request = GenerateRequest(model_url="acme/frog", options=GenerateOptions(**options))
    return await handlers.generate(request)


def needs(module: Module) -> dict[str, Any]:
    read = yaml.safe_load(module.files["module.yaml"])
    return {**read["resources"], "batchSize": read["run"]["batchSize"]}


async def test_memory_and_batch_size_come_from_the_measurement() -> None:
    module = await generate(measured())
    resources = needs(module)
    assert resources["batchSize"] == 24
    assert resources["memoryMiB"] == 1536  # 1.2 x (1000 + 24 x 10) in steps of 256
    assert (module.model.vram_source, resources["vramSource"]) == ("measured", "measured")
    assert resources["measured"]["run"] == module.model.measured.run == RUN
    assert resources["measured"]["peakMiB"] == 1240.0
    assert RUN in module.files["README.md"]
    assert "2026-11-23" in module.files["README.md"]
    assert "<b>" not in str(module.files)
    assert RUN in module.model.measurement
    # It is a fact: no outcome of it would be a failure.
    assert "measurement" not in {check.name for check in module.validation.checks}
    assert module.validation.status == "passed"


async def test_a_gpu_measurement_sets_the_gpu_memory() -> None:
    module = await generate(measured(device="cuda", dtype="float16"), gpu=True)
    resources = needs(module)
    assert resources["vramMiB"] == 1536 + 640  # plus the CUDA context
    assert (resources["gpu"], resources["vramSource"]) == (1, "measured")


async def test_another_measurement_changes_the_files() -> None:
    once, again = await generate(measured()), await generate(measured())
    assert once.files == again.files
    assert (await generate(measured(batch_size=8))).files != once.files


async def test_the_callers_options_take_precedence_over_the_measurement() -> None:
    module = await generate(measured(), batch_size=48, memory="8Gi")
    resources = needs(module)
    assert (resources["batchSize"], resources["memoryMiB"]) == (48, 8192)
    # On the line through the measured peaks; too little memory causes a warning.
    assert needs(await generate(measured(), batch_size=100))["memoryMiB"] == 2560
    little = await generate(measured(), memory="1Gi")
    assert little.validation.status == "warnings"
    assert "1,536 MiB" in little.validation.errors[0]


async def test_memory_grows_in_proportion_for_inputs_longer_than_measured() -> None:
    assert needs(await generate(measured(tokens=128)))["memoryMiB"] == 2560  # 1000 + 24 x 40
    eager = await generate(measured(tokens=256, attention="eager"))
    assert needs(eager)["memoryMiB"] == 2560  # the square of twice the length


async def test_a_batch_too_large_for_any_machine_is_reduced() -> None:
    generator = measured(memory_per_sample=30_000.0)
    assert needs(await generate(generator))["batchSize"] == 7  # of 262,144 MiB
    generator = measured(memory_per_sample=300_000.0)
    assert needs(await generate(generator))["vramSource"] == "headers"


@pytest.mark.parametrize("fields", [{"run_id": None}, {"device": "cuda"}, {"dtype": "bfloat16"}])
async def test_the_estimate_is_used_without_a_matching_measurement(fields) -> None:
    module = await generate(measured(**fields))
    estimate = await generate(handlers())
    assert module.files == estimate.files
    assert module.model.vram_source == "headers"
    assert "estimates" in module.model.measurement


async def test_an_unavailable_benchmarker_is_named_in_the_answer_and_changes_no_file() -> None:
    generator = handlers()
    generator.measurements = Measurements(MemoryBus())
    module = await generate(generator)
    assert module.files == (await generate(handlers())).files
    assert "unavailable" in module.model.measurement


async def test_a_benchmarker_that_timed_out_is_called_again_only_after_a_pause() -> None:
    bus, requests = MemoryBus(), []

    async def hang(request: ProfileRequest) -> Profile:
        requests.append(request)
        raise Unavailable("it did not answer")

    bus.answer(PROFILE, hang)
    generator = handlers()
    generator.measurements = Measurements(bus)
    for _ in range(3):
        assert (await generate(generator)).model.vram_source == "headers"
    assert len(requests) == 1
