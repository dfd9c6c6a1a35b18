"""Storage for the key of `lilypad login`: the system's keyring, or else a file."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lilypad_client.errors import LilypadError

KEYRING_SERVICE = "lilypad"
# More bytes than an address and a key take.
ROOM_BYTES = 4096
# On Linux, no keyring is reachable without one of these, and looking for one takes 100 ms.
KEYRING_VARIABLES = ("DBUS_SESSION_BUS_ADDRESS", "PYTHON_KEYRING_BACKEND")


def path() -> Path:
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(folder) / "lilypad" / "credentials.json"


class DamagedFileError(LilypadError):
    advice = "lilypad logout, then: lilypad login --email EMAIL --password-stdin"


def save(url: str, key: str) -> str:
    """Store the key; return its location."""
    in_keyring = _save_in_keyring(url, key)
    stored: dict[str, Any] = {"url": url} if in_keyring else {"url": url, "key": key}
    with _part() as part:
        part.write_text(json.dumps(stored))
        part.replace(path())
    return "the system's keyring" if in_keyring else str(path())


def check() -> None:
    """Raise OSError if `save` would fail, so that no new key is lost."""
    with _part() as part:
        part.write_bytes(bytes(ROOM_BYTES))


@contextlib.contextmanager
def _part() -> Iterator[Path]:
    """Create an empty temporary file next to the stored one, readable by its owner only."""
    import tempfile  # noqa: PLC0415  (slow to import)

    folder = path().parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".credentials-", suffix=".part")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def forget() -> str | None:
    """Delete the stored key; return its service's address, None if none could be read."""
    try:
        stored = _read()
    except DamagedFileError:
        path().unlink()
        return None
    if stored is None:
        return None
    url: str = stored["url"]
    ring = _keyring()
    if ring is not None:
        with contextlib.suppress(ring.errors.KeyringError):  # the keyring has no such key
            ring.delete_password(KEYRING_SERVICE, url)
    path().unlink()
    return url


def load() -> tuple[str | None, str | None]:
    """Return address and key; LILYPAD_BASE_URL and LILYPAD_API_KEY take precedence."""
    url, key = os.environ.get("LILYPAD_BASE_URL"), os.environ.get("LILYPAD_API_KEY")
    if key:
        return url, key
    stored = _read()
    if stored is None:
        return url, None
    if url and url.rstrip("/") != stored["url"].rstrip("/"):
        return url, None  # a key is valid only for the service that created it
    return stored["url"], stored.get("key") or _load_from_keyring(stored["url"])


def _read() -> dict[str, str] | None:
    try:
        stored: dict[str, str] = json.loads(path().read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DamagedFileError(f"cannot read {path()}: {error}") from error
    if not (isinstance(stored, dict) and isinstance(stored.get("url"), str)):
        raise DamagedFileError(f"{path()} does not name a service")
    if not isinstance(stored.get("key", ""), str):
        raise DamagedFileError(f"{path()} holds no key")
    return stored


def _save_in_keyring(url: str, key: str) -> bool:
    ring = _keyring()
    if ring is None:
        return False
    try:
        ring.set_password(KEYRING_SERVICE, url, key)
    except ring.errors.KeyringError:  # locked, and cannot be unlocked here
        return False
    return True


def _load_from_keyring(url: str) -> str | None:
    ring = _keyring()
    if ring is None:
        return None
    try:
        key: str | None = ring.get_password(KEYRING_SERVICE, url)
    except ring.errors.KeyringError as error:
        raise LilypadError(f"cannot read the key from the keyring: {error}") from error
    return key


def _keyring() -> Any:
    """Return the keyring module; None if it or a keyring is missing."""
    if sys.platform == "linux" and not os.environ.keys() & set(KEYRING_VARIABLES):
        return None
    try:
        import keyring  # noqa: PLC0415  (optional, and slow to import)
    except ImportError:
        return None
    return keyring if keyring.get_keyring().priority >= 1 else None
