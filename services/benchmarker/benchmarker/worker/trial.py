"""Trial of a generated module: `python -m benchmarker.worker.trial`, a confined child process.

The module's own script runs as on the network: with its manifest beside it, the model's files in a
folder, one request in its environment, and an empty folder for its outputs. Its process is bounded
in memory, time and files, and imports only the packages that the module pins.
"""

import base64
import contextlib
import json
import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarker.worker import packages, seal
from benchmarker.worker.process import answer_questions
from benchmarker.worker.samples import NoSample, request_for
from models.dtypes import MIB

# The largest answer of any task is a video of some MiB.
MAX_FILE_BYTES = 256 * MIB
MAX_RESULT_BYTES = 64 * MIB
# Most pickled weights that are converted, in safetensors: the scratch folder has 1 GiB, in memory.
MAX_CONVERTED_BYTES = 768 * MIB
# Interval at which the module's mapped files are measured.
POLL_INTERVAL_S = 0.02
# Longest text and list in a verdict, in characters and items.
MAX_TEXT, MAX_LIST = 400, 16
# Longest excerpt of result.json in a verdict, in characters.
MAX_RESULT_CHARACTERS = 64_000
# Longest excerpt of the output of a module that failed, in characters.
MAX_OUTPUT_CHARACTERS = 2000
# Variables that a module inherits; the order of devices has to be the worker's.
INHERITED = (
    "PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
)  # fmt: skip


def attempt(question: dict[str, Any]) -> dict[str, Any]:
    """Run a module; answer `{files, model, seconds}` with the fields of `verification.Verdict`.

    `files` are the module's by name, `model` is the folder of the model's files, `seconds` the
    time that the module gets.
    """
    files: dict[str, str] = question["files"]
    manifest = yaml.safe_load(files["module.yaml"])
    missing, others = packages.compare(files["requirements.txt"])
    if missing:
        return _not_run(f"the worker lacks {', '.join(missing)}")
    if "base" in manifest["model"]:
        return _not_run("the worker does not fetch the base of an adapter")
    try:
        request = request_for(manifest)
    except NoSample as error:
        return _not_run(str(error))
    memory = manifest["resources"]["memoryMiB"]
    seconds = min(question["seconds"], manifest["resources"]["timeout"])
    app = Path(tempfile.mkdtemp())
    for name, text in files.items():
        (app / name).write_text(text, encoding="utf-8")
    model, environment = question["model"], _environment(app)
    pickled = any("becomes" in file for file in manifest["model"]["files"])
    if pickled:
        if manifest["model"]["weightBytes"] > MAX_CONVERTED_BYTES:
            most = f"{MAX_CONVERTED_BYTES // MIB} MiB"
            return _not_run(f"the worker converts at most {most} of pickled weights")
        model = _link(manifest, Path(model), app / "model")
        if failure := _convert(app, {**environment, "MODEL_DIR": model}, seconds):
            return _failed(f"the module's weights could not be converted: {failure}")
    # These bind this process as well, and are inherited by the module's.
    _limit(resource.RLIMIT_DATA, (memory + seal.RESERVED_MIB) * MIB)
    _limit(resource.RLIMIT_FSIZE, MAX_FILE_BYTES)
    observed = _run(app, {**environment, "MODEL_DIR": model}, request, seconds, in_memory=pickled)
    # The kernel reclaims mapped files, such as weights that are being read, when it needs memory.
    peak = observed["resident"] - observed["mapped"]
    return {
        **_judge(observed, peak, memory, seconds),
        "sample": shorten(request),
        "result": shorten_all(observed["result"]),
        "exitCode": observed["code"],
        "seconds": observed["seconds"],
        "peakMemory": peak,
        "limits": {"memory": memory, "file": MAX_FILE_BYTES / MIB, "seconds": seconds},
        "packages": others,
    }


def _environment(app: Path) -> dict[str, str]:
    """Return the variables of each of the module's processes."""
    home = app / "home"
    home.mkdir()
    return {
        **{name: os.environ[name] for name in INHERITED if name in os.environ},
        "HOME": str(home),
        "TMPDIR": str(home),
        "HF_HUB_OFFLINE": "1",
        **packages.link((app / "requirements.txt").read_text(encoding="utf-8"), app / "packages"),
    }


def _link(manifest: dict[str, Any], model: Path, folder: Path) -> str:
    """Make a folder of links to the model's files, where the module may also write its own."""
    for file in manifest["model"]["files"]:
        link = folder / file["path"]
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((model / file["path"]).resolve())
    return str(folder)


