"""Exactly the packages that a module pins: a folder of links that its process imports from.

A module that works only because the worker has more packages than it pins would fail in its image.
"""

import importlib.metadata
import re
import sys
from importlib.metadata import Distribution
from pathlib import Path

# Packages that the worker itself must not import: transformers prepares images differently once
# torchvision is installed. `make setup` fills it; a worker's image may install all of it.
BESIDE = Path(sys.prefix) / "beside"
# Packages that no module pins because every image has them: torch's libraries, and pip's.
IMAGE_PACKAGES = re.compile(r"nvidia[-_].*|cuda[-_].*|triton|pip|setuptools|wheel", re.IGNORECASE)
# Python without the environment's packages, but with the sitecustomize that torchvision needs.
BOOTSTRAP = (
    "import runpy, site, sys\n"
    "site.execsitecustomize()\n"
    "sys.argv = sys.argv[1:]\n"
    "runpy.run_path(sys.argv[0], run_name='__main__')\n"
)


def compare(requirements: str) -> tuple[list[str], dict[str, str]]:
    """Return the missing packages, and the installed version of those that differ."""
    missing, others = [], {}
    for name, wanted in _pins(requirements):
        found = _find(name)
        if found is None:
            missing.append(name)
        elif found.version.partition("+")[0] != wanted:  # builds for other devices count as equal
            others[name] = found.version
    return missing, others


def link(requirements: str, folder: Path) -> dict[str, str]:
    """Fill `folder` with links to the pinned packages; return the environment that imports them."""
    folder.mkdir()
    here = [found for name, _ in _pins(requirements) if (found := _find(name))]
    everything = importlib.metadata.distributions(path=_path())
    here += [found for found in everything if IMAGE_PACKAGES.fullmatch(found.name)]
    if "torchvision" in {found.name for found in here} and (BESIDE / "sitecustomize.py").exists():
        (folder / "sitecustomize.py").symlink_to(BESIDE / "sitecustomize.py")
    for found in here:
        # Top-level entries: modules, packages, their libraries and their metadata.
        for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            if not (folder / top).is_symlink():
                (folder / top).symlink_to(Path(str(found.locate_file(top))).resolve())
    return {"PYTHONPATH": str(folder)}


def command(script: str, *arguments: str) -> list[str]:
    """Return the command that runs a script with those packages only."""
    return [sys.executable, "-S", "-u", "-c", BOOTSTRAP, script, *arguments]


def _pins(requirements: str) -> list[tuple[str, str]]:
    lines = [line.partition("==") for line in requirements.splitlines()]
    return [(name, version) for name, _, version in lines]


def _find(name: str) -> Distribution | None:
    return next(iter(importlib.metadata.distributions(name=name, path=_path())), None)


def _path() -> list[str]:
    return [*sys.path, str(BESIDE)]
