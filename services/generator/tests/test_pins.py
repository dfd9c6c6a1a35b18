"""The modules' pins are compatible, complete, and the versions tested here."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import pins

from generator import requirements
from generator.rendering import TEMPLATES
from models.families import STACKS


@pytest.mark.parametrize("stack", STACKS)
def test_a_stacks_pins_are_complete_and_match_the_tested_versions(
    stack: str,
) -> None:
    assert requirements.read(stack) == pins.pinned(stack), "make pins"


@pytest.mark.parametrize("stack", STACKS)
def test_a_stacks_pins_satisfy_the_requirements_of_each_package(stack: str) -> None:
    known = pins.constraints()
    for name in pins.closure(STACKS[stack]):
        assert pins.installed(name).partition("+")[0] == known[name][1]
        for wanted in pins.asked_for(name):
            version = known.get(pins.canonicalize_name(wanted.name))
            assert version is None or wanted.specifier.contains(version[1], prereleases=True), (
                wanted
            )


def test_every_stack_has_a_pin_file_and_no_others_exist() -> None:
    files = Path(str(TEMPLATES)) / "requirements"
    assert {file.stem for file in files.iterdir()} == set(STACKS)
