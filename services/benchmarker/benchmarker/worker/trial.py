"""Runs a generated module once: `python -m benchmarker.worker.trial`, a child process.

The module's own script runs as the network would run it: with its manifest beside it, the
model's files in a folder, one request in its environment, no network, and an empty folder for
its outputs. Its process is a fresh one, bounded in memory, time and files, sees the packages that
the module pins and no others, and knows nothing of the worker: no token, no address, no password.
"""

import base64
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarker.worker import offline, packages
from benchmarker.worker.child import answer_questions
from benchmarker.worker.samples import NoSample, request_for

MIB = 2**20
# Of what a module writes: the largest answer of any task is a video of some MiB.
LARGEST_FILE = 256 * MIB
# The address space that libraries reserve for threads and never touch is counted too, in MiB.
RESERVED = 2048
# How often it is looked at how much of what a module holds are files, in seconds.
LOOK_EVERY = 0.02
# Of a value in the verdict, in characters; of a list, in items.
LONGEST_TEXT, LONGEST_LIST = 400, 16
# Of all that is shown of result.json, in characters.
MOST_OF_IT = 64_000
# Of what the module said when it failed, in characters.
LAST_WORDS = 2000
# In another order than the worker's, the devices that it may see are others.
KEPT = (
    "PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
)  # fmt: skip


def attempt(question: dict[str, Any]) -> dict[str, Any]:
    """`{files, model, folder, seconds}` to `verification.Verdict`.

    `files` are the module's by name, `model` the folder with the model's files, `folder` an empty
    one that is removed afterwards, `seconds` the time that it gets.
    """
    files: dict[str, str] = question["files"]
    manifest = yaml.safe_load(files["module.yaml"])
    missing, others = packages.compare(files["requirements.txt"])
    if missing:
        return _not_run(f"this worker does not have {', '.join(missing)}")
    try:
        request = request_for(manifest)
    except NoSample as error:
        return _not_run(str(error))
    memory = manifest["resources"]["memoryMiB"]
    seconds = min(question["seconds"], manifest["resources"]["timeout"])
    # This process as well; what it starts inherits them.
    _limit(resource.RLIMIT_DATA, (memory + RESERVED) * MIB)
    _limit(resource.RLIMIT_FSIZE, LARGEST_FILE)
    _limit(resource.RLIMIT_CORE, 0)
    app = Path(question["folder"])
    for name, text in files.items():
        (app / name).write_text(text, encoding="utf-8")
    found = _run(app, question["model"], request, seconds)
    # Files that are mapped, as weights are while they are read, the kernel lets go of at need.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024 - found["mapped"]
    return {
        **_judge(found, peak, memory, seconds),
        "network": found["network"],
        "sample": shorten(request),
        "result": shorten_all(found["result"]),
        "exitCode": found["code"],
        "seconds": found["seconds"],
        "peakMemory": peak,
        "limits": {"memory": memory, "file": LARGEST_FILE / MIB, "seconds": seconds},
        "packages": others,
    }


def _run(app: Path, model: str, request: dict[str, Any], seconds: float) -> dict[str, Any]:
    outputs, home = app / "outputs", app / "home"
    outputs.mkdir()
    home.mkdir()
    prefix = without_network()
    environment = {
        **{name: os.environ[name] for name in KEPT if name in os.environ},
        "HOME": str(home),
        "TMPDIR": str(home),
        "HF_HUB_OFFLINE": "1",
        **packages.link((app / "requirements.txt").read_text(encoding="utf-8"), app / "packages"),
        "MODEL_DIR": model,
        "INPUT_DIR": str(home),
        "OUTPUT_DIR": str(outputs),
        "REQUEST_B64": base64.b64encode(json.dumps(request).encode()).decode(),
    }
    started = time.monotonic()
    with (app / "words").open("wb") as words:
        process = subprocess.Popen(
            [*prefix, *packages.command("run_inference.py")],
            cwd=app,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
        )
        code, mapped = _wait(process, seconds)
    result, path = None, outputs / "result.json"
    if path.is_file():
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            code = code or 1
    said = (app / "words").read_text(encoding="utf-8", errors="replace")[-LAST_WORDS:]
    return {
        "code": code,
        "mapped": mapped,
        "seconds": time.monotonic() - started,
        "result": result,
        "words": said.strip(),
        "network": "off" if prefix else "unused",
    }


