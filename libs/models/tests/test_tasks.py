"""Facts about tasks are in the task rows only."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from models.families import BY_ONNXRUNTIME, FAMILIES, STACKS, stack_of
from models.tags import RENAMED, SERVABLE
from models.tasks import LIBRARIES, ROWS

ROOT = Path(__file__).parents[3]
# Whole packages that may name a tag; tests may as well.
HOME = ROOT / "libs/models"
TAGS = {*SERVABLE, *RENAMED}
# Tags of one word also occur in prose, so that only those of several are searched for in texts.
IN_TEXT = re.compile(
    rf"(?<![\w-])(?:{'|'.join(sorted((tag for tag in TAGS if '-' in tag), reverse=True))})(?![\w-])"
)


# A word and the hyphen beside it, in a pattern of `pattern_of`.
WORD = re.compile(r"[a-z]{2,}\\-|\\-[a-z]{2,}")
# Files other than Python's that a service reads or serves; examples for callers may name a tag.
TEXTS = {".css", ".html", ".j2", ".js", ".json", ".mjs", ".sh", ".sql", ".toml", ".ts", ".yaml"}
EXAMPLES = {
    "clients/javascript/src/schema.ts",
    "clients/openapi.json",
    "clients/openapi-released.json",
    "clients/python/lilypad_client/cli/schemas.json",
    "services/gateway/gateway/samples.json",
}


def literals(tree: ast.AST) -> Iterator[str]:
    """Yield the strings of a program, except docstrings."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            is_text = isinstance(child, ast.Constant) and isinstance(child.value, str)
            if is_text and not isinstance(node, ast.Expr):
                yield child.value


def pattern_of(node: ast.expr) -> str:
    """Return a pattern for the texts that an expression may be, empty if it may be any."""
    match node:
        case ast.Constant(value=str() as text):
            return re.escape(text)
        case ast.JoinedStr(values=parts):
            return "".join(pattern_of(part) or r"[\w-]+" for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            parts = pattern_of(left), pattern_of(right)
            return "".join(part or r"[\w-]+" for part in parts) if any(parts) else ""
    return ""


def tags_composed(tree: ast.AST) -> set[str]:
    """Return the tags that a program composes of parts, one of which has a word of the tag."""
    composed = [node for node in ast.walk(tree) if isinstance(node, (ast.JoinedStr, ast.BinOp))]
    patterns = [pattern for node in composed if WORD.search(pattern := pattern_of(node))]
    return {tag for tag in TAGS for pattern in patterns if re.fullmatch(pattern, tag)}


def tags_in(source: str) -> set[str]:
    tree = ast.parse(source)
    texts = list(literals(tree))
    return ({*texts} & TAGS).union(tags_composed(tree), *map(IN_TEXT.findall, texts))


def tags_compared(source: str) -> set[str]:
    compared = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Compare)]
    return {tag for node in compared for tag in literals(node) if tag in TAGS}


def sources_in(*folders: str) -> dict[str, str]:
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if "tests" not in path.parts and HOME not in path.parents
    }


def test_no_tag_is_a_literal_outside_libs_models() -> None:
    sources = sources_in("libs", "services", "clients", "deploy")
    assert len(sources) > 100
    assert {path: tags for path, text in sources.items() if (tags := tags_in(text))} == {}


def test_no_page_script_template_or_setting_names_a_tag() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "services", "libs/common", "clients", "deploy"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    paths = {path for path in listed.stdout.splitlines() if Path(path).suffix in TEXTS}
    assert paths > EXAMPLES
    sources = {
        path: (ROOT / path).read_text(encoding="utf-8")
        for path in paths - EXAMPLES
        if "tests" not in Path(path).parts
    }
    assert len(sources) > 100
    named = {path: {*tags} for path, text in sources.items() if (tags := IN_TEXT.findall(text))}
    assert named == {}


def test_no_benchmark_compares_a_task_with_a_literal_tag() -> None:
    sources = sources_in("benchmarks")
    assert len(sources) > 30
    assert {path: tags for path, text in sources.items() if (tags := tags_compared(text))} == {}


def test_the_guard_finds_a_tag_in_a_string_but_not_in_a_comment() -> None:
    assert tags_in('if task == "fill-mask": ...') == {"fill-mask"}
    assert tags_in('refuse(f"{id} has pipeline_tag: fill-mask")') == {"fill-mask"}
    assert tags_in('task = "fill" + "-mask"') == {"fill-mask"}
    assert tags_in('task = f"fill-{what}"') == {"fill-mask"}
    assert tags_in('run = f"bench-{id}"; a + b') == set()
    assert tags_in("# fill-mask") == set()
    assert tags_in('"""Serves fill-mask."""') == set()
    assert tags_compared('if task in ("fill-mask", "translation"): ...') == {
        "fill-mask",
        "translation",
    }


def test_each_pair_of_tag_and_library_has_one_row() -> None:
    assert len(ROWS) == sum(len(rows) for rows in LIBRARIES.values())


def test_every_row_names_a_family_that_exists_and_every_family_and_stack_has_a_row() -> None:
    # Adapters and ONNX files have families of their own, and other variants of a stack depend on
    # the model.
    assert BY_ONNXRUNTIME.keys() <= {row.family for row in ROWS}
    others = {"adapted_generation", *BY_ONNXRUNTIME.values()}
    assert {row.family for row in ROWS} == set(FAMILIES) - others
    used = {stack_of(row) for row in ROWS} | {FAMILIES[name].stack for name in others}
    assert used == {stack for stack in STACKS if not stack.endswith(("-packed", "-vision"))}


def test_every_example_names_an_input_of_its_row() -> None:
    for row in ROWS:
        assert row.examples.keys() <= {parameter.name for parameter in row.inputs}, row.tag
