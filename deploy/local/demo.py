"""`python -m local.demo [--once]`: from a model's URL to a module's answer, step by step.

Everything runs on this machine: the stack, a small Hub with real models made
on the spot, and at last the module itself, with the network off.
"""

import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import plotly.graph_objects
import plotly.io
import yaml
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table

from hub.testing import HubFailed, RunningHub
from lilypad_client import LilypadClient, LilypadError, Module
from local import ports
from local.__main__ import Progress, interruptible, port_of
from local.process import CannotStart
from local.stack import Stack
from local.watch import Screen, watch

MODEL = "lilypad/tiny-text-classification"
SAMPLE = 'It\'s a small model, and it "answers", even this.'
MARKS = {"passed": "[green]✓[/]", "warning": "[yellow]![/]", "failed": "[red]✗[/]"}


class Failed(Exception):
    """A failed step of the demonstration; the message names the step and the cause."""


class Demo:
    def __init__(self, console: Console, plots: Path) -> None:
        self.console = console
        self.plots = plots
        self.steps = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show a spinner during a step, then a line with its duration."""
        self.steps += 1
        start = time.monotonic()
        with self.console.status(f"{title} ..."):
            yield
        self.console.print(
            f"[bold cyan]{self.steps}[/] {title} [dim]{time.monotonic() - start:.1f} s[/]",
            highlight=False,
        )

    def say(self, text: Any) -> None:
        self.console.print(text, highlight=False, soft_wrap=isinstance(text, str))

    def run(self, stack: Stack, folder: Path) -> None:
        """Run all steps against a running stack; raises Failed or LilypadError."""
        with self.step("register an account and make a key"):
            key = make_key(stack.url)
        self.say(f"  [dim]{key[:15]}… (shown once)[/]")
        with LilypadClient(api_key=key, base_url=stack.url) as client:
            with self.step(f"generate a module from https://huggingface.co/{MODEL}"):
                module = client.generate_module(model_url=f"https://huggingface.co/{MODEL}")
            self.say(_described(module))
            with self.step("download it as a zip and unpack it"):
                archive = client.download(MODEL, folder / "module.zip")
                laid = unpack(archive, folder / "module", module)
        self.say(f"  [dim]{archive.stat().st_size:,} bytes, the same files byte for byte[/]")
        with self.step("bake the weights in, as its Dockerfile does"):
            bake(laid, stack.environment["HF_ENDPOINT"])
        with self.step(f"run it with the network {_network_off()[1]}: {SAMPLE}"):
            result = infer(laid, SAMPLE)
        text = json.dumps(result, indent=2, ensure_ascii=False)
        self.say(Syntax(text, "json", background_color="default"))
        with httpx2.Client(base_url=stack.url, timeout=60) as http:
            http.headers["Authorization"] = f"Bearer {key}"
            with self.step("record how long that took, as a metric of the model"):
                record(http, result)
            self.say(
                f"[bold cyan]{self.steps + 1}[/] benchmark the model, watched over a socket;"
                " meanwhile record it again"
            )
            # The device that the module runs on: figures of a GPU say nothing about a CPU.
            device = "cuda" if module.model["vramMiB"] else "cpu"
            run, seen = self.benchmark(stack.url, key, http, device, lambda: record(http, result))
            self.steps += 1
            self.say(_figures(run))
            self.say("  [dim]* the optimal batch size[/]")
            for sentence in run["analysis"]["resource_recommendations"]:
                self.say(Padding(f"• {sentence}", (0, 2)))
            self.say(
                f"  [dim]{seen.progress} progress events and {seen.updates} metric updates"
                " came over the socket[/]"
            )
            with self.step("ask what is known of the model by now"):
                monitored = _post(http, "/v1/api/monitor", modelId=MODEL, days=1)
                drawn = draw([*run["plots"].values(), *monitored["plots"].values()], self.plots)
            self.say(_statistics(monitored))
            self.say(f"  plots: [bold]{drawn.as_uri()}[/]")
            self.say(f"  [dim]as JSON: {stack.url}/v1/api/benchmark/{run['id']}/plot[/]")
        with LilypadClient(api_key=key, base_url=stack.url) as client:
            with self.step("generate the module again, now that the model was measured"):
                measured = generate_measured(client)
            self.say(_compared(module, measured))

    def benchmark(
        self,
        url: str,
        key: str,
        http: httpx2.Client,
        device: str,
        meanwhile: Callable[[], object],
    ) -> tuple[dict[str, Any], Screen]:
        answer = http.post(
            "/v1/api/benchmark",
            json={
                "modelId": MODEL,
                "batchSizes": [1, 2, 4, 8],
                "iterations": 64,
                "device": device,
            },
            headers={"Prefer": "respond-async"},
        )
        if answer.status_code != 202:
            raise Failed(f"/v1/api/benchmark answered {answer.text}")
        run, seen = watch(url, key, http, answer.json()["data"], self.console, meanwhile)
        if run["state"] != "succeeded":
            raise Failed(f"the benchmark {run['state']}: {run['error']}")
        return run, seen


def make_key(url: str) -> str:
    """Register a new account for each run through the public API, and return its first key."""
    email, password = f"demo-{secrets.token_hex(4)}@example.com", secrets.token_urlsafe(16)
    with httpx2.Client(base_url=url, timeout=30) as http:
        registered = http.post("/v1/api/accounts", json={"email": email, "password": password})
        created = http.post("/v1/api/keys", json={"name": "demo"}, auth=(email, password))
    for answer in (registered, created):
        if answer.status_code != 201:
            raise Failed(f"{answer.request.url.path} answered {answer.text}")
    return str(created.json()["data"]["key"])


def generate_measured(client: LilypadClient) -> Module:
    """Generate the module with the benchmark's figures; retry while the benchmarker is busy."""
    for _ in range(20):
        module = client.generate_module(MODEL)
        if module.model["vramSource"] == "measured":
            return module
        time.sleep(3)
    raise Failed("the module lacks the measured figures")


