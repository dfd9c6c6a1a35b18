"""Models of the Hub that were made from a refused one, and that modules would serve.

The Hub lists them by its `base_model` relation, with enough to judge each: in one call, so what
only their files say is not considered.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError, WrapValidator

from common.errors import ModelRefused, ServiceError
from generator.description import Name, if_sensible
from generator.hub import Hub
from generator.licenses import NON_COMMERCIAL
from generator.snapshots import Recent
from models import packing
from models.origins import NATIVE
from models.tables import architectures
from models.tags import RENAMED
from models.tasks import LIBRARIES
from models.tasks.sentences import RANKINGS

# Refusals that another form of the same model may not meet.
HELPED = frozenset(
    ("architecture", "custom-code", "gguf-only", "incomplete", "library", "pickle-only")
) | {"no-weights", "quantized", "too-large"}
# How long a refusal waits for them, and how many it names.
LIST_TIMEOUT_S = 3.0
MAX_NAMED = 3
# Refused models that are kept with their relatives, and for how long.
MAX_KEPT = 512
KEPT_S = 3600.0
# Tags of the Hub on models whose safetensors are no model that transformers loads by itself.
OTHERS = frozenset(("gguf", "lora", "mlx", "onnx"))


class Config(BaseModel):
    model_type: Annotated[str | None, WrapValidator(if_sensible)] = None
    architectures: Annotated[list[str] | None, WrapValidator(if_sensible)] = None
    quantization_config: Annotated[dict[str, Any] | None, WrapValidator(if_sensible)] = None


class Relative(BaseModel):
    """A model in the Hub's list: the fields by which it is judged."""

    id: str
    pipeline_tag: Annotated[Name | None, WrapValidator(if_sensible)] = None
    library_name: Annotated[Name | None, WrapValidator(if_sensible)] = None
    gated: Any = False
    tags: Annotated[list[str], WrapValidator(if_sensible)] = []
    config: Annotated[Config | None, WrapValidator(if_sensible)] = None


class Relatives:
    """The models made from refused ones, cached: a refusal that is cached asks the Hub nothing."""

    def __init__(self, hub: Hub, clock: Callable[[], float]) -> None:
        self.hub = hub
        self.clock = clock
        # By id: the served ones, and when they were listed.
        self._kept: Recent[str, tuple[list[str], float]] = Recent(MAX_KEPT)

    async def add(self, id: str, error: ModelRefused) -> ModelRefused:
        """Name the models made from a refused one in its refusal, if the Hub lists any."""
        if error.details.get("reason") not in HELPED:
            return error
        served, since = self._kept.use(id) or ([], -math.inf)
        if self.clock() - since > KEPT_S:
            served = await self._served(id)
            self._kept.keep(id, (served, self.clock()))
        if not served:
            return error
        shown = ", ".join(f"`{one}`" for one in served)
        which = "a model" if len(served) == 1 else "models"
        message = f"{error.message}; or {which} made from it: {shown}"
        return ModelRefused(message, **error.details, made_from_it=served)

    async def _served(self, id: str) -> list[str]:
        try:
            async with asyncio.timeout(LIST_TIMEOUT_S):
                listed = await self.hub.made_from(id)
        except (ServiceError, TimeoutError):  # also kept, so that a slow Hub is not asked again
            return []
        return [one for one in filter(None, map(_served, listed)) if one != id][:MAX_NAMED]


def _served(entry: dict[str, Any]) -> str | None:
    """Return the id of a listed model if modules would serve it, as far as the list says."""
    try:
        model = Relative.model_validate(entry)
    except ValidationError:
        return None
    tags, config = set(model.tags or ()), model.config or Config()
    kind, packed = config.model_type, config.quantization_config
    refused = (
        model.gated,
        "safetensors" not in tags or not tags.isdisjoint(OTHERS),
        any(tag.startswith("base_model:adapter:") for tag in tags),
        any(NON_COMMERCIAL.search(tag) for tag in tags if tag.startswith("license:")),
        "custom_code" in tags and kind not in NATIVE,
        packed is not None and "kind" not in packing.read(packed),
    )
    return model.id if not any(refused) and _runs(model, config) else None


def _runs(model: Relative, config: Config) -> bool:
    """Return whether modules for the model's task run its architecture."""
    kind, named = config.model_type, config.architectures or []
    tag = RENAMED.get(model.pipeline_tag or "", model.pipeline_tag or "")
    row = LIBRARIES["transformers"].get(tag)
    sentences = LIBRARIES["sentence-transformers"].get(tag)
    if sentences and (row is None or model.library_name == "sentence-transformers"):
        if tag in RANKINGS:
            return any(name.endswith("ForSequenceClassification") for name in named)
        return kind in architectures()[sentences.head or "sentence-transformers"]
    if row is None or kind not in architectures().get(tag, ()):
        return False
    return not row.classes or any(name.endswith(row.classes) for name in named)
