from ipaddress import IPv4Network, IPv6Network
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from common.encryption import EncryptionKeys
from common.settings import ServiceSettings

Network = IPv4Network | IPv6Network


class WebhookSettings(ServiceSettings):
    database_url: str
    # Max webhooks of one account.
    max_webhooks: Annotated[int, Field(ge=1)] = 10
    # Max waiting deliveries of one webhook; further events are not posted to it.
    max_waiting_deliveries: Annotated[int, Field(ge=1)] = 10_000
    # Private networks that webhooks may reach, also over http; comma separated, none by default.
    webhook_networks: Annotated[tuple[Network, ...], NoDecode] = ()
    # Keys that encrypt webhooks' secrets in the database, separated by commas; the first encrypts,
    # all decrypt. Empty: secrets are stored as they are.
    encryption_keys: EncryptionKeys = ()
    # Age at which events and the log of their deliveries are deleted, in days.
    webhook_log_days: Annotated[int, Field(ge=2)] = 30

    @field_validator("webhook_networks", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value
