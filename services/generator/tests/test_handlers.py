import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import yaml

from common.contracts.generation import GenerateOptions, GenerateRequest
from generator.handlers import Handlers
from hub.testing import RunningHub

NAMES = [
    "Dockerfile",
    "README.md",
    "lilypad_module.json.tmpl",
    "module.yaml",
    "requirements.txt",
    "run_inference.py",
]
REQUEST = GenerateRequest(model_url="lilypad/tiny-text-classification")


async def test_a_module_has_six_files_a_validation_and_model_facts(handlers: Handlers) -> None:
    module = await handlers.generate(REQUEST)
    assert sorted(module.files) == NAMES
    assert (module.validation.status, module.validation.errors) == ("passed", [])
    assert {*NAMES, "hub", "license", "memory"} <= {c.name for c in module.validation.checks}
    assert module.model.id == "lilypad/tiny-text-classification"
    assert len(module.model.commit) == 40
    assert module.model.license == "apache-2.0"
    assert module.model.weight_bytes > 4 * (module.model.parameters or 0) > 0


async def test_the_manifest_pins_every_file_that_is_fetched(handlers: Handlers) -> None:
    module = await handlers.generate(REQUEST)
    manifest = yaml.safe_load(module.files["module.yaml"])
    assert manifest["model"]["commit"] == module.model.commit
    for file in manifest["model"]["files"]:
        assert len(file.get("sha256", "")) == 64 or len(file.get("blob", "")) == 40
    assert [f["path"] for f in manifest["model"]["files"] if "sha256" in f] == ["model.safetensors"]


async def test_a_package_is_a_zip_of_the_same_files(handlers: Handlers) -> None:
    module, package = await handlers.generate(REQUEST), await handlers.package(REQUEST)
    commit = module.model.commit[:12]
    assert package.filename == f"lilypad-tiny-text-classification-{commit}.zip"
    assert package.sha256 == hashlib.sha256(package.content).hexdigest()
    with zipfile.ZipFile(io.BytesIO(package.content)) as archive:
        assert archive.testzip() is None
        read = {n.filename: archive.read(n).decode() for n in archive.infolist()}
    folder = "lilypad-tiny-text-classification/"
    assert read == {folder + name: module.files[name] for name in NAMES}


PROGRAM = """
import asyncio, sys
from common.contracts.generation import GenerateRequest
from generator.handlers import Handlers
from generator.hub import Hub
from generator.settings import Settings

async def main():
    handlers = Handlers(Hub(sys.argv[1]), Settings())
    print((await handlers.package(GenerateRequest(model_url=sys.argv[2]))).sha256)

asyncio.run(main())
"""


async def test_a_package_has_the_same_bytes_in_every_process(
    handlers: Handlers, hub: RunningHub
) -> None:
    here = (await handlers.package(REQUEST)).sha256
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, hub.url, REQUEST.model_url],
        env={**os.environ, "PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == here, done.stderr


async def test_other_options_yield_another_package(handlers: Handlers) -> None:
    options = GenerateOptions(batch_size=2)
    other = GenerateRequest(model_url=REQUEST.model_url, options=options)
    first, second = await handlers.package(REQUEST), await handlers.package(other)
    assert first.sha256 != second.sha256


async def test_the_dockerfile_passes_a_linter(handlers: Handlers) -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert hadolint
    for level in ("none", "full"):
        request = GenerateRequest(
            model_url=REQUEST.model_url,
            options=GenerateOptions.model_validate({"optimizationLevel": level}),
        )
        module = await handlers.generate(request)
        done = subprocess.run(
            [hadolint, "--format", "json", "-"],
            input=module.files["Dockerfile"],
            capture_output=True,
            text=True,
        )
        assert json.loads(done.stdout) == []


async def test_requirements_pin_the_versions_in_constraints_txt(handlers: Handlers) -> None:
    constraints = Path(__file__).parents[3] / "constraints.txt"
    pinned = {line.strip().lower() for line in constraints.read_text().splitlines()}
    for model in ("lilypad/tiny-text-generation", "lilypad/tiny-image-classification"):
        module = await handlers.generate(GenerateRequest(model_url=model))
        for line in module.files["requirements.txt"].splitlines():
            assert line.lower() in pinned


async def test_a_cached_module_costs_no_hub_request_and_under_10_ms(
    handlers: Handlers, hub: RunningHub
) -> None:
    await handlers.generate(REQUEST)
    hub.forget()
    started = time.process_time()
    for _ in range(100):
        await handlers.generate(REQUEST)
    assert hub.requests == []
    assert (time.process_time() - started) / 100 < 0.01


@pytest.mark.parametrize("name", NAMES)
async def test_files_end_with_a_newline_and_have_unix_line_endings(
    handlers: Handlers, name: str
) -> None:
    text = (await handlers.generate(REQUEST)).files[name]
    assert text.endswith("\n")
    assert "\r" not in text
