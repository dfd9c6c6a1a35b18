"""requirements.txt of each stack: written and resolved for a release (`make pins`)."""

from functools import cache
from importlib.resources import files

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@cache
def read(stack: str) -> str:
    folder = files("generator") / "templates" / "requirements"
    return (folder / f"{stack}.txt").read_text(encoding="utf-8")


@cache
def packages(stack: str) -> frozenset[str]:
    """Return the canonical names of a stack's packages."""
    return frozenset(canonicalize_name(Requirement(line).name) for line in read(stack).splitlines())
