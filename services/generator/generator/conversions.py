"""The Hub's own conversion of pickled weights to safetensors.

The Hub's bot opens a pull request with `model.safetensors` beside the pickles. The conversion is
used only while those pickles are still the branch's, byte for byte; whatever else the branch has
got since then does not matter, but the module has the configs and the tokenizer of the request.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from common.errors import ModelNotFound, ModelRefused
from generator.description import Description, describe
from generator.hub import Hub
from generator.layout import FOLDER
from generator.selection import LOADED, LOADED_TOO, name_of

ROBOT = "SFconvertbot"
TITLE = "Adding `safetensors` variant of this model"
# The files that the libraries load, in any folder.
WEIGHTS = re.compile(r"(?:^|/)(?:diffusion_)?pytorch_model(?:-[0-9]{5}-of-[0-9]{5})?\.bin$")
# Folders that an index may name, also within a router's; other paths are never shown.
FOLDERS = re.compile(rf"(?:{FOLDER.pattern}/){{0,2}}")
# More than the bot has ever opened for one model.
MAX_REQUESTS = 5


class Author(BaseModel):
    name: str


class PullRequest(BaseModel):
    num: Annotated[int, Field(gt=0, lt=10**7)]
    title: str
    author: Author
    status: str
    is_pull_request: bool = Field(alias="isPullRequest")

    @property
    def converts(self) -> bool:
        is_open = self.is_pull_request and self.status == "open"
        return is_open and self.author.name == ROBOT and self.title == TITLE


async def find(hub: Hub, description: Description) -> tuple[int, Description, list[str]] | None:
    """Find the newest conversion of a model's pickled weights.

    Returns its pull request, its description, and the files that differ from the branch's,
    those at the root first.
    """
    try:
        for request in _read(await hub.pull_requests(description.id, ROBOT)):
            converted = await describe(hub, description.id, f"refs/pr/{request.num}")
            if _weights(description) and _weights(description) <= _weights(converted):
                changed = _loaded(description) ^ _loaded(converted)
                names = {name for name, _ in changed}
                differing = sorted(names, key=lambda name: ("/" in name, name))
                return request.num, converted, differing
    except (ModelNotFound, ModelRefused):  # no such page, or none to read
        return None
    return None


def _read(answer: dict[str, Any]) -> list[PullRequest]:
    requests = []
    entries = answer.get("discussions")
    for entry in entries if isinstance(entries, list) else []:
        try:
            request = PullRequest.model_validate(entry)
        except ValidationError:
            continue
        if request.converts:
            requests.append(request)
    return sorted(requests, key=lambda request: -request.num)[:MAX_REQUESTS]


def _weights(description: Description) -> set[tuple[str, str | None]]:
    """Return the pickled weights by name and digest."""
    return {(name, digest) for name, digest in _digests(description) if WEIGHTS.search(name)}


def _loaded(description: Description) -> set[tuple[str, str | None]]:
    """Return the configs and the tokenizers' files, by name and digest."""
    return {(name, digest) for name, digest in _digests(description) if _is_loaded(name)}


def _is_loaded(path: str) -> bool:
    name = name_of(path)
    known = name in LOADED or LOADED_TOO.fullmatch(name)
    return bool(known and FOLDERS.fullmatch(path.removesuffix(name)))


def _digests(description: Description) -> Iterator[tuple[str, str | None]]:
    for file in description.siblings:
        yield file.rfilename, file.lfs.sha256 if file.lfs else file.blob_id
