from typing import Annotated

from pydantic import field_validator
from pydantic_settings import NoDecode

from common.settings import ServiceSettings
from realtime.origins import origin


class RealtimeSettings(ServiceSettings):
    http_host: str = "127.0.0.1"
    http_port: int = 8001
    # The origin of our own pages; they may connect, as may pages of the socket's own host.
    public_url: str = "http://127.0.0.1:8080"
    # Other origins whose pages may connect, separated by commas: https://app.example.com
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = ()

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        origins = [part.strip().rstrip("/").lower() for part in value.split(",") if part.strip()]
        for listed in origins:
            if not listed.startswith(("http://", "https://")) or origin(listed) != listed:
                raise ValueError("list origins such as https://app.example.com, without a path")
        return tuple(origins)