def unpack(archive: Path, folder: Path, module: Module) -> Path:
    with zipfile.ZipFile(archive) as files:
        files.extractall(folder)
    # The archive has one folder at its top.
    (top,) = [manifest.parent for manifest in folder.rglob("module.yaml")]
    for name, text in module.items():
        if (top / name).read_text() != text:
            raise Failed(f"{name} in the zip is not what /generate answered")
    return top


def bake(module: Path, hub: str) -> None:
    """Run the Dockerfile's `RUN ... fetch` in this environment instead of in an image."""
    environment = {**os.environ, "HF_ENDPOINT": hub, "MODEL_DIR": str(module / "model")}
    _run([sys.executable, "run_inference.py", "fetch"], module, environment)


def infer(module: Path, text: str) -> dict[str, Any]:
    """Run the module with one request, as the Lilypad network does; return its result.json."""
    outputs = module / "outputs"
    outputs.mkdir(exist_ok=True)
    request = json.dumps({"inputs": text}).encode()
    environment = {
        **{name: value for name, value in os.environ.items() if name not in _HUB},
        "HF_HUB_OFFLINE": "1",
        "MODEL_DIR": str(module / "model"),
        "OUTPUT_DIR": str(outputs),
        "REQUEST_B64": base64.b64encode(request).decode(),
    }
    _run([*_network_off()[0], sys.executable, "run_inference.py"], module, environment)
    result: dict[str, Any] = json.loads((outputs / "result.json").read_text())
    if result.get("status") != "success":
        raise Failed(f"the module answered {result}")
    return result


def record(http: httpx2.Client, result: dict[str, Any]) -> None:
    """Record the module's run time as a metric of the model."""
    milliseconds = result["timings"]["inference"] * 1e3
    _post(http, "/v1/api/monitor/record", modelId=MODEL, metrics={"latency": milliseconds})


def draw(figures: list[dict[str, Any]], path: Path) -> Path:
    """Write the charts as one offline page, with Plotly's script embedded."""
    drawn = [plotly.graph_objects.Figure(figure) for figure in figures]
    pages = [
        plotly.io.to_html(figure, full_html=False, include_plotlyjs=number == 0)
        for number, figure in enumerate(drawn)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    title = f"<!doctype html><meta charset=utf-8><title>{MODEL}</title><h1>{MODEL}</h1>"
    path.write_text(title + "\n".join(pages))
    return path.resolve()


def _post(http: httpx2.Client, path: str, **body: Any) -> dict[str, Any]:
    answer = http.post(path, json=body)
    if answer.status_code != 200:
        raise Failed(f"{path} answered {answer.text}")
    data: dict[str, Any] = answer.json()["data"]
    return data


_HUB = ("HF_ENDPOINT", "HF_TOKEN")


def _network_off() -> tuple[list[str], str]:
    """Return a command prefix that disables the network if allowed, and a description of it."""
    prefix = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if shutil.which("unshare"):
        tried = subprocess.run([*prefix, "true"], capture_output=True, check=False)
        if tried.returncode == 0:
            return prefix, "off"
    return [], "unused (HF_HUB_OFFLINE=1; this system does not let it be taken away)"


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Failed(
            f"{' '.join(command[-2:])} ended with {done.returncode}:\n{done.stderr[-2000:]}"
        )


def _described(module: Module) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 2))
    facts = module.model
    table.add_row("model", f"{facts['id']} [dim]at commit {facts['commit'][:12]}[/]")
    table.add_row("task", f"{facts['task']} [dim]by {facts['library']}[/]")
    table.add_row("weights", f"{facts['weightBytes']:,} bytes, {facts['parameters']:,} parameters")
    table.add_row("files", "  ".join(module))
    outcomes = [
        MARKS[check["outcome"]] + " " + check["name"] for check in module.validation["checks"]
    ]
    table.add_row("checks", "  ".join(outcomes))
    return table


