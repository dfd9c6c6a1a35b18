"""MLflow's tracking server on the same PostgreSQL, in an environment of its own.

This file runs twice: imported, it prepares the environment and the server;
as a program in that environment it is the client, and prints what it measured.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The current release at the time of writing, and its driver for PostgreSQL.
REQUIREMENTS = ("mlflow==3.17.2", "psycopg[binary]==3.3.9")
BATCH = 1_000
METRICS = ("throughput", "latency", "memory_usage", "gpu_memory_usage", "cost_per_inference")


def measure(database_url: str, port: int) -> Mapping[str, float]:
    """Measure MLflow; its first installation takes a few minutes.

    Args:
        database_url: an empty database, which it fills with its own tables.
        port: for its server to listen at.

    Raises:
        subprocess.CalledProcessError: it cannot be installed, or failed.
    """
    with tempfile.TemporaryDirectory(prefix="lilypad-mlflow-") as folder:
        python = _environment(Path(folder) / "venv")
        server = subprocess.Popen(
            [
                *(python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
                *("--backend-store-uri", database_url, "--artifacts-destination", folder),
                *("--workers", "2"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, server)
            output = subprocess.run(
                [python, __file__, url], check=True, capture_output=True, text=True, env=_client()
            )
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)
                server.wait()
    figures: Mapping[str, float] = json.loads(output.stdout.splitlines()[-1])
    return figures


def _environment(folder: Path) -> str:
    if interpreter := os.environ.get("MLFLOW_PYTHON"):
        return interpreter
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", *REQUIREMENTS], check=True)
    return python


def _client() -> dict[str, str]:
    left_out = {"PYTHONPATH", "VIRTUAL_ENV"}
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**inherited, "MLFLOW_DISABLE_TELEMETRY": "true"}


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=1).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
        else:
            return
    raise RuntimeError("MLflow's server ended")


def _run(url: str) -> dict[str, float]:
    """Measure in MLflow's environment: rows/s in batches, calls/s, one history read."""
    from mlflow import MlflowClient  # type: ignore[import-not-found]  # noqa: PLC0415  (only there)
    from mlflow.entities import Metric  # type: ignore[import-not-found]  # noqa: PLC0415

    client = MlflowClient(url)
    experiment = client.create_experiment(f"benchmark {time.time()}")

    def batch(number: int) -> list[Any]:
        start = int(time.time() * 1000) - 86_400_000
        return [
            Metric(metric, 1.0 + n, start + number * BATCH + n, n)
            for n in range(BATCH // len(METRICS))
            for metric in METRICS
        ]

    def log_batches(seconds: float) -> float:
        """Run callers with a run each, as the benchmark of this project does."""
        done = [0] * 8
        end = time.perf_counter() + seconds

        def call_on(caller: int) -> None:
            run = client.create_run(experiment).info.run_id
            number = 0
            while time.perf_counter() < end:
                client.log_batch(run, metrics=batch(number))
                number += 1
                done[caller] += BATCH

        threads = [threading.Thread(target=call_on, args=[caller]) for caller in range(8)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done) / (time.perf_counter() - start)

    rows = log_batches(15)
    run = client.create_run(experiment).info.run_id
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < 5:
        client.log_metric(run, "latency", 1.0, step=calls)
        calls += 1
    singles = calls / (time.perf_counter() - start)
    run = client.create_run(experiment).info.run_id
    for number in range(20):
        client.log_batch(run, metrics=batch(number))
    start = time.perf_counter()
    points = len(client.get_metric_history(run, "latency"))
    read = time.perf_counter() - start
    return {"rows": rows, "singles": singles, "read": read * 1e3, "points": points}


if __name__ == "__main__":
    print(json.dumps(_run(sys.argv[1])))
