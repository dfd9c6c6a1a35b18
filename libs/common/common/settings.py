"""Settings of every service, read from the environment."""

import re
import sys
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ORIGIN = re.compile(r"https?://[^/\s?#]+")


def split_origins(value: object) -> object:
    """Split a comma-separated list of web origins, in lower case and without a final slash."""
    if not isinstance(value, str):
        return value
    origins = [part.strip().rstrip("/").lower() for part in value.split(",") if part.strip()]
    if not all(ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError("list origins such as https://app.example.com, without a path")
    return tuple(origins)


# Web origins from an environment variable: https://app.example.com, https://other.example.com
WebOrigins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_origins)]


class ServiceSettings(BaseSettings):
    """Settings; each field is the environment variable of the same name in capitals.

    An empty variable counts as absent, and white space around a value is
    stripped: files of secrets and of containers often have both.
    """

    model_config = SettingsConfigDict(env_ignore_empty=True, str_strip_whitespace=True)

    nats_url: str = "nats://127.0.0.1:4222"
    # File with the password of the service's own user, instead of one in the URL.
    nats_password_file: Path | None = None
    # File with the certificates of the bus's authorities; with it, or a URL that begins with
    # tls://, the bus is used over TLS only.
    nats_ca_file: Path | None = None
    log_level: str = "INFO"
    # Servers that hold each stream; 3 where NATS is a cluster of three.
    stream_replicas: Annotated[int, Field(ge=1, le=5)] = 1
    # The collector of traces, and the share of requests that are traced.
    otel_exporter_otlp_endpoint: str | None = None
    otel_traces_sampler_arg: Annotated[float, Field(ge=0, le=1)] = 0.01
    # Port that serves `/livez`, `/readyz` and `/metrics`.
    probe_port: Annotated[int, Field(ge=1, le=65_535)] | None = None

    @classmethod
    def from_environment(cls) -> Self:
        """Read the settings, or exit with a sentence for each invalid variable.

        The values are not printed: some of them are passwords.
        """
        try:
            return cls()
        except ValidationError as error:
            for fault in error.errors():
                name = "_".join(str(part) for part in fault["loc"]).upper()
                print(f"{name}: {fault['msg']}", file=sys.stderr)  # noqa: T201  (no log yet)
            raise SystemExit(2) from None
