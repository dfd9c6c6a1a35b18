"""Backups of a stack's home: the database, the streams, and the passwords and keys that open them.

A backup is a folder with a dump of PostgreSQL (`database.dump`), a snapshot of each stream, the
file `secrets`, and `manifest.json`, which lists these files. The stack may serve meanwhile: all
that was acknowledged before the backup is in it.
"""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import nats.errors
import psycopg

from local import streams
from local.credentials import Credentials
from local.nats import Nats
from local.postgres import DATABASE, SUPERUSER, Postgres, binaries
from local.process import CannotStart
from local.services import SERVICES
from local.stack import PORTS, AlreadyRuns, Stack

SERVERS = ("postgres", "nats")
# A home's data, in the order of a restore: without `secrets`, the database cannot be opened.
RESTORED = ("postgres", "nats", "secrets")
# In a backup: the size of each other file, in bytes, by its path. It is written last.
MANIFEST = "manifest.json"


class Failed(Exception):
    """A failed backup or restore; the message has the cause and what to do."""


@contextmanager
def _explained() -> Iterator[None]:
    """Raise expected errors as `Failed`."""
    try:
        yield
    except (CannotStart, streams.Refused, psycopg.Error) as error:
        raise Failed(str(error).strip()) from error
    except (nats.errors.Error, TimeoutError) as error:
        raise Failed(f"NATS does not answer: {error}") from error
    except json.JSONDecodeError as error:
        raise Failed(f"`secrets` is damaged: {error}") from error
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise Failed(what) from error


@_explained()
def save(home: Path, folder: Path) -> None:
    """Back up a home into a new folder, whether or not its stack runs.

    Raises:
        Failed: with a sentence that says why; then there is no such folder.
    """
    home = home.resolve()
    if not (home / "postgres").exists():
        raise Failed(f"there is nothing to back up in {home}; set LILYPAD_HOME")
    if not (home / "secrets").exists():
        raise Failed(f"{home / 'secrets'} is missing; without it, nothing opens the database")
    if folder.exists():
        raise Failed(f"{folder} exists; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = _beside(folder)
    try:
        try:
            stack = Stack(home, servers=SERVERS, services=())
            stack.claim()
        except AlreadyRuns:
            _save(*_running(home), new)
        else:
            with stack:
                _save(stack.postgres, stack.nats, new)
        shutil.copy2(home / "secrets", new / "secrets")
        (new / MANIFEST).write_text(json.dumps(_sizes(new), indent=1))
        new.rename(folder)
    except BaseException:
        shutil.rmtree(new)
        raise


@_explained()
def restore(folder: Path, home: Path) -> None:
    """Restore a backup into a home that is new or contains only caches.

    Raises:
        Failed: with a sentence that says why; then the home is as it was.
    """
    _check(folder)
    if held := [name for name in RESTORED if (home / name).exists()]:
        raise Failed(
            f"{home / held[0]} exists; move {home} away, or set LILYPAD_HOME to a new folder"
        )
    created = not home.exists()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Inside the home, which may be a file system of its own.
    new = Path(tempfile.mkdtemp(prefix=".restored-", dir=home))
    try:
        shutil.copy2(folder / "secrets", new / "secrets")
        with Stack(new, servers=SERVERS, services=()) as stack:
            stack.postgres.create_schemas([s.name for s in SERVICES if s.database])
            options = ["--clean", "--if-exists", "--exit-on-error", "--single-transaction"]
            _postgres(
                stack.postgres, "pg_restore", *options, "-d", DATABASE, folder / "database.dump"
            )
            url = stack.nats.url("supervisor")
            asyncio.run(streams.restore(url, folder / "streams"))
        for name in RESTORED:
            (new / name).rename(home / name)
    finally:
        shutil.rmtree(new)
        if created and not any(home.iterdir()):
            home.rmdir()


@_explained()
def holds_encryption_keys(folder: Path) -> bool:
    """Return whether a backup has all encryption keys; keys in ENCRYPTION_KEYS are not saved."""
    secrets: dict[str, str] = json.loads((folder / "secrets").read_text())
    return "encryption" in secrets and not os.environ.get("ENCRYPTION_KEYS")


def _check(folder: Path) -> None:
    """Raise Failed unless a backup has all its files, complete."""
    if not (folder / MANIFEST).exists():
        raise Failed(f"{folder} is no complete backup: it has no {MANIFEST}")
    try:
        sizes = dict(json.loads((folder / MANIFEST).read_bytes()))
    except (TypeError, ValueError):
        raise Failed(f"{folder} is no complete backup: {MANIFEST} is damaged") from None
    there = _sizes(folder)
    if wrong := sorted(name for name, size in sizes.items() if there.get(name) != size):
        raise Failed(
            f"{folder} is no complete backup: {', '.join(wrong)} missing or not of the size in"
            f" {MANIFEST}"
        )


def _sizes(folder: Path) -> dict[str, int]:
    return {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _beside(folder: Path) -> Path:
    """Create a temporary folder that is renamed to `folder` once complete."""
    return Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))


def _running(home: Path) -> tuple[Postgres, Nats]:
    """Return the servers of the stack that runs from a home."""
    try:
        ports = json.loads((home / PORTS).read_text())
    except (FileNotFoundError, ValueError):
        raise Failed(
            f"{home / PORTS} does not tell where its servers listen; try again once it serves, or"
            " stop it first"
        ) from None
    credentials = Credentials(home / "secrets")
    return (
        Postgres(home / "postgres", ports["postgres"], credentials),
        Nats(home / "nats", ports["nats"], credentials),
    )


def _save(postgres: Postgres, bus: Nats, new: Path) -> None:
    (new / "streams").mkdir()
    _postgres(postgres, "pg_dump", "--format=custom", "-f", new / "database.dump", DATABASE)
    asyncio.run(streams.save(bus.url("supervisor"), new / "streams"))


def _postgres(postgres: Postgres, program: str, *arguments: str | Path) -> None:
    url = urlsplit(postgres.url())
    environment = {
        "PGHOST": str(url.hostname),
        "PGPORT": str(url.port),
        "PGUSER": SUPERUSER,
        "PGPASSWORD": str(url.password),
        "LC_ALL": "C",
    }
    command = [binaries() / program, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{program} failed:\n{done.stderr.strip()}")
