"""The packages that a module pins, and no others: a folder of links that its process imports from.

A module that works only because this worker has more than it asks for would fail where its image
has just that.
"""

import importlib.metadata
import re
import sys
from importlib.metadata import Distribution
from pathlib import Path

# What this environment must not see itself: transformers prepares pictures otherwise as soon as
# torchvision is there. `make setup` fills it; in a worker's image all of it may be installed.
BESIDE = Path(sys.prefix) / "beside"
# What pins leave out because every image has it: torch's own libraries, and what pip brings.
OF_THE_IMAGE = re.compile(r"nvidia[-_].*|cuda[-_].*|triton|pip|setuptools|wheel", re.IGNORECASE)
# Python without the environment's packages, but with what lies beside torchvision for its sake.
START = (
    "import runpy, site, sys\n"
    "site.execsitecustomize()\n"
    "sys.argv = sys.argv[1:]\n"
    "runpy.run_path(sys.argv[0], run_name='__main__')\n"
)


def compare(requirements: str) -> tuple[list[str], dict[str, str]]:
    """Packages that are not here, and those of another version: `name: here`."""
    missing, others = [], {}
    for name, wanted in _pins(requirements):
        found = _find(name)
        if found is None:
            missing.append(name)
        elif found.version.partition("+")[0] != wanted:  # a build for another device is the same
            others[name] = found.version
    return missing, others


def link(requirements: str, folder: Path) -> dict[str, str]:
    """Fill `folder` with links to the packages; the environment of a process that has just them."""
    folder.mkdir()
    here = [found for name, _ in _pins(requirements) if (found := _find(name))]
    everything = importlib.metadata.distributions(path=_path())
    here += [found for found in everything if OF_THE_IMAGE.fullmatch(found.name)]
    if "torchvision" in {found.name for found in here} and (BESIDE / "sitecustomize.py").exists():
        (folder / "sitecustomize.py").symlink_to(BESIDE / "sitecustomize.py")
    for found in here:
        # Modules, packages, their libraries and their metadata: what lies at the top.
        for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            if not (folder / top).is_symlink():
                (folder / top).symlink_to(Path(str(found.locate_file(top))).resolve())
    return {"PYTHONPATH": str(folder)}


def command(script: str, *arguments: str) -> list[str]:
    """What runs a script in such a process."""
    return [sys.executable, "-S", "-u", "-c", START, script, *arguments]


def _pins(requirements: str) -> list[tuple[str, str]]:
    lines = [line.partition("==") for line in requirements.splitlines()]
    return [(name, version) for name, _, version in lines]


def _find(name: str) -> Distribution | None:
    return next(iter(importlib.metadata.distributions(name=name, path=_path())), None)


def _path() -> list[str]:
    return [*sys.path, str(BESIDE)]
