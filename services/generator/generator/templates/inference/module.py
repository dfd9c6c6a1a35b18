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

import base64
import binascii
import hashlib
import json
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
MODEL_DIR = Path(os.environ.get("MODEL_DIR") or HERE / "model")
INPUT_DIR = Path(os.environ.get("INPUT_DIR") or "/inputs")
OUTPUT_DIR = Path(os.environ.get("OUTPUT_DIR") or "/outputs")
# One request is one job; more than this belongs into several.
MOST_INPUTS = 4096


class InvalidInput(ValueError):
    """The inputs cannot be used; the message says why."""


# --- the model's family stands here in a module; one of them, so that this file can be checked ---
from generator.templates.inference.loading import load  # noqa: E402
from generator.templates.inference.pipeline import answer  # noqa: E402

# --- what all families share ---


def fetch(manifest: dict[str, Any]) -> None:
    """Download exactly the files of the pinned commit, and check each."""
    os.environ.pop("HF_HUB_OFFLINE", None)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from huggingface_hub import hf_hub_download

    model = manifest["model"]
    for file in model["files"]:
        print(f"fetching {file['path']}, {file['size']:,} bytes", file=sys.stderr)
        hf_hub_download(
            model["id"], file["path"], revision=model["commit"], local_dir=str(MODEL_DIR)
        )
    shutil.rmtree(MODEL_DIR / ".cache", ignore_errors=True)
    verify(manifest)


def verify(manifest: dict[str, Any]) -> None:
    """Compare every file with the digest in module.yaml."""
    for file in manifest["model"]["files"]:
        path = MODEL_DIR / file["path"]
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


def read_inputs(manifest: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The inputs, at least one, and every parameter, None where the model decides."""
    subject, *parameters = manifest["inputs"]
    request = read_request()
    given = request.get("parameters") or {}
    if not isinstance(given, dict):
        raise InvalidInput("parameters: is not an object")
    if unknown := set(given) - {parameter["name"] for parameter in parameters}:
        raise InvalidInput(f"parameters: there is no {min(unknown)!r}")
    inputs = request.get("inputs", os.environ.get(subject["env"]) or None)
    if inputs is None:
        raise InvalidInput(f"{subject['name']}: is missing")
    inputs = inputs if isinstance(inputs, list) else [inputs]
    if not 0 < len(inputs) <= MOST_INPUTS:
        raise InvalidInput(f"inputs: give 1 to {MOST_INPUTS}")
    values = {
        parameter["name"]: read_parameter(
            parameter, given.get(parameter["name"], os.environ.get(parameter["env"]) or None)
        )
        for parameter in parameters
    }
    return inputs, values


def read_request() -> dict[str, Any]:
    encoded = os.environ.get("REQUEST_B64", "")
    if not encoded:
        return {}
    try:
        # Programs that encode base64 break it into lines.
        request = json.loads(base64.b64decode("".join(encoded.split()), validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise InvalidInput("request: is not base64 of JSON") from None
    if not isinstance(request, dict):
        raise InvalidInput("request: is not an object")
    return request


def read_parameter(parameter: dict[str, Any], value: Any) -> Any:
    """A value of the parameter's type and within its bounds; text is converted."""
    name, kind = parameter["name"], parameter["type"]
    if value is None:
        return parameter.get("default")
    try:
        if kind == "boolean":
            value = {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
        elif kind == "integer":
            if isinstance(value, (bool, float)):
                raise ValueError
            value = int(value)
        elif kind == "number":
            value = float(value)
            if not math.isfinite(value):
                raise ValueError
        elif not isinstance(value, str):
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InvalidInput(f"{name}: is not of type {kind}") from None
    low, high = parameter.get("minimum"), parameter.get("maximum")
    if (low is not None and value < low) or (high is not None and value > high):
        raise InvalidInput(f"{name}: is not between {low:g} and {high:g}")
    return value


def check_texts(values: list[Any]) -> None:
    for value in values:
        if not isinstance(value, str) or not value:
            raise InvalidInput("inputs: each is a text, and not an empty one")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidInput("inputs: a text has half a character (a lone surrogate)")


def read_file(value: Any, kind: str) -> bytes:
    """What base64 holds, with or without a data: prefix, or a file in /inputs."""
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"inputs: {kind} is base64 or a file's name")
    path = INPUT_DIR / value if len(value) < 256 else None
    try:
        if path and Path(value).name == value and path.is_file():
            return path.read_bytes()
        return base64.b64decode(value.rpartition("base64,")[2], validate=True)
    except (OSError, ValueError):
        raise InvalidInput(f"inputs: {kind} cannot be read") from None


def read_image(value: Any) -> Any:
    """A picture in RGB."""
    import io

    from PIL import Image

    content = read_file(value, "an image")
    try:
        return Image.open(io.BytesIO(content)).convert("RGB")
    except Exception:  # noqa: BLE001  (decoders of pictures raise whatever they like)
        raise InvalidInput("inputs: an image cannot be read") from None


def choose_device(manifest: dict[str, Any]) -> tuple[str, Any]:
    import torch

    if manifest["resources"]["gpu"] and torch.cuda.is_available():
        return "cuda", getattr(torch, manifest["run"]["dtype"])
    return "cpu", torch.float32


def plant(seed: int) -> None:
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def to_json(value: Any) -> Any:
    """Plain values; what JSON has no number for becomes null."""
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
    """All of result.json or nothing: who collects the outputs never sees half of it."""
    OUTPUT_DIR.mkdir(parents=True, exist_ok=True)
    unfinished = OUTPUT_DIR / "result.json.part"
    with unfinished.open("w", encoding="utf-8") as file:
        json.dump(result, file, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(OUTPUT_DIR / "result.json")


def run(manifest: dict[str, Any]) -> int:
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
        plant(parameters.pop("seed"))  # after loading, which may take from chance as it likes
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


if __name__ == "__main__":
    described = yaml.safe_load((HERE / "module.yaml").read_text(encoding="utf-8"))
    if sys.argv[1:] == ["fetch"]:
        fetch(described)
    else:
        # Set before any library is imported: nothing is to be looked for on the network.
        os.environ["HF_HUB_OFFLINE"] = "1"
        sys.exit(run(described))
