"""The Hub's description of a model: the fields that are used, validated as untrusted input."""

from typing import Annotated, Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from common.errors import HubUnavailable
from generator import weights
from generator.hub import Hub

Hex40 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Hex64 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, lt=2**50)]


class Lfs(BaseModel):
    sha256: Hex64
    size: Size


class Sibling(BaseModel):
    rfilename: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    size: Size | None = None
    blob_id: Hex40 | None = Field(None, alias="blobId")
    lfs: Lfs | None = None


class Summary(BaseModel):
    """The Hub's own reading of the weights' headers."""

    parameters: Annotated[dict[weights.Dtype, Size], Field(max_length=weights.MAX_DTYPES)]


def if_sensible(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """Drop an invalid value that the model's owner wrote: it is not a fault of the Hub."""
    try:
        return read(value)
    except ValidationError:
        return None


Name = Annotated[str, StringConstraints(max_length=128)]
Claimed = Annotated[Name | None, WrapValidator(if_sensible)]


# Bounds, since an owner may write any number of tags; few of them matter.
MAX_TAGS, MAX_RELATIONS = 1000, 8
RANKER_TAGS = frozenset(("cross-encoder", "reranker", "reranking"))
# Tags of models that compare texts token by token.
LATE_TAGS = frozenset(("colbert", "pylate"))
RELATIONS = RANKER_TAGS | LATE_TAGS | {"lora"}


def _relations(tags: Any) -> list[str]:
    """Return the tags that name the base model and how this one was derived from it."""
    if not isinstance(tags, list):
        return []
    related = [tag for tag in tags[:MAX_TAGS] if isinstance(tag, str) and len(tag) < 256]
    relations = [
        tag for tag in related if tag.lower() in RELATIONS or tag.startswith("base_model:")
    ]
    return relations[:MAX_RELATIONS]


class TransformersInfo(BaseModel):
    pipeline_tag: Claimed = None


class Card(BaseModel):
    """A model's licence, or a choice of several, as the owner names them.

    `license_name` names the licence if `license` is `other`.
    """

    license: Annotated[
        Name | Annotated[list[Name], Field(max_length=4)] | None, WrapValidator(if_sensible)
    ] = None
    license_name: Claimed = None


class Security(BaseModel):
    files_with_issues: list[Any] = Field([], alias="filesWithIssues")


class Description(BaseModel):
    """The fields of `/api/models/<id>` that are used; all others are dropped."""

    id: str
    sha: Hex40
    siblings: list[Sibling] = []
    tags: Annotated[list[str], BeforeValidator(_relations)] = []
    pipeline_tag: Claimed = None
    library_name: Claimed = None
    card: Annotated[Card | None, WrapValidator(if_sensible)] = Field(None, alias="cardData")
    gated: bool | Name | None = False
    private: bool | None = False
    disabled: bool | None = False
    transformers_info: TransformersInfo | None = Field(None, alias="transformersInfo")
    safetensors: Annotated[Summary | None, WrapValidator(if_sensible)] = None
    security: Annotated[Security | None, WrapValidator(if_sensible)] = Field(
        None, alias="securityRepoStatus"
    )

    @property
    def is_closed(self) -> bool:
        """Whether the model is gated or private."""
        return bool(self.gated or self.private)

    @property
    def licenses(self) -> list[str]:
        named = (self.card.license if self.card else None) or []
        return [name.strip().lower() for name in ([named] if isinstance(named, str) else named)]

    @property
    def base(self) -> str | None:
        """The id of the base model, by the Hub's `base_model` tags."""
        for tag in self.tags:
            name = tag.rpartition(":")[2]
            try:
                validate_repo_id(name)
            except HFValidationError:
                continue
            if "/" in name:
                return name
        return None

    @property
    def is_ranker(self) -> bool:
        """Whether the model's id or tags say that it is a ranker."""
        names = (self.id.lower(), *self.tags)
        return any(name in text for text in names for name in ("rerank", "cross-encoder"))

    @property
    def is_late(self) -> bool:
        """Whether the model's tags say that it compares texts token by token."""
        return any(tag.lower() in LATE_TAGS for tag in self.tags)

    @property
    def is_adapter(self) -> bool:
        return any(tag == "lora" or tag.startswith("base_model:adapter:") for tag in self.tags)

    @property
    def own_license(self) -> str:
        """The name of a licence that the Hub does not list; empty for a listed one."""
        called = self.card.license_name if self.card and "other" in self.licenses else None
        return (called or "").lower()

    @property
    def unsafe_files(self) -> int:
        return len(self.security.files_with_issues) if self.security else 0


async def describe(hub: Hub, id: str, revision: str) -> Description:
    answer = await hub.model(id, revision)
    try:
        description = Description.model_validate(answer)
        # For a renamed model the Hub returns the new id, which is the one to record.
        validate_repo_id(description.id)
    except (ValidationError, HFValidationError):
        raise HubUnavailable("the Hub's answer is malformed", status=502) from None
    return description


def remembered(description: Description) -> Description:
    """Return the description without the long lists that a cached one does not need."""
    return description.model_copy(update={"siblings": [], "safetensors": None})
