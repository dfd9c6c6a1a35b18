"""Markdown as HTML in the pages' own style: highlighted code, anchors, links that work."""

import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import pygments
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup
from pygments.lexers import get_lexer_by_name

from gateway.pages.highlighting import FORMATTER

# Maps a document's link to its address on these pages; None if it leads nowhere.
Resolve = Callable[[str], str | None]


def render(text: str, resolve: Resolve) -> Markup:
    """Render one of our own documents, which are trusted; leave out its comments."""
    parser = _parser()
    tokens = parser.parse(text)
    for before, token in zip([None, *tokens], tokens, strict=False):
        if before is not None and before.type == "heading_open":
            before.attrSet("id", anchor(token.content))
        if token.children:
            token.children = _linked(token.children, resolve)
    return Markup(parser.renderer.render(tokens, parser.options, {}))  # noqa: S704  (our own)


def anchor(heading: str) -> str:
    """Return a heading's anchor as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def highlight(text: str, language: str) -> str:
    # Pygments escapes what it marks.
    marked: str = pygments.highlight(text, get_lexer_by_name(language, stripnl=False), FORMATTER)
    return marked


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark").enable("table")
    for name, rule in (
        ("fence", _fence),
        ("code_block", _fence),
        ("html_block", _drop_html),
        ("table_open", _table_open),
        ("table_close", _table_close),
    ):
        parser.add_render_rule(name, rule)
    return parser


def _linked(tokens: Sequence[Token], resolve: Resolve) -> list[Token]:
    """Resolve links and images; replace a link without a target by its text."""
    remaining, dropped = [], False
    for token in tokens:
        name = {"link_open": "href", "image": "src"}.get(token.type)
        if name:
            address = resolve(str(token.attrGet(name)))
            if address is None:
                dropped = token.type == "link_open"
                continue
            token.attrSet(name, address)
        elif token.type == "link_close" and dropped:
            dropped = False
            continue
        remaining.append(token)
    return remaining


def _fence(_: Any, tokens: Sequence[Token], index: int, *__: Any) -> str:
    token = tokens[index]
    language = token.info.strip() or "text"
    place = f"code-{index}"
    return (
        f'<div class="code"><div class="code-head"><span>{escape(language)}</span>'
        f'<button type="button" class="quiet small" data-copy="{place}" hidden>Copy</button></div>'
        f'<pre id="{place}" tabindex="0">{highlight(token.content, language)}</pre></div>\n'
    )


def _drop_html(*_: Any) -> str:
    return ""


def _table_open(*_: Any) -> str:
    # The table scrolls, by keyboard too, instead of the page.
    return '<div class="table" tabindex="0"><table>\n'


def _table_close(*_: Any) -> str:
    return "</table></div>\n"
