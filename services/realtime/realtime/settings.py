from common.settings import ServiceSettings


class RealtimeSettings(ServiceSettings):
    http_host: str = "127.0.0.1"
    http_port: int = 8001
    # Where pages come from: the origin whose scripts may connect, besides the socket's own.
    public_url: str = "http://127.0.0.1:8080"
