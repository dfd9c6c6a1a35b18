"""Builds and runs a generated module as its Dockerfile says, in a folder, without Docker."""

import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any
from unittest import mock

import yaml

from common.contracts.generation import GenerateRequest
from generator import dockerfile, gotemplate
from generator.handlers import Handlers
from generator.hub import Hub
from generator.settings import Settings
from hub import vision
from hub.testing import RunningHub


@dataclass
class Built:
    """An image, as far as it is a folder: `/app` of the Dockerfile lies at `app`."""

    app: Path
    files: dict[str, str]
    environment: dict[str, str]
    entrypoint: list[str]

    def run(self, inputs: dict[str, str] | None = None, request: Any = None) -> tuple[int, Any]:
        """What the network does: its template with the inputs, no network. Exit code, result."""
        inputs = dict(inputs or {})
        if request is not None:
            inputs["request"] = base64.b64encode(json.dumps(request).encode()).decode()
        job = json.loads(gotemplate.render(self.files["lilypad_module.json.tmpl"], inputs))
        docker = job["job"]["Spec"]["Docker"]
        assert docker["Entrypoint"] == self.entrypoint
        outputs = self.app.parent / "outputs"
        shutil.rmtree(outputs, ignore_errors=True)
        outputs.mkdir(mode=0o755)  # and of the user who runs this, as the network's are root's
        variables = dict(pair.split("=", 1) for pair in docker["EnvironmentVariables"])
        done = execute(
            self.entrypoint, self.app, {**self.environment, **variables, "OUTPUT_DIR": str(outputs)}
        )
        self.output = done.stdout
        assert [path.name for path in outputs.iterdir()] == ["result.json"], done.stderr
        return done.returncode, json.loads((outputs / "result.json").read_text())

    def run_here(self, request: Any) -> tuple[int, Any]:
        """As `run` with a request, within this process: quick, since the libraries are loaded."""
        names: dict[str, Any] = {
            "__name__": "module",
            "__file__": str(self.app / "run_inference.py"),
        }
        exec(compile(self.files["run_inference.py"], "run_inference.py", "exec"), names)
        names["OUTPUT_DIR"] = self.app.parent / "outputs"
        encoded = base64.b64encode(json.dumps(request).encode()).decode()
        with mock.patch.dict(os.environ, {"REQUEST_B64": encoded}), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in a process of its own, where none is an error
            code = names["run"](yaml.safe_load(self.files["module.yaml"]))
        return code, json.loads((names["OUTPUT_DIR"] / "result.json").read_text())


def build(  # noqa: C901  (one case per instruction)
    files: dict[str, str], folder: Path, *, fetched: bool = True, **build_arguments: str
) -> Built:
    """Carry out the Dockerfile's instructions; packages are taken as installed.

    With `fetched` False the caller fetches the weights.
    """
    context, app = folder / "context", folder / "app"
    context.mkdir(parents=True)
    for name, text in files.items():
        (context / name).write_text(text, encoding="utf-8")
    environment = dict(build_arguments)
    entrypoint: list[str] = []
    pins = files["requirements.txt"]
    for instruction in dockerfile.parse(files["Dockerfile"]):
        match instruction.name, instruction.arguments:
            case "WORKDIR", ("/app",):
                app.mkdir()
            case "COPY", (*sources, "/app/"):
                for source in sources:
                    shutil.copy(context / source, app)
            case "ARG", (assignment,):
                name, given, default = assignment.partition("=")
                if given:
                    environment.setdefault(name, default)
            case "ENV", (assignment,):
                name, _, value = assignment.partition("=")
                environment[name] = value
            case "RUN", (_, "-m", "pip", "install", *_) if "torchvision==" in pins:
                environment |= vision.environment()
            case "RUN", (_, "-m", "pip", *_):
                pass
            case "RUN", (*_, "fetch") if not fetched:
                pass
            case "RUN", command:
                done = execute(list(command), app, environment, network=True)
                assert done.returncode == 0, done.stderr
            case "ENTRYPOINT", command:
                entrypoint = list(command)
            case "FROM", _:
                pass
            case other:
                raise AssertionError(f"nothing here carries out {other}")
    return Built(app, files, environment, entrypoint)


def made(hub: RunningHub, folder: Path, kind: str, names: Iterable[str]) -> dict[str, Built]:
    """By name, modules of the Hub's models of one kind; their weights are yet to be fetched."""

    async def make() -> dict[str, Built]:
        client = Hub(hub.url)
        handlers = Handlers(client, Settings(hf_endpoint=hub.url))
        modules = {}
        try:
            for name in names:
                request = GenerateRequest(model_url=f"lilypad/{kind}-{name}")
                module = await handlers.generate(request)
                modules[name] = build(module.files, folder / name, fetched=False)
        finally:
            await client.close()
        return modules

    hub.heal()
    return asyncio.run(make())


def execute(
    command: list[str], app: Path, environment: dict[str, str], *, network: bool = False
) -> subprocess.CompletedProcess[str]:
    assert command[0] == "python"
    command = [sys.executable, *(part.replace("/app", str(app)) for part in command[1:])]
    if not network:
        command = [*without_network(), *command]
    kept = {
        name: os.environ[name] for name in ("PATH", "LANG", "OMP_NUM_THREADS") if name in os.environ
    }
    return subprocess.run(
        command,
        cwd=app,
        env={**kept, "HOME": str(app), **environment},
        capture_output=True,
        text=True,
    )


def without_network() -> list[str]:
    """A prefix that takes the network away, as `--network none` does, where that is permitted."""
    prefix = ["unshare", "--user", "--map-root-user", "--net"]
    for attempt in (prefix, ["unshare", "--net"]):
        if which("unshare") and not subprocess.run([*attempt, "true"]).returncode:
            return attempt
    return []


@dataclass
class Image:
    """What a Docker engine builds of the files, run as the network runs it."""

    files: dict[str, str]
    folder: Path
    tag: str

    def run(self, inputs: dict[str, str]) -> tuple[int, Any]:
        job = json.loads(gotemplate.render(self.files["lilypad_module.json.tmpl"], inputs))
        spec = job["job"]["Spec"]
        outputs = self.folder / "outputs"
        outputs.mkdir(mode=0o755)
        arguments = ["--rm", "--network", "none", "--volume", f"{outputs}:/outputs"]
        arguments += ["--memory", spec["Resources"]["Memory"].replace("MiB", "m")]
        for variable in spec["Docker"]["EnvironmentVariables"]:
            arguments += ["--env", variable]
        done = subprocess.run(
            ["docker", "run", *arguments, self.tag], capture_output=True, text=True
        )
        return done.returncode, json.loads((outputs / "result.json").read_text())


def build_image(files: dict[str, str], folder: Path, hub: str) -> Image | Built:
    """By the Docker engine where there is one, else by carrying out the Dockerfile here."""
    found = subprocess.run(["docker", "info"], capture_output=True) if which("docker") else None
    if found is None or found.returncode:
        return build(files, folder, HF_ENDPOINT=hub)
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    tag = f"lilypad-module-test:{folder.name}"
    # The Hub of the tests listens on this machine alone.
    command = ["docker", "build", "--network", "host", "--build-arg", f"HF_ENDPOINT={hub}"]
    subprocess.run([*command, "--tag", tag, folder], check=True)
    return Image(files, folder, tag)
