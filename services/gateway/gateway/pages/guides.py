"""The guides of docs/ as pages below /docs."""

import posixpath
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from markupsafe import Markup

from gateway.pages import markdown

# A link to docs/ in a checkout; a copy in a wheel.
FOLDER = Path(str(files("gateway"))) / "guides"
ROOT = "/docs"
SECTIONS = {"how-to": "Guides", "reference": "Reference", "decisions": "Decisions"}
# Suffixes of files that guides show or offer for download.
ATTACHMENTS = {".png", ".svg", ".json"}


@dataclass(frozen=True)
class Guide:
    address: str
    title: str
    file: Path


@cache
def guides() -> dict[str, Guide]:
    """Return all guides by address, in the order in which they are listed."""
    by_address = {}
    for section in SECTIONS:
        for file in sorted((FOLDER / section).glob("*.md")):
            with file.open(encoding="utf-8") as lines:
                title = next(lines).lstrip("# ").strip()
            address = _address(f"{section}/{file.name}")
            by_address[address] = Guide(address, title, file)
    return by_address


@cache
def attachments() -> dict[str, Path]:
    """Return the files that guides link to, by address."""
    return {
        f"{ROOT}/{file.relative_to(FOLDER).as_posix()}": file
        for file in FOLDER.rglob("*")
        if file.suffix in ATTACHMENTS
    }


@cache
def contents() -> list[tuple[str, list[Guide]]]:
    """Return the guides by section."""
    return [
        (title, [guide for guide in guides().values() if guide.file.parent.name == section])
        for section, title in SECTIONS.items()
    ]


@cache
def render(guide: Guide) -> Markup:
    """Render the guide as HTML; takes some 10 ms the first time."""

    def resolve(link: str) -> str | None:
        parts = urlsplit(link)
        if parts.scheme:
            return link
        if not parts.path:
            return link if parts.fragment else None
        path = posixpath.join(guide.file.parent.name, parts.path)
        address = _address(posixpath.normpath(path))
        if address not in guides() and address not in attachments():
            return None  # a file of the repository alone
        return f"{address}#{parts.fragment}" if parts.fragment else address

    return markdown.render(guide.file.read_text(encoding="utf-8"), resolve)


def _address(path: str) -> str:
    """Return `how-to/keys.md` as /docs/how-to/keys, `decisions/README.md` as /docs/decisions."""
    return f"{ROOT}/{path.removesuffix('.md').removesuffix('/README')}"
