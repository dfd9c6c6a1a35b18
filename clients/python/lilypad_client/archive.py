"""Module archives: stored only if complete, extracted only if safe."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from lilypad_client.errors import ArchiveError

if TYPE_CHECKING:
    from typing import IO

# A module has six small files.
MAX_FILES, MAX_BYTES = 100, 50_000_000
CHUNK_BYTES = 1 << 18
SYMLINK, KIND = 0o120000, 0o170000
ENCRYPTED = 1
# What zipfile raises for an archive that is damaged, or that another method compressed.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError)


def check_digest(file: IO[bytes], etag: str) -> None:
    """Raise ArchiveError unless the file's SHA-256 digest is the one in the `ETag`."""
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    if etag != f'"{digest.hexdigest()}"':
        raise ArchiveError("the archive is incomplete or was changed: its digest differs")


def extract(archive: str | Path, folder: str | Path) -> Path:
    """Extract a module's archive; an invalid archive leaves no file.

    Raises:
        ArchiveError: a path leaves the folder, a file is a link or there twice, or there is
            more in it than a module has.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".lilypad-") as private:
        # With the caller's umask, which the folder gets too.
        temporary = Path(private, "module")
        temporary.mkdir()
        with Path(archive).open("rb") as file:
            contents = _read(file)
        for name, content in contents.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        if folder.exists():
            shutil.copytree(temporary, folder, dirs_exist_ok=True)
        else:
            temporary.rename(folder)
    return folder


def _read(file: IO[bytes]) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(file) as opened:
            return {entry.filename: opened.read(entry) for entry in _checked(opened)}
    except DAMAGE as error:
        raise ArchiveError(f"not a zip archive, or a damaged one: {error}") from error


def _checked(opened: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    entries = [entry for entry in opened.infolist() if not entry.is_dir()]
    if len(entries) > MAX_FILES:
        raise ArchiveError(f"the archive holds {len(entries)} files, more than {MAX_FILES}")
    # zipfile never reads more of an entry than its header states.
    if sum(entry.file_size for entry in entries) > MAX_BYTES:
        raise ArchiveError(f"the archive holds more than {MAX_BYTES} bytes")
    for entry in entries:
        path = PurePosixPath(entry.filename)
        if (
            not path.parts
            or path.is_absolute()
            or ".." in path.parts
            or "\\" in entry.filename
            or ":" in entry.filename
        ):
            raise ArchiveError(f"{entry.filename!r} would be written outside the folder")
        if entry.external_attr >> 16 & KIND == SYMLINK:
            raise ArchiveError(f"{entry.filename!r} is a link")
        if entry.flag_bits & ENCRYPTED:
            raise ArchiveError(f"{entry.filename!r} is encrypted")
        if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise ArchiveError(f"{entry.filename!r} is not compressed as a module is")
    files = [PurePosixPath(entry.filename.casefold()) for entry in entries]
    folders = {folder for file in files for folder in file.parents}
    if len(set(files)) < len(files) or folders.intersection(files):
        raise ArchiveError("the archive holds a file twice")
    return entries
