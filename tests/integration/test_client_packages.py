"""The published clients: wheel and tarball, installed into clean environments."""

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from integration import packages
from integration.caller import Account
from integration.pages import NODE, ROOT, World, programs
from local.stack import Stack

pytestmark = pytest.mark.long


def test_the_wheel_contains_only_the_client() -> None:
    with zipfile.ZipFile(packages.wheel()) as archive:
        names = archive.namelist()
        metadata = next(name for name in names if name.endswith("/METADATA"))
        described = archive.read(metadata).decode()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lilypad_client"}
    assert "lilypad_client/py.typed" in names
    assert "lilypad_client/cli/schemas.json" in names
    assert not [name for name in names if "test" in name]
    assert "License-File: LICENSE" in described
    # The page on the registry: the README, then the changelog.
    assert described.index("# lilypad-client") < described.index("# Changelog")


def test_the_tarball_contains_only_the_build() -> None:
    with tarfile.open(packages.tarball()) as archive:
        names = {name.removeprefix("package/") for name in archive.getnames()}
    entries = {name for name in names if not name.startswith("dist/")}
    assert entries == {"package.json", "README.md", "CHANGELOG.md", "LICENSE"}
    manifest = json.loads((packages.javascript() / "package.json").read_text())
    assert "dependencies" not in manifest


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
@pytest.mark.parametrize("client", ["python", "javascript"])
def test_a_packages_readme_has_only_absolute_links(client: str, page: str) -> None:
    text = (packages.CLIENTS / client / page).read_text()
    assert not re.findall(r"\]\((?!https?:)|^\[\w+\]: (?!https?:)", text, re.MULTILINE)


def test_the_wheel_can_be_published() -> None:
    output = packages.run(
        sys.executable, "-m", "twine", "check", "--strict", packages.wheel(), folder=ROOT
    )
    assert "PASSED" in output


@pytest.mark.parametrize("tool", ["publint", "attw"])
def test_the_tarball_resolves_for_every_module_system(tool: str) -> None:
    scripts = {"publint": "publint/src/cli.js", "attw": "@arethetypeswrong/cli/dist/index.js"}
    # A resolver from before `exports` finds the entry point and nothing below.
    options = {"publint": ["--strict"], "attw": ["--profile", "node16"]}
    script = packages.SOURCE / "node_modules" / scripts[tool]
    packages.run(NODE, script, packages.tarball(), *options[tool], folder=packages.workshop())


# They wait for a real measurement.
@pytest.mark.timeout(900)
def test_a_person_with_only_the_wheel_gets_to_a_benchmark(
    stack: Stack, account: Account, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    packages.run(sys.executable, "-m", "venv", "--without-pip", environment, folder=tmp_path)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-compile", "-q"]
    install += ["--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
    packages.run(*install, f"{packages.wheel()}[cli]", folder=tmp_path)
    world = World(stack.url, account, tmp_path)
    world.environment["PATH"] = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    world.environment["PYTHONPATH"] = ""
    [program] = programs(packages.CLIENTS / "python" / "README.md")
    assert len([line for line in program.lines.splitlines() if line]) <= 10
    world.run(program, python=str(python))
    done = subprocess.run(
        ["lilypad", "runs", "--limit", "1"],
        env=world.environment,
        cwd=world.folder,
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout)["runs"][0]["state"] == "succeeded", done.stderr


@pytest.mark.timeout(900)
def test_a_person_with_only_the_tarball_gets_to_a_benchmark(
    stack: Stack, account: Account, tmp_path: Path
) -> None:
    world = World(stack.url, account, tmp_path)
    folder = world.folder
    (folder / "package.json").write_text('{"private": true}')
    npm = [NODE, packages.NPM, "install", "--offline", "--no-audit", "--no-fund", "--silent"]
    packages.run(*npm, packages.tarball(), folder=folder)
    [program] = programs(packages.CLIENTS / "javascript" / "README.md")
    assert len([line for line in program.lines.splitlines() if line]) <= 10
    world.run(program)
    required = "console.log(typeof require('lilypad-client').LilypadClient)"
    assert packages.run(NODE, "-e", required, folder=folder).strip() == "function"