def _wait(process: subprocess.Popen[bytes], seconds: float) -> tuple[int | None, float]:
    """Its exit code, None if it had to be ended; MiB of files that it had mapped at its largest."""
    end = time.monotonic() + seconds
    most = mapped = 0.0
    while (left := end - time.monotonic()) > 0:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(min(left, LOOK_EVERY)), mapped
        with contextlib.suppress(OSError):  # it has ended meanwhile
            resident, files = _resident(process.pid)
            if resident > most:
                most, mapped = resident, files
    process.kill()
    process.wait()
    return None, mapped


def _resident(process: int) -> tuple[float, float]:
    """MiB that it holds in memory, and those of them that are files; 0 of one that has ended."""
    lines = Path(f"/proc/{process}/status").read_text("utf-8").splitlines()
    known = dict(line.split(":", 1) for line in lines)
    resident, files = (int(known.get(name, "0").split()[0]) for name in ("VmRSS", "RssFile"))
    return resident / 1024, files / 1024


def _judge(found: dict[str, Any], peak: float, memory: int, seconds: float) -> dict[str, str]:
    result, code = found["result"] or {}, found["code"]
    if code is None:
        return _failed(f"the module did not end within {seconds:g} s")
    if result.get("status") != "success" or code != 0:
        error = result.get("error") or {}
        words = found["words"].splitlines()
        why = error.get("message") or (words[-1] if words else "it said nothing")
        return _failed(f"the module ended with {code}: {error.get('type', '')} {why}"[:LAST_WORDS])
    if len(result.get("outputs") or []) != 1:
        return _failed(f"{len(result.get('outputs') or [])} outputs came of one input")
    if peak > memory:
        return _failed(f"the module took {peak:,.0f} MiB and asks for {memory:,} MiB")
    off = "off" if found["network"] == "off" else "unused"
    return {
        "verdict": "passed",
        "message": f"ran on a sample in {found['seconds']:.1f} s with the network {off}:"
        f" {peak:,.0f} MiB of the {memory:,} MiB that it asks for",
    }


def _failed(message: str) -> dict[str, str]:
    return {"verdict": "failed", "message": storable(message)}


def _not_run(message: str) -> dict[str, Any]:
    return {"verdict": "not_run", "message": f"the module was not run: {message}"}


def without_network() -> list[str]:
    """A prefix that takes the network away, where this system lets it be; else nothing."""
    ways = [
        ["unshare", "--net"],
        ["unshare", "--user", "--map-root-user", "--net"],
        [sys.executable, "-I", offline.__file__],
    ]
    for prefix in ways:
        if shutil.which(prefix[0]):
            tried = subprocess.run([*prefix, "true"], capture_output=True, check=False)
            if tried.returncode == 0:
                return prefix
    return []


def shorten_all(result: Any) -> Any:
    """A result that fits a message, whatever a model has answered."""
    if not isinstance(result, dict):
        return None
    short = shorten(result)
    if len(json.dumps(short)) > MOST_OF_IT:
        short["outputs"] = "too long to be shown"
    return short


def shorten(value: Any) -> Any:
    """The value with long texts and lists cut, which then say how long they were."""
    if isinstance(value, dict):
        return {storable(name): shorten(item) for name, item in value.items()}
    if isinstance(value, list):
        rest = len(value) - LONGEST_LIST
        kept = [shorten(item) for item in value[:LONGEST_LIST]]
        return [*kept, f"… and {rest:,} more"] if rest > 0 else kept
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"{storable(value[:LONGEST_TEXT])}… ({len(value):,} characters)"
    return storable(value) if isinstance(value, str) else value


def storable(text: str) -> str:
    """A database has no NUL in its texts, and UTF-8 no half characters."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (most, most))


if __name__ == "__main__":
    answer_questions(attempt)
