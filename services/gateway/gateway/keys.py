"""API keys: `lmg_live_` + 30 base62 digits + their CRC32 as 6 base62 digits.

30 base62 digits are 178 bits, far beyond guessing, so a fast hash is enough
to store them; the checksum lets anyone, the gateway first of all, tell a
mistyped key from an unknown one without a database (the design of GitHub's
tokens).
"""

import hashlib
import re
import secrets
import string
import zlib

DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
PREFIX = "lmg_live_"
SCOPES = ("generate", "benchmark", "monitor:read", "monitor:write")

_FORM = re.compile(rf"{PREFIX}([0-9A-Za-z]{{30}})([0-9A-Za-z]{{6}})")


def make_key() -> str:
    body = "".join(secrets.choice(DIGITS) for _ in range(30))
    return f"{PREFIX}{body}{_checksum(body)}"


def is_well_formed(key: str) -> bool:
    match = _FORM.fullmatch(key)
    return match is not None and _checksum(match[1]) == match[2]


def fault(text: str) -> str:
    """Return why a text is not an API key, without quoting it."""
    if not text:
        return f"no API key after `Bearer`; send Authorization: Bearer {PREFIX}..."
    if not text.startswith(PREFIX):
        if PREFIX in text:
            return f"send the API key alone, from {PREFIX} on, without quotes or brackets"
        return (
            f"not an API key of this service: keys start with {PREFIX};"
            " create one with POST /v1/api/keys or in the dashboard"
        )
    return "the API key is incomplete or mistyped; copy the whole key"


def hash_key(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def shown_prefix(key: str) -> str:
    """Return the first characters of a key, which identify it in lists."""
    return key[: len(PREFIX) + 6]


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    digits = ""
    for _ in range(6):
        number, rest = divmod(number, 62)
        digits = DIGITS[rest] + digits
    return digits
