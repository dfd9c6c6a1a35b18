"""Passwords and keys, created once in a file that only its owner can read."""

import base64
import json
import os
import secrets
from pathlib import Path


class Credentials:
    """The passwords of a stack, by name (`nats/gateway`, `postgres/gateway`).

    They live in one JSON file; a name that is asked for the first time gets a
    password then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._passwords: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}

    def password(self, name: str) -> str:
        if name not in self._passwords:
            # The letter in front: NATS would read digits in its configuration as a number.
            self._passwords[name] = f"p{secrets.token_hex(16)}"
            self._save()
        return self._passwords[name]

    def key(self, name: str) -> str:
        """Return a Fernet key, created once like a password."""
        if name not in self._passwords:
            self._passwords[name] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
            self._save()
        return self._passwords[name]

    def all(self) -> list[str]:
        return list(self._passwords.values())

    def _save(self) -> None:
        new = self.path.with_suffix(".new")
        new.unlink(missing_ok=True)
        new.touch(mode=0o600, exist_ok=False)
        with new.open("w") as file:
            json.dump(self._passwords, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        new.rename(self.path)
