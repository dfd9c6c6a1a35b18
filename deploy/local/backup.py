"""Backups of a stack's home: the database, the streams, and the passwords and keys that open them.

A backup is a folder with a dump of PostgreSQL (`database.dump`), a snapshot of each stream and the
file `secrets`. The stack may serve meanwhile: all that was acknowledged before the backup is in it.
"""

import asyncio
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

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


def save(home: Path, folder: Path) -> None:
    """Back a home up into a new folder, whether its stack runs or not.

    Raises:
        CannotStart: with a sentence that says why; then there is no such folder.
    """
    home = home.resolve()
    if not (home / "postgres").exists():
        raise CannotStart(f"there is nothing to back up in {home}; set LILYPAD_HOME")
    if folder.exists():
        raise CannotStart(f"{folder} exists; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = _beside(folder)
    try:
        try:
            stack = Stack(home, servers=SERVERS, services=())
            stack.claim()
        except AlreadyRuns:
            postgres, nats = _running(home)
            _save(postgres, nats, new)
        else:
            with stack:
                _save(stack.postgres, stack.nats, new)
        shutil.copy2(home / "secrets", new / "secrets")
        new.rename(folder)
    except BaseException:
        shutil.rmtree(new)
        raise


def restore(folder: Path, home: Path) -> None:
    """Restore a backup into a home without data: a new one, or one that holds caches alone.

    Raises:
        CannotStart: with a sentence that says why; then the home is as it was.
    """
    if not (folder / "database.dump").exists():
        raise CannotStart(f"{folder} is no backup: it has no database.dump")
    if held := [name for name in RESTORED if (home / name).exists()]:
        raise CannotStart(
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


def _beside(folder: Path) -> Path:
    """Create a folder that becomes `folder` at the end, so that an incomplete one is never used."""
    return Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))


def _running(home: Path) -> tuple[Postgres, Nats]:
    """Return the servers of the stack that runs from a home."""
    ports = json.loads((home / PORTS).read_text())
    credentials = Credentials(home / "secrets")
    return (
        Postgres(home / "postgres", ports["postgres"], credentials),
        Nats(home / "nats", ports["nats"], credentials),
    )


def _save(postgres: Postgres, nats: Nats, new: Path) -> None:
    (new / "streams").mkdir()
    _postgres(postgres, "pg_dump", "--format=custom", "-f", new / "database.dump", DATABASE)
    asyncio.run(streams.save(nats.url("supervisor"), new / "streams"))


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
        raise CannotStart(f"{program} failed:\n{done.stderr.strip()}")
