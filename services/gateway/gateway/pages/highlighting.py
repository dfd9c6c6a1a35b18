"""A module's files with highlighted syntax, and its resources from module.yaml."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pygments
import yaml
from markupsafe import Markup
from pygments.formatters.html import HtmlFormatter
from pygments.lexers import get_lexer_by_name

# Languages by file; other files are shown without highlighting.
LANGUAGES = {
    "Dockerfile": "docker",
    "README.md": "markdown",
    "lilypad_module.json.tmpl": "json",
    "module.yaml": "yaml",
    "run_inference.py": "python",
}
# Classes alone: the policy of the pages takes no inline styles.
FORMATTER = HtmlFormatter(nowrap=True)
# A module has six files of 40 KiB in all.
MAX_CACHED_FILES = 96
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class File:
    name: str
    language: str
    text: Markup
    lines: int
    size: int


# Of figures whose source the manifest does not name.
SOURCES = {"gpu": "the option, or the model's size: from 500 million parameters on"}


@dataclass(frozen=True)
class Resource:
    """A figure of module.yaml's `resources`, with where it comes from."""

    name: str
    value: Any
    source: str


def highlight(files: dict[str, str]) -> list[File]:
    """Highlight every file; takes about 40 ms of CPU for a module that is not cached."""
    return [_file(name, text) for name, text in files.items()]


def resources(files: dict[str, str]) -> list[Resource]:
    manifest = yaml.load(files["module.yaml"], LOADER)  # noqa: S506  (a safe loader, in C)
    needs = manifest["resources"]
    sources = needs.get("sources", {})
    return [
        Resource(name, value, sources.get(name, SOURCES.get(name, "")))
        for name, value in needs.items()
        # The page shows a measurement beside the verdict.
        if name not in ("sources", "vramSource", "measured")
    ]


@lru_cache(MAX_CACHED_FILES)
def _file(name: str, text: str) -> File:
    language = LANGUAGES.get(name, "text")
    lexer = get_lexer_by_name(language, stripnl=False)
    # Pygments escapes what it marks.
    marked = Markup(pygments.highlight(text, lexer, FORMATTER))  # noqa: S704
    return File(name, language, marked, text.count("\n"), len(text.encode()))
