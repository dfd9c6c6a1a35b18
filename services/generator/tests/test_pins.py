"""What modules install fits together, is all of it, and is what was tested here."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import pins

from generator import requirements
from generator.rendering import TEMPLATES
from generator.tasks import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pins_of_a_family_are_all_that_it_installs_at_the_versions_of_the_tests(
    family: str,
) -> None:
    assert requirements.of(family) == pins.pinned(family), "make pins"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pins_of_a_family_agree_with_what_each_package_asks_for(family: str) -> None:
    known = pins.constraints()
    for name in pins.closure(FAMILIES[family].needs):
        assert pins.installed(name).partition("+")[0] == known[name][1]
        for wanted in pins.asked_for(name):
            given = known.get(pins.canonicalize_name(wanted.name))
            assert given is None or wanted.specifier.contains(given[1], prereleases=True), wanted


def test_there_are_pins_for_each_family_and_no_others() -> None:
    files = Path(str(TEMPLATES)) / "requirements"
    assert {file.stem for file in files.iterdir()} == set(FAMILIES)
