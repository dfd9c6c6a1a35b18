"""What modules install fits together, and is what was tested here."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from generator.rendering import requirements
from generator.tasks import FAMILIES

ROOT = Path(__file__).parents[3]


def pins(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line):
            found[canonicalize_name(match[1])] = match[2]
    return found


CONSTRAINTS = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pins_of_a_family_are_those_of_the_tests(family: str) -> None:
    chosen = pins(requirements(family))
    assert len(chosen) == len(requirements(family).splitlines())
    assert {name: CONSTRAINTS.get(name) for name in chosen} == chosen


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pins_of_a_family_agree_with_what_each_package_asks_for(family: str) -> None:
    chosen = pins(requirements(family))
    for name, version in chosen.items():
        assert metadata.version(name).partition("+")[0] == version
        for text in metadata.requires(name) or ():
            wanted = Requirement(text)
            environment = {**default_environment(), "extra": ""}
            if wanted.marker and not wanted.marker.evaluate(environment):
                continue
            given = chosen.get(canonicalize_name(wanted.name))
            assert given is None or wanted.specifier.contains(given, prereleases=True), text
