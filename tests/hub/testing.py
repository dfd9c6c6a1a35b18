"""Start the Hub from Python.

with RunningHub() as hub:
    api = HfApi(endpoint=hub.url)
    with hub.faults("status", status=503, path="^/api/", times=2):
        ...
    assert len(hub.requests) == 3
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import httpx2

from hub.control import LoggedRequest
from local.process import tied

ROOT = Path(__file__).parents[2]


def default_models_dir() -> Path:
    """Return the cache folder of made models: under LILYPAD_HOME, or else `.lilypad`."""
    return Path(os.environ.get("LILYPAD_HOME", ROOT / ".lilypad")) / "hub"


class HubFailed(Exception):
    """A Hub that did not start."""


class RunningHub:
    """A Hub in its own process, started on entry and stopped on exit.

    It ends with the thread that started it, too. The first start with a `models_dir` makes the
    models: those in `first`, and the others when they are first asked for; all, if it is empty.
    """

    def __init__(
        self,
        models_dir: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        first: Iterable[str] = (),
    ) -> None:
        self.first = list(first)
        self.models_dir = models_dir or default_models_dir()
        self.host = host
        self.port = port
        self.process: subprocess.Popen[str] | None = None
        # Reused, since a client's certificates take longer to load than a request; a connection is
        # not, since the Hub may be stopped in between.
        self.client = httpx2.Client(
            trust_env=False, limits=httpx2.Limits(max_keepalive_connections=0)
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the Hub; after `stop`, on the same port.

        Raises HubFailed if it does not come up; the reason stands on stderr.
        """
        command = [sys.executable, "-m", "hub", "--models-dir", str(self.models_dir)]
        command += ["--host", self.host, "--port", str(self.port)]
        command += ["--first", *self.first] if self.first else []
        path = os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            tied(command, death_signal=signal.SIGTERM),
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C in a terminal is handled by the parent process.
            start_new_session=True,
        )
        assert self.process.stdout
        address = self.process.stdout.readline().strip()
        if not address:
            self.stop()
            raise HubFailed("the demonstration's Hub did not start; what it said is above")
        self.port = int(address.rpartition(":")[2])

    def stop(self) -> None:
        """Stop the Hub, so that connections are refused."""
        if not self.process:
            return
        self.process.terminate()
        self.process.communicate()
        self.process = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that make Hugging Face libraries use this Hub."""
        return {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_TELEMETRY": "1"}

    def faults(self, mode: str, **details: Any) -> ExitStack:
        """Make requests fail until `heal` or the end of the `with` block.

        See `hub.faults.Fault` for modes and details. Raises ValueError for wrong ones.
        """
        response = self.control("POST", "faults", {"mode": mode, **details})
        if response.status_code == 400:
            raise ValueError(response.json()["error"])
        healing = ExitStack()
        healing.callback(self.control, "DELETE", f"faults/{response.json()['number']}")
        return healing

    def heal(self) -> None:
        self.control("DELETE", "faults")

    @property
    def requests(self) -> list[LoggedRequest]:
        """Return all requests since the start or the last `forget`, oldest first."""
        return [LoggedRequest(**row) for row in self.control("GET", "log").json()]

    def forget(self) -> None:
        self.control("DELETE", "log")

    def move(self, repo_id: str, branch: str, commit: str) -> None:
        """Move a branch to another commit, as a push would."""
        self.control("POST", "branches", {"id": repo_id, "branch": branch, "commit": commit})

    def control(self, method: str, what: str, body: object = None) -> httpx2.Response:
        response = self.client.request(method, f"{self.url}/_{what}", json=body)
        if response.status_code >= 500:
            response.raise_for_status()
        return response