def _compared(estimated: Module, measured: Module) -> Table:
    """Compare the manifest's resources before and after the benchmark."""
    table = Table(box=None, padding=(0, 2, 0, 2))
    for title in ("module.yaml", "estimated", "measured"):
        table.add_column(title, justify="left" if title == "module.yaml" else "right")
    before, after = (yaml.safe_load(module["module.yaml"]) for module in (estimated, measured))
    rows = (
        ("inputs at once", "run", "batchSize"),
        ("memory, MiB", "resources", "memoryMiB"),
        ("GPU memory, MiB", "resources", "vramMiB"),
    )
    for title, part, name in rows:
        table.add_row(title, f"{before[part][name]:,}", f"{after[part][name]:,}")
    measured_figures = measured.model["measured"]
    peak = f"{measured_figures['peakMiB']:,.0f} MiB at {measured_figures['batchSize']}"
    table.add_row("by run", "", f"{measured_figures['run']} [dim]({peak})[/]")
    return table


def _figures(run: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 2))
    names = {
        "batch": "",
        "samples/s": "throughput",
        "latency, ms": "latency",
        "memory, MiB": "memory_usage",
        "USD each": "cost_per_inference",
    }
    for title in names:
        table.add_column(title, justify="right")
    results = run["results"]
    best = run["analysis"]["optimal_batch_size"]
    for row, size in enumerate(results["batchSizes"]):
        values = [results[name][row] for name in names.values() if name]
        cells = ["-" if value is None else f"{value:,.3g}" for value in values]
        table.add_row(f"{size}{' *' if size == best else ''}", *cells)
    return table


def _statistics(monitored: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 2))
    for title in ("metric", "samples", "mean", "p95", "trend"):
        table.add_column(title, justify="left" if title in {"metric", "trend"} else "right")
    for name, figures in monitored["statistics"].items():
        if figures["count"]:
            unit = f" {figures['unit']}" if figures["unit"] else ""
            values = [f"{figures[kind]:,.4g}{unit}" for kind in ("mean", "p95")]
            table.add_row(name, str(figures["count"]), *values, figures["trend"])
    return table


def main(arguments: list[str]) -> int:
    once = arguments == ["--once"]
    if arguments and not once:
        Console(stderr=True).print("usage: python -m local.demo [--once]")
        return 2
    interruptible()
    ports.reach_directly()
    console, errors = Console(), Console(stderr=True)
    home = Path(os.environ.get("LILYPAD_HOME") or ".lilypad") / "demo"
    port = os.environ.get("PORT") or ("0" if once else "8080")
    try:
        with ExitStack() as closing:
            stack = Stack(
                home / "stack",
                port=0 if port == "0" and once else port_of(port),
                report=Progress(console),
                command="make demo",
            )
            # First, since making a model takes seconds.
            stack.claim()
            folder = Path(
                closing.enter_context(tempfile.TemporaryDirectory(prefix="lilypad-demo-"))
            )
            demo = Demo(console, home / "plots.html")
            with demo.step("make a small real model and serve it as a Hub"):
                hub = closing.enter_context(RunningHub(home / "models", first=[MODEL]))
            closing.callback(stack.close)
            stack.environment["HF_ENDPOINT"] = hub.url
            with demo.step("start PostgreSQL, NATS, the services and Envoy"):
                stack.start()
            demo.run(stack, folder)
            console.print(f"\n[bold green]It works.[/] Open [bold]{stack.url}[/]", highlight=False)
            if not once:
                console.print("[dim]Ctrl-C stops it.[/]")
                threading.Event().wait()
    except (CannotStart, Failed, LilypadError, HubFailed) as error:
        reason = escape(str(error))
        errors.print(f"[red]Failed:[/] {reason}", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
