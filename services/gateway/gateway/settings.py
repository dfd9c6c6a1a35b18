from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from common.encryption import Encryption, EncryptionKeys
from common.settings import ServiceSettings, WebOrigins


class GatewaySettings(ServiceSettings):
    database_url: str
    http_host: str = "127.0.0.1"
    http_port: int = 8000
    # Where callers reach the service; shown in the pages and the documentation.
    public_url: str = "http://127.0.0.1:8080"
    # Other origins whose pages may call the API, separated by commas: https://app.example.com
    allowed_origins: WebOrigins = ()
    # Per account: requests, and generations among them, in any minute.
    rate_api: int = 100
    rate_generate: int = 10
    # New accounts from one address in any minute.
    rate_register: int = 20
    # Password reset links requested from one address in any minute.
    rate_reset: int = 10
    # Wrong passwords for one account from one address in any minute.
    rate_login: int = 10
    # Server that mails password reset links: smtp://, smtp+starttls:// or smtps://, with user and
    # password. Empty: an operator prints them with `python -m gateway.recovery`.
    smtp_url: str = ""
    # Sender of those mails.
    smtp_from: str = "lilypad@localhost"
    # Keys that encrypt accounts' secrets in the database, separated by commas; the first encrypts,
    # all decrypt. `python -m common.encryption` prints a new one.
    encryption_keys: EncryptionKeys = ()
    # How many gateways share a limit while the bus, which counts for all of them, is unavailable.
    replicas: int = 2
    # Requests under way at once, in all and of one account; beyond that the answer is 503.
    max_requests: int = 512
    max_requests_per_account: int = 128
    # Ages at which rows of the audit, and keys that were revoked, are deleted.
    audit_retention_days: Annotated[int, Field(ge=1)] = 400
    key_retention_days: Annotated[int, Field(ge=1)] = 400

    @field_validator("smtp_url")
    @classmethod
    def _is_smtp(cls, url: str) -> str:
        if url and urlsplit(url).scheme not in {"smtp", "smtp+starttls", "smtps"}:
            raise ValueError("use smtp://, smtp+starttls:// or smtps://, such as smtp://host:587")
        return url

    @field_validator("public_url")
    @classmethod
    def _without_slash(cls, url: str) -> str:
        return url.rstrip("/")

    def encryption(self) -> Encryption:
        return Encryption.from_settings(self.encryption_keys)
