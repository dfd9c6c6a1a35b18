from pydantic import field_validator

from common.settings import ServiceSettings


class GatewaySettings(ServiceSettings):
    database_url: str
    http_host: str = "127.0.0.1"
    http_port: int = 8000
    # Where callers reach the service; shown in the pages and the documentation.
    public_url: str = "http://127.0.0.1:8080"
    # Per account: requests, and generations among them, in any minute.
    rate_api: int = 100
    rate_generate: int = 10
    # New accounts from one address in any minute.
    rate_register: int = 20
    # Wrong passwords for one account from one address in any minute.
    rate_login: int = 10
    # How many gateways share a limit while the bus, which counts for all of them, is away.
    replicas: int = 2
    # Requests under way at once, in all and of one account; beyond that the answer is 503.
    most_at_once: int = 512
    most_at_once_per_account: int = 128

    @field_validator("public_url")
    @classmethod
    def _without_slash(cls, url: str) -> str:
        return url.rstrip("/")
