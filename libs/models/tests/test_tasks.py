"""The rows are the only place with knowledge about tasks."""

import ast
from pathlib import Path

from models.families import FAMILIES, STACKS, stack_of
from models.tags import RENAMED, SERVABLE
from models.tasks import LIBRARIES, ROWS

ROOT = Path(__file__).parents[3]
# Whole packages that may name a tag; tests may as well.
HOME = ROOT / "libs/models"


def tags_in(source: str) -> set[str]:
    literals = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return {str(node.value) for node in literals} & {*SERVABLE, *RENAMED}


def test_no_tag_is_a_literal_outside_libs_models() -> None:
    sources = [
        path
        for folder in ("libs", "services", "clients", "deploy")
        for path in (ROOT / folder).rglob("*.py")
        if "tests" not in path.parts and HOME not in path.parents
    ]
    assert len(sources) > 100
    literals = {
        str(path.relative_to(ROOT)): tags
        for path in sources
        if (tags := tags_in(path.read_text(encoding="utf-8")))
    }
    assert literals == {}


def test_a_literal_tag_is_found() -> None:
    assert tags_in('if task == "fill-mask": ...') == {"fill-mask"}
    assert tags_in("# fill-mask") == set()


def test_each_pair_of_tag_and_library_has_one_row() -> None:
    assert len(ROWS) == sum(len(rows) for rows in LIBRARIES.values())


def test_every_row_names_a_family_that_exists_and_every_family_and_stack_has_a_row() -> None:
    # Adapters have a family of their own, and other variants of a stack depend on the model.
    assert {row.family for row in ROWS} == set(FAMILIES) - {"adapted_generation"}
    used = {stack_of(row) for row in ROWS} | {FAMILIES["adapted_generation"].stack}
    assert used == {stack for stack in STACKS if not stack.endswith(("-packed", "-vision"))}


def test_every_example_is_of_an_input_that_the_row_has() -> None:
    for row in ROWS:
        assert row.examples.keys() <= {parameter.name for parameter in row.inputs}, row.tag
