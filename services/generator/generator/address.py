"""The address of a model, in any form that people paste.

The submitted text itself is never requested: an id and a revision are extracted,
each is validated on its own, and addresses are built from them.
"""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from common.errors import InvalidModel

# Checked before any parsing: urlsplit drops newlines and treats a backslash as a separator, and
# other scripts have characters that look like a dot or a slash.
PRINTABLE = re.compile(r"[!-\[\]-~]{1,512}")
SITES = frozenset(("huggingface.co", "huggingface.co:443", "hf.co", "hf.co:443"))
# Other kinds of Hub addresses, by their first path segment.
NOT_MODELS = {
    "datasets": "a dataset",
    "spaces": "a Space",
    "buckets": "a bucket",
    "collections": "a collection",
    "papers": "a paper",
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
BLANKS = " \t\r\n"
# Stricter than Git, but sufficient for branches and tags on the Hub.
REVISION = re.compile(
    r"(?!.*(?:\.\.|//|/\.|\.lock(?:/|$)))[A-Za-z0-9][A-Za-z0-9._/-]{0,127}(?<![./])"
)
COMMIT = re.compile(r"[0-9a-f]{40}")

SHAPE = (
    "give https://huggingface.co/<owner>/<name> or <owner>/<name>, each also with /tree/<revision>"
)


@dataclass(frozen=True, slots=True)
class Address:
    """A model's id, valid by the Hub's own rules, and the requested revision.

    `file` is the requested GGUF file; it is compared with those of the repository.
    """

    id: str
    revision: str = "main"
    file: str | None = None

    @property
    def at(self) -> str:
        """The revision, with the file as git writes it: no revision has a colon."""
        return self.beside(self.revision)

    def beside(self, revision: str) -> str:
        """Return another revision, such as the commit, with the same file."""
        return revision if self.file is None else f"{revision}:{self.file}"


def parse(text: str, revision: str | None = None) -> Address:
    """Parse the address of a model; `revision` takes precedence over the one in the text.

    Raises:
        InvalidModel: the text is not the address of a model on the Hub.
    """
    text = text.strip(BLANKS)
    if not PRINTABLE.fullmatch(text):
        raise InvalidModel(
            f"the address has characters that a model's address cannot have; {SHAPE}"
        )
    model, of_address = _split_revision(_path_of(text) if ":" in text else text)
    owner, _, name = model.rpartition("/")
    if (owner or name).lower() in SITES:
        raise InvalidModel("the address must begin with https://")
    first, *rest = model.split("/")
    if first in NOT_MODELS:
        raise InvalidModel(f"this is the address of {NOT_MODELS[first]}, not of a model; {SHAPE}")
    if len(rest) > 1 and (pages := [PAGES[part] for part in rest[:2] if part in PAGES]):
        raise InvalidModel(f"this is the address of {pages[0]} in a repository; {SHAPE}")
    try:
        validate_repo_id(model)
    except HFValidationError:
        raise InvalidModel(f"this is not a model's id; {SHAPE}") from None
    chosen = revision or of_address or "main"
    if not REVISION.fullmatch(chosen):
        raise InvalidModel("the revision is not the name of a branch, a tag or a commit")
    return Address(model, chosen)


def _path_of(text: str) -> str:
    try:
        url = urlsplit(text)
    except ValueError:
        raise InvalidModel(f"the address cannot be read; {SHAPE}") from None
    # The whole authority is compared, so there is no room for a user or another port.
    if url.scheme != "https" or url.netloc.lower() not in SITES:
        raise InvalidModel(f"only https://huggingface.co is read; {SHAPE}")
    if "?" in text or "#" in text:
        raise InvalidModel(f"leave out everything from ? or # on; {SHAPE}")
    return url.path.strip("/")


def _split_revision(path: str) -> tuple[str, str | None]:
    model, tree, revision = path.partition("/tree/")
    # The site writes a slash within a revision as %2F; a plain one begins a folder.
    if tree and "/" in revision:
        raise InvalidModel(f"give the model itself, not a folder of it; {SHAPE}")
    return model, re.sub("%2f", "/", revision, flags=re.IGNORECASE) if tree else None
