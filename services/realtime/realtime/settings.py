from common.settings import ServiceSettings, WebOrigins


class RealtimeSettings(ServiceSettings):
    http_host: str = "127.0.0.1"
    http_port: int = 8001
    # The origin of our own pages; they may connect, as may pages of the socket's own host.
    public_url: str = "http://127.0.0.1:8080"
    # Other origins whose pages may connect, separated by commas: https://app.example.com
    allowed_origins: WebOrigins = ()
