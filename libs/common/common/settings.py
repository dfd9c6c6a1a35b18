"""What every service needs to know, read from the environment."""

import sys
from typing import Self

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """Each field is the environment variable of the same name, in capitals.

    An empty one counts as absent, and white space around a value as nothing:
    that is how files of secrets and of containers leave them.
    """

    model_config = SettingsConfigDict(env_ignore_empty=True, str_strip_whitespace=True)

    nats_url: str = "nats://127.0.0.1:4222"
    log_level: str = "INFO"

    @classmethod
    def from_environment(cls) -> Self:
        """Read them, or end the process with a sentence for each that is wrong.

        The values are not printed: some of them are passwords.
        """
        try:
            return cls()
        except ValidationError as error:
            for fault in error.errors():
                name = "_".join(str(part) for part in fault["loc"]).upper()
                print(f"{name}: {fault['msg']}", file=sys.stderr)  # noqa: T201  (no log yet)
            raise SystemExit(2) from None
