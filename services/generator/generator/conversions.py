"""Finds the Hub's own conversion of pickled weights to safetensors.

The Hub's bot opens a pull request with `model.safetensors` beside the pickles. The conversion is
used only while those pickles are still the branch's, byte for byte.
"""

from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from common.errors import ModelNotFound, ModelRefused
from generator.description import Description, describe
from generator.hub import Hub

ROBOT = "SFconvertbot"
TITLE = "Adding `safetensors` variant of this model"
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


async def find(hub: Hub, description: Description) -> tuple[int, Description] | None:
    """Find the newest conversion of these weights: its pull request and its description."""
    try:
        for request in _read(await hub.pull_requests(description.id, ROBOT)):
            converted = await describe(hub, description.id, f"refs/pr/{request.num}")
            if _digests(description) <= _digests(converted):
                return request.num, converted
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


def _digests(description: Description) -> set[tuple[str, str]]:
    """Return the large files by name and digest: the weights, whatever their format."""
    return {(file.rfilename, file.lfs.sha256) for file in description.siblings if file.lfs}
