"""The address of a model, in any form that people paste: one reading for every door.

The submitted text itself is never requested: an id and a revision are extracted,
each is validated on its own, and addresses are built from them.
"""

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import StringConstraints

from common.errors import InvalidModel

# Checked before any parsing: other scripts have characters that look like a dot or a slash, and a
# backslash is a separator to some servers.
PRINTABLE = re.compile(r"[!-\[\]-~]{1,512}")
SITES = frozenset(("huggingface.co", "hf.co"))
# The whole authority is compared, so there is no room for a user or another port.
_SITE = re.compile(r"https://(?:huggingface|hf)\.co(?::443)?(?=[/?#]|\Z)", re.IGNORECASE)
# Other kinds of Hub addresses, by their first path segment.
NOT_MODELS = {
    "datasets": "a dataset",
    "spaces": "a Space",
    "buckets": "a bucket",
    "collections": "a collection",
    "papers": "a paper",
    "organizations": "an organization",
    "blog": "an article",
    "posts": "a post",
    "docs": "the Hub's documentation",
    "tasks": "a task",
    "models": "the list of models",
    "settings": "the Hub's settings",
    "api": "the Hub's API",
}
# Pages of a model's repository that show a part of it.
PAGES = {
    "blob": "a file",
    "raw": "a file",
    "resolve": "a file",
    "commit": "a commit",
    "discussions": "a discussion",
}
# The Hub's own rule of an id: each part begins and ends with a letter, a digit or `_`.
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
ID = re.compile(rf"(?!.*(?:--|\.\.|\.git\Z))(?:{_PART}/)?{_PART}")
# Stricter than Git, but sufficient for branches and tags on the Hub.
REVISION = re.compile(
    r"(?!.*(?:\.\.|//|/\.|\.lock(?:/|$)))[A-Za-z0-9][A-Za-z0-9._/-]{0,127}(?<![./])"
)
COMMIT = re.compile(r"[0-9a-f]{40}")
# A model's path, whose own name may be "tree" too; a longer one names a folder of the repository.
_TREE = re.compile(
    r"(?P<id>(?:[^/]+/)?[^/]+)/tree/(?P<revision>refs/pr/[0-9]+|[^/]+)(?P<folder>/.+)?"
)
MAIN = "main"

# An address as it is submitted; `parse` reads it.
AddressText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=512)]
SHAPE = (
    "send https://huggingface.co/<owner>/<name> or <owner>/<name>, optionally followed by"
    " /tree/<revision>"
)


@dataclass(frozen=True, slots=True)
class Address:
    """A model's id, valid by the Hub's own rules, and the requested revision.

    `file` is the requested GGUF file; it is compared with those of the repository.
    """

    id: str
    revision: str = MAIN
    file: str | None = None

    @property
    def at(self) -> str:
        """The revision and the file, joined by a colon as in git, since no revision has one."""
        return self.beside(self.revision)

    def beside(self, revision: str) -> str:
        """Return another revision, such as the commit, with the same file."""
        return revision if self.file is None else f"{revision}:{self.file}"


def parse(text: str, revision: str | None = None) -> Address:
    """Parse the address of a model; `revision` takes precedence over the one in the text.

    Blanks around it, more than one slash, and what follows `?` or `#` are ignored.

    Raises:
        InvalidModel: the text is not the address of a model on the Hub.
    """
    text = text.strip()
    if not PRINTABLE.fullmatch(text):
        raise InvalidModel(
            f"the address has characters that a model's address cannot have; {SHAPE}"
        )
    model, of_address = _split_revision(_path_of(text))
    first, *rest = model.split("/")
    if first.lower() in SITES:
        raise InvalidModel("the address must begin with https://")
    if first in NOT_MODELS:
        raise InvalidModel(f"this is the address of {NOT_MODELS[first]}, not of a model; {SHAPE}")
    if len(rest) > 1 and (pages := [PAGES[part] for part in rest[:2] if part in PAGES]):
        raise InvalidModel(f"this is the address of {pages[0]} in a repository; {SHAPE}")
    if not ID.fullmatch(model):
        raise InvalidModel(f"this is not a model's id; {SHAPE}")
    chosen = revision or of_address or MAIN
    if not REVISION.fullmatch(chosen):
        raise InvalidModel("the revision is not the name of a branch, a tag or a commit")
    return Address(model, chosen)


def model_id_of(name: str) -> str:
    """Return the name under which a model is recorded: its id if `name` is its address.

    A revision other than main is a model of its own, `<id>/tree/<revision>`. Any other name is
    returned as it is, without the blanks around it.
    """
    name = name.strip()
    # Most names are ids, which need no parsing.
    if "://" not in name and "/tree/" not in name and not name.endswith("/"):
        return name
    try:
        address = parse(name)
    except InvalidModel:
        return name
    if address.revision == MAIN:
        return address.id
    return f"{address.id}/tree/{address.revision.replace('/', '%2F')}"


def _path_of(text: str) -> str:
    site = _SITE.match(text)
    if site is None:
        if ":" in text:
            raise InvalidModel(f"only models on https://huggingface.co are served; {SHAPE}")
        return text.rstrip("/")
    path = re.split(r"[?#]", text[site.end() :], maxsplit=1)[0]
    return "/".join(part for part in path.split("/") if part)


def _split_revision(path: str) -> tuple[str, str | None]:
    tree = _TREE.fullmatch(path)
    if tree is None:
        return path, None
    # The site writes a slash within a revision as %2F; a plain one begins a folder, except in
    # the name of a pull request, as its pages show it.
    if tree["folder"]:
        raise InvalidModel(f"give the model itself, not a folder of it; {SHAPE}")
    return tree["id"], re.sub("%2f", "/", tree["revision"], flags=re.IGNORECASE)
