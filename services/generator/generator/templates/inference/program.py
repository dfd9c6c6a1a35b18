"""Runs one model once: reads the inputs, answers into result.json, and ends.

    python run_inference.py          answer one request
    python run_inference.py fetch    download the model's files, when the image is built

What the model is and how it is run stands in module.yaml beside this file.

Inputs are environment variables, one per scalar input of module.yaml, and
REQUEST_B64: base64 of {"inputs": one or a list, "parameters": {name: value}},
which goes before them. A variable that is empty counts as left out.

result.json has "status" ("success" or "error"), "outputs" (one per input),
"timings" in seconds, "model", and with an error "error": {"type", "message"}.
The exit code is 0, or 2 for inputs that cannot be used, or 1 for anything else.
"""

import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from generator.templates.inference.devices import choose_device, seed_everything
from generator.templates.inference.inputs import InvalidInput, read_inputs

HERE = Path(__file__).resolve().parent
MODEL_DIR = Path(os.environ.get("MODEL_DIR") or HERE / "model")
OUTPUT_DIR = Path(os.environ.get("OUTPUT_DIR") or "/outputs")
# Defined by the model's family: loading the model, and answering inputs with it.
Load = Callable[[dict[str, Any], str, str, Any], Any]
Answer = Callable[[Any, dict[str, Any], list[Any], dict[str, Any]], list[Any]]


def fetch(manifest: dict[str, Any]) -> None:
    """Download exactly the files of the pinned commit, and check each."""
    os.environ.pop("HF_HUB_OFFLINE", None)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from huggingface_hub import hf_hub_download

    for source, folder in sources(manifest):
        for file in source["files"]:
            print(f"fetching {file['path']}, {file['size']:,} bytes", file=sys.stderr)
            hf_hub_download(
                source["id"], file["path"], revision=source["commit"], local_dir=str(folder)
            )
        shutil.rmtree(folder / ".cache", ignore_errors=True)
    verify(manifest)


def sources(manifest: dict[str, Any]) -> list[tuple[dict[str, Any], Path]]:
    """Return each repository and its folder: for an adapter, its base first."""
    model = manifest["model"]
    base = [(model["base"], MODEL_DIR)] if "base" in model else []
    return [*base, (model, MODEL_DIR / "adapter" if base else MODEL_DIR)]


def verify(manifest: dict[str, Any]) -> None:
    """Compare every file with the digest in module.yaml."""
    named = [(folder, file) for source, folder in sources(manifest) for file in source["files"]]
    for folder, file in named:
        path = folder / file["path"]
        if not path.is_file() or path.stat().st_size != file["size"]:
            raise RuntimeError(
                f"{file['path']} is missing or has another size than module.yaml says"
            )
        digest = hashlib.sha256()
        if "blob" in file:  # git's id of a file is the SHA-1 of this header and the content
            digest = hashlib.sha1(b"blob %d\0" % file["size"], usedforsecurity=False)
        with path.open("rb") as content:
            while piece := content.read(2**20):
                digest.update(piece)
        if digest.hexdigest() != file.get("sha256", file.get("blob")):
            raise RuntimeError(f"{file['path']} is not the file that module.yaml names")


def to_json(value: Any) -> Any:
    """Convert to plain values; numbers without a JSON form become null."""
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if hasattr(value, "tolist"):
        return to_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write(result: dict[str, Any]) -> None:
    """Write result.json atomically: a reader never sees half of it."""
    OUTPUT_DIR.mkdir(parents=True, exist_ok=True)
    unfinished = OUTPUT_DIR / "result.json.part"
    with unfinished.open("w", encoding="utf-8") as file:
        json.dump(result, file, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(OUTPUT_DIR / "result.json")


def run(manifest: dict[str, Any], load: Load, answer: Answer) -> int:
    """Answer one request into result.json, also if it fails; return the exit code."""
    timings: dict[str, float] = {}
    result: dict[str, Any] = {
        "status": "error",
        "model": {name: manifest["model"][name] for name in ("id", "commit", "task")},
        "outputs": [],
        "timings": timings,
    }
    code = 1
    try:
        started = time.perf_counter()
        inputs, parameters = read_inputs(manifest)
        verify(manifest)
        timings["verify"] = time.perf_counter() - started
        started = time.perf_counter()
        device, dtype = choose_device(manifest)
        result["device"] = device
        model = load(manifest, str(MODEL_DIR), device, dtype)
        timings["load"] = time.perf_counter() - started
        started = time.perf_counter()
        # After loading, which may draw random numbers of its own.
        seed_everything(parameters.pop("seed"))
        result["outputs"] = to_json(answer(model, manifest, inputs, parameters))
        timings["inference"] = time.perf_counter() - started
        result["status"], code = "success", 0
    except InvalidInput as error:
        result["error"], code = {"type": "InvalidInput", "message": str(error)}, 2
    except Exception as error:  # noqa: BLE001  (whatever it is, the result says so)
        result["error"] = {"type": type(error).__name__, "message": str(error)[:2000]}
    write(result)
    print(json.dumps({key: result[key] for key in ("status", "timings", "error") if key in result}))
    return code


def main(load: Load, answer: Answer, manifest: dict[str, Any] | None = None) -> int:
    """Run the command line, by default with module.yaml; return the exit code."""
    manifest = manifest or yaml.safe_load((HERE / "module.yaml").read_text(encoding="utf-8"))
    if sys.argv[1:] == ["fetch"]:
        fetch(manifest)
        return 0
    # Set before any library is imported: nothing may be looked up on the network.
    os.environ["HF_HUB_OFFLINE"] = "1"
    return run(manifest, load, answer)
