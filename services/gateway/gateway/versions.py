"""Versions of the API, and the deprecation of their parts."""

from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import Literal

Version = Literal["v1", "v2"]

# /api is the same as /v1/api.
PREFIXES: dict[str, Version] = {"/v1/api": "v1", "/api": "v1", "/v2/api": "v2"}


@dataclass(frozen=True)
class Deprecation:
    """A deprecation at `since`, with removal at `sunset` (UTC); `link` names the replacement."""

    since: datetime
    sunset: datetime
    link: str

    def to_headers(self) -> list[tuple[bytes, bytes]]:
        """Return `Deprecation` (RFC 9745), `Sunset` (RFC 8594) and `Link`."""
        return [
            (b"deprecation", f"@{int(self.since.timestamp())}".encode()),
            (b"sunset", format_datetime(self.sunset, usegmt=True).encode()),
            (b"link", f'<{self.link}>; rel="deprecation"; type="text/html"'.encode()),
        ]


# By method, path below the prefix, and version. Empty at present.
DEPRECATED: dict[tuple[str, str, Version], Deprecation] = {}
