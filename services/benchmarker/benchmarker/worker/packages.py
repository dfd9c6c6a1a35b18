"""The packages that a module pins, as a folder of links that its process imports from.

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
    """Return the missing packages, and the installed versions that differ from the pins."""
    missing, others = [], {}
    for name, wanted in _pins(requirements):
        installed = _find(name)
        if installed is None:
            missing.append(name)
        elif (
            installed.version.partition("+")[0] != wanted
        ):  # builds for other devices count as equal
            others[name] = installed.version
    return missing, others


def link(requirements: str, folder: Path) -> dict[str, str]:
    """Fill `folder` with links to the pinned packages; return the variables to import them."""
    folder.mkdir()
    here = [distribution for name, _ in _pins(requirements) if (distribution := _find(name))]
    everything = importlib.metadata.distributions(path=_path())
    here += [
        distribution for distribution in everything if IMAGE_PACKAGES.fullmatch(distribution.name)
    ]
    if (
        "torchvision" in {distribution.name for distribution in here}
        and (BESIDE / "sitecustomize.py").exists()
    ):
        (folder / "sitecustomize.py").symlink_to(BESIDE / "sitecustomize.py")
    for distribution in here:
        # Top-level entries: modules, packages, their libraries and their metadata.
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (folder / top).is_symlink():
                (folder / top).symlink_to(Path(str(distribution.locate_file(top))).resolve())
    return {"PYTHONPATH": str(folder)}


def command(script: str, *arguments: str) -> list[str]:
    """Return the command that runs a script with the linked packages only."""
    return [sys.executable, "-S", "-u", "-c", BOOTSTRAP, script, *arguments]


def _pins(requirements: str) -> list[tuple[str, str]]:
    lines = [line.partition("==") for line in requirements.splitlines()]
    return [(name, version) for name, _, version in lines]


def _find(name: str) -> Distribution | None:
    return next(iter(importlib.metadata.distributions(name=name, path=_path())), None)


def _path() -> list[str]:
    return [*sys.path, str(BESIDE)]
