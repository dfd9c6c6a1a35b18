"""The address of a model, as people paste it.

Nothing of what was submitted is ever requested: an id and a revision are taken
out of it, each is checked on its own, and addresses are built anew from them.
"""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from common.errors import InvalidModel

# Before anything parses it: urlsplit drops newlines and reads a backslash as a
# separator, and other scripts have characters that look like a dot or a slash.
PRINTABLE = re.compile(r"[!-\[\]-~]{1,512}")
SITES = frozenset(("huggingface.co", "huggingface.co:443", "hf.co", "hf.co:443"))
NOT_MODELS = frozenset(("datasets", "spaces", "buckets", "collections", "papers", "api"))
# Git forbids more than this; the Hub's branches and tags use no more.
REVISION = re.compile(
    r"(?!.*(?:\.\.|//|/\.|\.lock(?:/|$)))[A-Za-z0-9][A-Za-z0-9._/-]{0,127}(?<![./])"
)
COMMIT = re.compile(r"[0-9a-f]{40}")

SHAPE = "give https://huggingface.co/<owner>/<name>, also with /tree/<revision>, or <owner>/<name>"


@dataclass(frozen=True, slots=True)
class Address:
    """A model's id, valid by the Hub's own rules, and the revision asked for."""

    id: str
    revision: str = "main"


def parse(text: str, revision: str | None = None) -> Address:
    """The address of a model; `revision` goes before the one in the text.

    Raises:
        InvalidModel: it is no address of a model on the Hub.
    """
    if not PRINTABLE.fullmatch(text):
        raise InvalidModel(f"the address has characters that no address of a model has; {SHAPE}")
    model, of_address = _split_url(text) if ":" in text else (text, None)
    owner, _, name = model.rpartition("/")
    if (owner or name).lower() in SITES:
        raise InvalidModel("the address lacks its beginning, https://")
    if owner in NOT_MODELS:
        raise InvalidModel(f"this is an address of {owner}, not of a model; {SHAPE}")
    try:
        validate_repo_id(model)
    except HFValidationError:
        raise InvalidModel(f"this is not the id of a model; {SHAPE}") from None
    chosen = revision or of_address or "main"
    if not REVISION.fullmatch(chosen):
        raise InvalidModel("the revision is not a branch, tag or commit")
    return Address(model, chosen)


def _split_url(text: str) -> tuple[str, str | None]:
    try:
        url = urlsplit(text)
    except ValueError:
        raise InvalidModel(f"the address cannot be read; {SHAPE}") from None
    # The whole authority is compared, so there is no room for a user or another port.
    if url.scheme != "https" or url.netloc.lower() not in SITES:
        raise InvalidModel(f"only https://huggingface.co is read; {SHAPE}")
    if "?" in text or "#" in text:
        raise InvalidModel(f"leave out everything from ? or # on; {SHAPE}")
    model, tree, revision = url.path.strip("/").partition("/tree/")
    # The site writes a slash within a revision as %2F; a plain one begins a folder.
    if tree and "/" in revision:
        raise InvalidModel(f"give the model itself, not a folder of it; {SHAPE}")
    return model, re.sub("%2f", "/", revision, flags=re.IGNORECASE) if tree else None
