"""Encryption of secrets in the database, with the operator's keys.

Fernet (AES-128-CBC with HMAC-SHA256). The first key encrypts, every key decrypts: a new key goes
in front, and an old one is dropped once nothing needs it.
"""

import sys
from collections.abc import Sequence
from typing import Annotated

import orjson
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from common.errors import Unavailable


class Encryption:
    """Encryption with the first of the Fernet `keys`, and decryption with any of them."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys]) if keys else None
        self._first = Fernet(keys[0]) if keys else None

    @classmethod
    def from_settings(cls, keys: "EncryptionKeys") -> "Encryption":
        """Return the encryption with the keys of a service's settings."""
        return cls([key.get_secret_value() for key in keys])

    @property
    def possible(self) -> bool:
        """Whether the operator has set any keys."""
        return self._fernet is not None

    def encrypt(self, text: str, owner: str) -> bytes:
        """Encrypt a text so that it decrypts only for its owner.

        Raises:
            Unavailable: the operator has set no keys.
        """
        if self._fernet is None:
            raise Unavailable(
                "this server cannot store secrets; its operator has to set ENCRYPTION_KEYS"
            )
        return self._fernet.encrypt(orjson.dumps([owner, text]))

    def decrypt(self, encrypted: bytes, owner: str, max_age_s: int | None = None) -> str | None:
        """Return the text; None if it is another owner's or too old, or cannot be read.

        Its key may have been dropped, or a newer version may have written it.
        """
        if self._fernet is None:
            return None
        try:
            found_owner, text = orjson.loads(self._fernet.decrypt(encrypted, max_age_s))
        except (InvalidToken, ValueError, TypeError):
            return None
        return str(text) if found_owner == owner else None

    def is_current(self, encrypted: bytes) -> bool:
        """Return whether the text was encrypted with the first key."""
        if self._first is None:
            return False
        try:
            self._first.decrypt(encrypted)
        except InvalidToken:
            return False
        return True

    def renew(self, encrypted: bytes) -> bytes | None:
        """Re-encrypt a text with the first key, for the same owner; None if no key decrypts it."""
        if self._fernet is None:
            return None
        try:
            return self._fernet.rotate(encrypted)
        except InvalidToken:
            return None


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    keys = tuple(key.strip() for key in value.split(",") if key.strip())
    try:
        Encryption(keys)
    except ValueError:
        raise ValueError("list keys that python -m common.encryption has printed") from None
    return keys


# A setting: keys separated by commas.
EncryptionKeys = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)]


if __name__ == "__main__":
    sys.stdout.write(Fernet.generate_key().decode() + "\n")
