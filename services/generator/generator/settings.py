"""The generator's settings, in addition to those of every service."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, StringConstraints, field_validator
from pydantic_settings import NoDecode

from common.settings import ServiceSettings
from generator.hub import ID

Endpoint = Annotated[str, StringConstraints(pattern=r"^https?://[A-Za-z0-9.\[\]:-]+(/[\w./-]*)?$")]


class Settings(ServiceSettings):
    """The generator's settings; `hf_endpoint` and `hf_token` are those of huggingface_hub."""

    hf_endpoint: Endpoint = "https://huggingface.co"
    hf_token: SecretStr | None = None
    # Private and gated models that every account may read with `hf_token`, separated by commas.
    shared_models: Annotated[frozenset[str], NoDecode] = frozenset()
    # The largest single card that providers commonly offer: an H100 or A100 of 80 GB.
    max_vram_mib: Annotated[int, Field(ge=1024)] = 81_559
    max_host_memory_mib: Annotated[int, Field(ge=1024)] = 262_144
    # File of base image digests, written by `python -m generator.images FILE`.
    base_images: Path | None = None

    # An index of Python packages with builds of torch for processors. Unset, modules without a GPU
    # install the usual build, which brings CUDA.
    cpu_torch_index: Endpoint | None = None

    @field_validator("shared_models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        ids = [part.strip() for part in value.split(",") if part.strip()]
        if not all(ID.fullmatch(id) for id in ids):
            raise ValueError("list ids of models such as owner/name, separated by commas")
        return frozenset(id.lower() for id in ids)
