"""requirements.txt of each family: written and resolved for a release (`make pins`)."""

from functools import cache
from importlib.resources import files

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@cache
def of(family: str) -> str:
    folder = files("generator") / "templates" / "requirements"
    return (folder / f"{family}.txt").read_text(encoding="utf-8")


@cache
def packages(family: str) -> frozenset[str]:
    """Their canonical names."""
    return frozenset(canonicalize_name(Requirement(line).name) for line in of(family).splitlines())
