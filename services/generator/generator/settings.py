"""What the generator needs to know beside what every service does."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, StringConstraints

from common.settings import ServiceSettings

Endpoint = Annotated[str, StringConstraints(pattern=r"^https?://[A-Za-z0-9.\[\]:-]+(/[\w./-]*)?$")]


class Settings(ServiceSettings):
    """`hf_endpoint` and `hf_token` mean what they mean to huggingface_hub."""

    hf_endpoint: Endpoint = "https://huggingface.co"
    hf_token: SecretStr | None = None
    # The largest single card that providers commonly offer: an H100 or A100 of 80 GB.
    largest_vram_mib: Annotated[int, Field(ge=1024)] = 81_559
    largest_memory_mib: Annotated[int, Field(ge=1024)] = 262_144
    # What `python -m generator.images FILE` wrote: the digests of the base images.
    base_images: Path | None = None