def _convert(app: Path, environment: dict[str, str], seconds: float) -> str | None:
    """Let the module convert its pickled weights, as its image does; return why it could not."""
    try:
        done = subprocess.run(
            packages.command("run_inference.py", "convert"),
            cwd=app,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not finish within {seconds:g} s"
    if done.returncode == 0:
        return None
    printed = done.stderr[-4 * MAX_OUTPUT_CHARACTERS :].decode("utf-8", "replace").strip()
    return printed[-MAX_OUTPUT_CHARACTERS:] or f"exit code {done.returncode}"


def _run(
    app: Path,
    environment: dict[str, str],
    request: dict[str, Any],
    seconds: float,
    *,
    in_memory: bool,
) -> dict[str, Any]:
    """Run the module once; `in_memory` says that its weights are files in memory."""
    outputs = app / "outputs"
    outputs.mkdir()
    environment = {
        **environment,
        "INPUT_DIR": str(app / "home"),
        "OUTPUT_DIR": str(outputs),
        "REQUEST_B64": base64.b64encode(json.dumps(request).encode()).decode(),
    }
    started = time.monotonic()
    with (app / "output").open("wb") as output:
        process = subprocess.Popen(
            packages.command("run_inference.py"),
            cwd=app,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        code, resident, mapped = _wait(process, seconds, in_memory=in_memory)
    result = _read_result(outputs / "result.json")
    with (app / "output").open("rb") as printed:
        printed.seek(max(printed.seek(0, os.SEEK_END) - 4 * MAX_OUTPUT_CHARACTERS, 0))
        text = printed.read().decode("utf-8", "replace")[-MAX_OUTPUT_CHARACTERS:]
    return {
        "code": code,
        "resident": resident,
        "mapped": mapped,
        "seconds": time.monotonic() - started,
        "result": result,
        "output": text.strip(),
    }


def _read_result(path: Path) -> dict[str, Any] | None:
    """Read the module's result; return None if it is missing, too large, or no JSON object."""
    try:
        with path.open("rb") as file:
            written = file.read(MAX_RESULT_BYTES + 1)
        result = json.loads(written) if len(written) <= MAX_RESULT_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    return result if isinstance(result, dict) else None


def _wait(
    process: subprocess.Popen[bytes], seconds: float, *, in_memory: bool
) -> tuple[int | None, float, float]:
    """Return the exit code (None after a timeout) and the peak memory in MiB: total, and mapped.

    The peak is that of this process and its descendants; an earlier one's does not count.
    """
    end = time.monotonic() + seconds
    peak = mapped = 0.0
    killed = False
    while True:
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            process.returncode = os.waitstatus_to_exitcode(status)
            code = None if killed else process.returncode
            return code, usage.ru_maxrss / 1024, mapped
        if time.monotonic() >= end and not killed:
            process.kill()
            killed = True
        with contextlib.suppress(OSError):  # the process has ended
            resident, files = _resident(process.pid, in_memory=in_memory)
            if resident > peak:
                peak, mapped = resident, files
        time.sleep(POLL_INTERVAL_S)


def _resident(process: int, *, in_memory: bool) -> tuple[float, float]:
    """Return a process's resident MiB, and how much of it is mapped files."""
    lines = Path(f"/proc/{process}/status").read_text("utf-8").splitlines()
    known = dict(line.split(":", 1) for line in lines)
    names = ("RssFile", "RssShmem") if in_memory else ("RssFile",)
    resident, *files = (int(known.get(name, "0").split()[0]) for name in ("VmRSS", *names))
    return resident / 1024, sum(files) / 1024


def _judge(observed: dict[str, Any], peak: float, memory: int, seconds: float) -> dict[str, str]:
    code = observed["code"]
    if code is None:
        return _failed(f"the module did not finish within {seconds:g} s")
    if code == 0 and observed["result"] is None:
        limit = f"{MAX_RESULT_BYTES // MIB} MiB"
        return _failed(f"the module wrote no JSON object of at most {limit} to result.json")
    result = observed["result"] or {}
    if result.get("status") != "success" or code != 0:
        error = result.get("error") or {}
        printed = observed["output"].splitlines()
        why = error.get("message") or (printed[-1] if printed else "it printed nothing")
        message = f"the module exited with {code}: {error.get('type', '')} {why}"
        return _failed(message[:MAX_OUTPUT_CHARACTERS])
    if len(result.get("outputs") or []) != 1:
        return _failed(
            f"the module gave {len(result.get('outputs') or [])} outputs, not 1, for one input"
        )
    if peak > memory:
        return _failed(f"the module took {peak:,.0f} MiB; its manifest asks for {memory:,} MiB")
    return {
        "verdict": "passed",
        "message": f"ran on a sample in {observed['seconds']:.1f} s: {peak:,.0f} MiB of the"
        f" {memory:,} MiB that its manifest asks for",
    }


def _failed(message: str) -> dict[str, str]:
    return {"verdict": "failed", "message": storable(message)}


def _not_run(message: str) -> dict[str, Any]:
    return {"verdict": "not_run", "message": f"the module was not run: {message}"}


def shorten_all(result: Any) -> Any:
    """Shorten a module's result to fit a message; return None unless it is an object."""
    if not isinstance(result, dict):
        return None
    short = shorten(result)
    if len(json.dumps(short)) > MAX_RESULT_CHARACTERS:
        short = {"status": short.get("status"), "outputs": "too long to be shown"}
    return short


def shorten(value: Any) -> Any:
    """Shorten long texts and lists in a value; each states its full length."""
    if isinstance(value, dict):
        return {storable(name): shorten(item) for name, item in value.items()}
    if isinstance(value, list):
        rest = len(value) - MAX_LIST
        items = [shorten(item) for item in value[:MAX_LIST]]
        return [*items, f"… and {rest:,} more"] if rest > 0 else items
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return f"{storable(value[:MAX_TEXT])}… ({len(value):,} characters)"
    return storable(value) if isinstance(value, str) else value


def storable(text: str) -> str:
    """Replace NUL and unpaired surrogates, which the database rejects."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (limit, limit))


if __name__ == "__main__":
    answer_questions(attempt)
