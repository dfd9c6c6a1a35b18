"""A generated module, built and run in a folder by its Dockerfile, without Docker."""

import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import which
from typing import Any
from unittest import mock

import huggingface_hub
import yaml

from common.contracts.generation import GenerateOptions, GenerateRequest
from generator import dockerfile, gotemplate
from generator.handlers import Handlers
from generator.hub import Hub
from generator.settings import Settings
from hub import vision
from hub.testing import RunningHub

DRIVER = Path(__file__).with_name("driver.py")


@dataclass
class Built:
    """A built image as a folder: `app` stands for the Dockerfile's `/app`."""

    app: Path
    files: dict[str, str]
    environment: dict[str, str]
    entrypoint: list[str]

    def variables(
        self, inputs: dict[str, str] | None = None, request: Any = None
    ) -> dict[str, str]:
        """Return the container's environment variables that the network sets for these inputs."""
        inputs = dict(inputs or {})
        if request is not None:
            inputs["request"] = base64.b64encode(json.dumps(request).encode()).decode()
        job = json.loads(gotemplate.render(self.files["lilypad_module.json.tmpl"], inputs))
        docker = job["job"]["Spec"]["Docker"]
        assert docker["Entrypoint"] == self.entrypoint
        return dict(pair.split("=", 1) for pair in docker["EnvironmentVariables"])

    def run(self, inputs: dict[str, str] | None = None, request: Any = None) -> tuple[int, Any]:
        """Run the module as the network does; return exit code and result."""
        variables = self.variables(inputs, request)
        outputs = self.app.parent / "outputs"
        shutil.rmtree(outputs, ignore_errors=True)
        outputs.mkdir(mode=0o755)  # owned by the current user; on the network, by root
        done = execute(
            self.entrypoint, self.app, {**self.environment, **variables, "OUTPUT_DIR": str(outputs)}
        )
        self.output = done.stdout
        assert [path.name for path in outputs.iterdir()] == ["result.json"], done.stderr
        return done.returncode, json.loads((outputs / "result.json").read_text())

    def run_here(
        self, request: Any = None, inputs: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Run the module in this process, which has loaded the libraries."""
        names = self.script()
        names["OUTPUT_DIR"] = self.app.parent / "outputs"
        variables = self.variables(inputs, request)
        with mock.patch.dict(os.environ, variables), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not errors, as in a separate process
            code = names["run"](self.manifest, names["load"], names["answer"])
        return code, json.loads((names["OUTPUT_DIR"] / "result.json").read_text())

    def fetch_here(self, hub: str) -> None:
        """Fetch the weights as the Dockerfile does, in this process."""
        download = partial(huggingface_hub.hf_hub_download, endpoint=hub)
        with (
            mock.patch.dict(os.environ),
            mock.patch.object(huggingface_hub, "hf_hub_download", download),
        ):
            self.script()["fetch"](self.manifest)

    def script(self) -> dict[str, Any]:
        """Execute the module's script; return the names that it defines."""
        path = self.app / "run_inference.py"
        names: dict[str, Any] = {"__name__": "module", "__file__": str(path)}
        exec(compile(self.files[path.name], path.name, "exec"), names)
        return names

    @property
    def manifest(self) -> Any:
        return yaml.safe_load(self.files["module.yaml"])


def build(  # noqa: C901  (one case per instruction)
    files: dict[str, str], folder: Path, *, fetched: bool = True, **build_arguments: str
) -> Built:
    """Carry out the Dockerfile's instructions; all packages are already installed.

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
                name, setting, default = assignment.partition("=")
                if setting:
                    environment.setdefault(name, default)
            case "ENV", (assignment,):
                name, _, value = assignment.partition("=")
                environment[name] = value
            case "RUN", (_, "-m", "pip", "install", *_) if "torchvision==" in pins:
                environment |= vision.environment()
            case "RUN", (_, "-m", "pip", *_):
                pass
            case "RUN", (*_, "fetch" | "convert") if not fetched:
                pass
            case "RUN", (*_, "convert") as command:
                assert instruction.flags == ("--network=none",)
                done = execute(list(command), app, environment)
                assert done.returncode == 0, done.stderr
            case "COPY", ("/app/model/", "/app/model/"):
                assert instruction.flags == ("--from=conversion",)
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


def builder(handlers: Handlers, hub: RunningHub, folder: Path) -> Callable[..., Any]:
    """Return a function that generates a model's module, builds it and fetches its weights."""

    async def make(model: str, **options: Any) -> Built:
        request = GenerateRequest(model_url=model, options=GenerateOptions(**options))
        generated = await handlers.generate(request)
        module = build(generated.files, folder / model.replace("/", "-"), fetched=False)
        module.fetch_here(hub.url)
        return module

    return make


def build_modules(
    hub: RunningHub, folder: Path, kind: str, names: Iterable[str]
) -> dict[str, Built]:
    """Build modules of the Hub's models of one kind, by name, without fetching their weights."""

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


def drive(command: list[str], cases: dict[str, Any], **environment: str) -> str:
    """Run a program that takes JSON on stdin, as `driver` does, and return its output."""
    done = subprocess.run(
        command,
        input=json.dumps(cases),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def without_network() -> list[str]:
    """Return a command prefix that disables the network, as `--network none` does, if permitted."""
    prefix = ["unshare", "--user", "--map-root-user", "--net"]
    for attempt in (prefix, ["unshare", "--net"]):
        if which("unshare") and not subprocess.run([*attempt, "true"]).returncode:
            return attempt
    return []


@dataclass
class Image:
    """An image built by a Docker engine, and run as the network runs it."""

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
    """Build with the Docker engine; without one, carry out the Dockerfile here."""
    engine = subprocess.run(["docker", "info"], capture_output=True) if which("docker") else None
    if engine is None or engine.returncode:
        return build(files, folder, HF_ENDPOINT=hub)
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    tag = f"lilypad-module-test:{folder.name}"
    # The test Hub listens on localhost only.
    command = ["docker", "build", "--network", "host", "--build-arg", f"HF_ENDPOINT={hub}"]
    subprocess.run([*command, "--tag", tag, folder], check=True)
    return Image(files, folder, tag)
