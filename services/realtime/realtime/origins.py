"""The web origins whose pages may open a socket."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit


class Origins:
    """Allowed origins: the public one, the socket's own host, and those of a list."""

    def __init__(self, public_url: str, allowed: Sequence[str] = ()) -> None:
        self.allowed = frozenset((origin(public_url), *allowed))

    def allow(self, requested: str, environ: dict[str, Any]) -> bool:
        """Whether a page of the origin `requested` may connect to the host in `environ`."""
        host = environ.get("HTTP_HOST", "")
        try:
            return requested in self.allowed or (bool(host) and urlsplit(requested).netloc == host)
        except ValueError:  # not an address
            return False


def origin(url: str) -> str:
    """Return the origin of a URL: scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()
