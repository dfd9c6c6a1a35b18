from ipaddress import IPv4Network, IPv6Network
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from common.encryption import EncryptionKeys
from common.settings import ServiceSettings

Network = IPv4Network | IPv6Network


class WebhookSettings(ServiceSettings):
    database_url: str
    # Webhooks that one account may have.
    max_webhooks: Annotated[int, Field(ge=1)] = 10
    # Deliveries that may wait for one webhook; what happens beyond is not posted to it.
    max_waiting_deliveries: Annotated[int, Field(ge=1)] = 10_000
    # Inner networks that webhooks may reach, by http too; comma separated, none by default.
    webhook_networks: Annotated[tuple[Network, ...], NoDecode] = ()
    # Keys that encrypt webhooks' secrets in the database, separated by commas; the first encrypts,
    # all decrypt. Empty: secrets are stored as they are.
    encryption_keys: EncryptionKeys = ()
    # How long what happened, and the log of its deliveries, is kept, in days.
    webhook_log_days: Annotated[int, Field(ge=2)] = 30

    @field_validator("webhook_networks", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value
