"""Settings of every service, read from the environment."""

import re
import sys
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AnyHttpUrl, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

# What a URL's host consists of besides an IPv6 address; a wildcard matches no browser's origin.
HOST = re.compile(r"[a-z0-9._-]+|\[.+\]")


def split_origins(value: object) -> object:
    """Split a comma-separated list of web origins, each written as browsers send it."""
    if not isinstance(value, str):
        return value
    return tuple(_origin(part.strip()) for part in value.split(",") if part.strip())


def _origin(text: str) -> str:
    try:
        url = AnyHttpUrl(text)
    except ValidationError:
        url = None
    origin = str(url).rstrip("/")
    if (
        url is None
        or not HOST.fullmatch(url.host or "")
        or origin.count("/") != 2
        or any(mark in text for mark in "@?#\\")
    ):
        raise ValueError("list origins such as https://app.example.com, without a path or *")
    return origin


# Web origins from an environment variable: https://app.example.com, https://other.example.com
WebOrigins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_origins)]
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
    BeforeValidator(lambda level: level.strip().upper() if isinstance(level, str) else level),
]


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
    log_level: LogLevel = "INFO"
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
