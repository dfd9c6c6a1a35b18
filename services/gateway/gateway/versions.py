"""The versions of the API, and which parts of them are on their way out."""

from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import Literal

Version = Literal["v1", "v2"]

# /api is the same thing as /v1/api.
PREFIXES: dict[str, Version] = {"/v1/api": "v1", "/api": "v1", "/v2/api": "v2"}


@dataclass(frozen=True)
class Deprecation:
    """Advised against since `since`, gone at `sunset` (both UTC); `link` says what to use."""

    since: datetime
    sunset: datetime
    link: str

    def to_headers(self) -> list[tuple[bytes, bytes]]:
        """`Deprecation` (RFC 9745), `Sunset` (RFC 8594) and a link."""
        return [
            (b"deprecation", f"@{int(self.since.timestamp())}".encode()),
            (b"sunset", format_datetime(self.sunset, usegmt=True).encode()),
            (b"link", f'<{self.link}>; rel="deprecation"; type="text/html"'.encode()),
        ]


# By method, path below the prefix, and version. At present nothing is.
DEPRECATED: dict[tuple[str, str, Version], Deprecation] = {}
