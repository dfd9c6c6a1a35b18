"""The pins of each stack: its packages and all their dependencies.

    python services/generator/tests/pins.py

The versions are those of constraints.txt, with which the tests run. torch's own CUDA libraries are
not pinned here: torch requires one exact version of each.
"""

import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from generator.rendering import TEMPLATES
from hub import vision
from models.families import STACKS

ROOT = Path(__file__).parents[3]
# The base images' environment: Linux on x86-64, and their Python.
IMAGE = {
    "extra": "",
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.14",
    "python_version": "3.11",
    "sys_platform": "linux",
}
# Build tools that every image has and no module needs.
OF_THE_IMAGE = {"pip", "setuptools", "wheel"}
OF_CUDA = re.compile(r"nvidia-.*|cuda-.*|triton")


def constraints() -> dict[str, tuple[str, str]]:
    """Return the written name and the version of each constraint, by canonical name."""
    versions = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line):
            versions[canonicalize_name(match[1])] = match[1], match[2]
    return versions


def distribution(name: str) -> metadata.Distribution:
    """Return the installed distribution of a package. Raises StopIteration if there is none."""
    path = [*sys.path, str(vision.FOLDER)]
    return next(iter(metadata.distributions(name=name, path=path)))


def installed(name: str) -> str:
    return distribution(name).version


def asked_for(name: str, extras: Iterable[str] = ()) -> list[Requirement]:
    """Return the requirements of the installed package that apply in the images."""
    wanted = [Requirement(text) for text in distribution(name).requires or ()]
    return [
        requirement
        for requirement in wanted
        if requirement.marker is None
        or any(requirement.marker.evaluate({**IMAGE, "extra": extra}) for extra in ("", *extras))
    ]


def closure(needs: Iterable[str]) -> list[str]:
    """Return the canonical names of the packages and all their dependencies."""
    names: set[str] = set()
    left = [Requirement(name) for name in needs]
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        if name in names or name in OF_THE_IMAGE or OF_CUDA.fullmatch(name):
            continue
        names.add(name)
        left += asked_for(name, wanted.extras)
    return sorted(names)


def pinned(stack: str) -> str:
    """Render a stack's requirements.txt. Raises KeyError if constraints.txt lacks a version."""
    known = constraints()
    return "".join("{}=={}\n".format(*known[name]) for name in closure(STACKS[stack]))


if __name__ == "__main__":
    folder = Path(str(TEMPLATES)) / "requirements"
    for file in folder.glob("*.txt"):
        file.unlink()
    for stack in STACKS:
        (folder / f"{stack}.txt").write_text(pinned(stack), encoding="utf-8")
