"""Base images: an exact version each, with its digest once an operator has fetched it.

    python -m generator.images FILE     ask the registry, write the digests to FILE

`BASE_IMAGES` names that file to the service; without it a module's image is pinned by its
version alone, and a check says so.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2

# The larger ones have a compiler, which torch.compile needs. Any driver for CUDA 12 (525 and later)
# runs 12.6; the torch of Python's registry brings CUDA 13, for which providers' may be too old.
CPU = "python:3.11.14-slim-bookworm"
CPU_WITH_COMPILER = "python:3.11.14-bookworm"
# The version of torch in the CUDA images, which every module pins.
TORCH = "2.13.0"
GPU = f"pytorch/pytorch:{TORCH}-cuda12.6-cudnn9-runtime"
GPU_WITH_COMPILER = f"pytorch/pytorch:{TORCH}-cuda12.6-cudnn9-devel"
ALL = (CPU, CPU_WITH_COMPILER, GPU, GPU_WITH_COMPILER)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
REGISTRY = "https://registry-1.docker.io"
# Media types of a multi-platform image index; its digest is the one to pin.
KINDS = (
    "application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json"
)


def choose(*, gpu: bool, compiled: bool) -> str:
    if gpu:
        return GPU_WITH_COMPILER if compiled else GPU
    return CPU_WITH_COMPILER if compiled else CPU


def pin(image: str, digests: Mapping[str, str] | None) -> str:
    """Return the image as a Dockerfile names it, with its digest if that is known."""
    known = (digests or {}).get(image)
    return f"{image}@{known}" if known else image


def read(path: Path | None) -> dict[str, str]:
    """Read the digests by image. Raises ValueError if the file is malformed."""
    if path is None:
        return {}
    table = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(table, dict) or not all(
        isinstance(value, str) and DIGEST.fullmatch(value) for value in table.values()
    ):
        raise ValueError(f"{path} is not a table of images and their digests")
    return table


def digest(client: httpx2.Client, image: str) -> str:
    """Fetch the current digest of the image's version from the registry.

    Raises:
        httpx2.HTTPError: the registry is unavailable, or has no such version.
        ValueError: its response is malformed.
    """
    name, _, tag = image.partition(":")
    repository = name if "/" in name else f"library/{name}"
    path = f"/v2/{repository}/manifests/{tag}"
    answer = client.head(path, headers={"accept": KINDS})
    if answer.status_code == 401:
        token = _token(client, answer.headers.get("www-authenticate", ""))
        answer = client.head(path, headers={"accept": KINDS, "authorization": f"Bearer {token}"})
    answer.raise_for_status()
    value: str = answer.headers.get("docker-content-digest", "")
    if not DIGEST.fullmatch(value):
        raise ValueError(f"the registry names no digest of {image}")
    return value


def _token(client: httpx2.Client, challenge: str) -> str:
    """Fetch an anonymous read token from the server that the challenge names."""
    parameters = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    if "realm" not in parameters:
        raise ValueError("the registry does not say where to log in")
    wanted = {name: parameters[name] for name in ("service", "scope") if name in parameters}
    answer = client.get(parameters["realm"], params=wanted)
    answer.raise_for_status()
    content: dict[str, Any] = answer.json()
    return str(content.get("token") or content.get("access_token") or "")


def refresh(path: Path, registry: str = REGISTRY) -> dict[str, str]:
    """Fetch all digests; replace the file only if none of them is missing."""
    with httpx2.Client(base_url=registry, timeout=30) as client:
        table = {image: digest(client, image) for image in ALL}
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)
    return table


if __name__ == "__main__":
    for image, found in refresh(Path(sys.argv[1])).items():
        print(f"{image}@{found}")  # noqa: T201  (what the operator asked for)
